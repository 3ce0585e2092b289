"""Every registered component passes every check; its other modes pass the checks that do not train."""

from __future__ import annotations

from worldlab_envs.package_adapter import PackageAdapter, installed

from worldlab.registry import load_registry
from worldlab.testing import parametrize_with_checks
from worldlab.testing.env_subject import EnvSubject
from worldlab.testing.runner import as_subject

REGISTRY = load_registry()
REGISTERED = [r for role in ("encoder", "dynamics", "decoder") for r in REGISTRY.registrations(role)]
AGENTS = [r for r in REGISTRY.registrations("agent") if not r.variant_of]
"""A variant is a mode of the agent that it varies."""
CHEAP = {"gymnasium": "CartPole", "atari": "atari:pong"}
"""The environment of an adapter, where the first of its names takes seconds to build."""


def adapters():
    for entry in REGISTRY.registrations("env"):
        subject = as_subject(entry)
        assert isinstance(subject, EnvSubject)
        if not isinstance(subject.adapter, PackageAdapter) or installed(subject.adapter.package):
            yield EnvSubject(subject.label, subject.adapter, CHEAP.get(entry.name, ""))


@parametrize_with_checks(REGISTERED)
def test_component(subject, check):
    check(subject)


@parametrize_with_checks(AGENTS)
def test_agent(subject, check):
    check(subject)


@parametrize_with_checks(adapters())
def test_adapter(subject, check):
    check(subject)


@parametrize_with_checks(["launcher:local"])  # tests/plugins/test_launchers_ray.py checks the other on its cluster
def test_launcher(subject, check):
    check(subject)


@parametrize_with_checks(["tracker:csv", "tracker:tensorboard"])  # tests/plugins/test_trackers.py checks the others
def test_tracker(subject, check):
    check(subject)


def test_something_is_registered_and_can_be_named():
    assert {"encoder", "dynamics", "decoder"} <= {r.role for r in REGISTERED}
    first = REGISTERED[0]
    assert as_subject(f"{first.role}:{first.name}").choice.cls is first.load()
    assert {"random", "dreamer", "planner"} <= {r.name for r in AGENTS}
