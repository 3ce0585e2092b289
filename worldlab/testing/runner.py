"""Run the checks on a class, a registered component or a whole mix, without pytest."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from worldlab.config import Config
from worldlab.errors import PluginError, one_line
from worldlab.interfaces import Component, Decoder, Dynamics, Encoder
from worldlab.registry import Registration, load_registry
from worldlab.testing.bench import Choice, Mix, Subject, reference_mix
from worldlab.testing.checks import Result, checks_for, evaluate
from worldlab.testing.sizes import small_config

Named = str | Registration | type[Component] | Subject
"""What can be named: "encoder:vae", a registration, a class, or a subject made before."""

_ROLES: dict[str, type[Component]] = {"encoder": Encoder, "dynamics": Dynamics, "decoder": Decoder}


def make_subject(role: str, cls: type[Component], config: Config | None = None, label: str = "") -> Subject:
    """A component among reference partners. config: small_config of its class if None.

    Raises: PluginError if role is none of encoder, dynamics, decoder.
    """
    if role not in _ROLES:
        raise PluginError(one_line(f"no checks for the role {role!r}"), fix=f"roles: {', '.join(_ROLES)}")
    choice = Choice(cls, small_config(cls.Config) if config is None else config)
    kinds = ("gaussian",) if role == "encoder" else ("gaussian", "point", "categorical")
    mixes = tuple(replace(reference_mix(kind=kind), **{role: choice}) for kind in kinds)
    return Subject(role, label or f"{role}-{cls.__name__}", mixes)


def mix_subject(encoder: Choice, dynamics: Choice, decoder: Choice, label: str) -> Subject:
    """A whole world model as a subject."""
    return Subject("world_model", label, (Mix(encoder, dynamics, decoder),))


def as_subject(component: Named) -> Subject:
    """Look up what was named. Raises: PluginError if nothing of that name is installed or the class has no role."""
    if isinstance(component, Subject):
        return component
    if isinstance(component, str):
        role, _, name = component.partition(":")
        component = load_registry().get(role, name)
    if isinstance(component, Registration):
        config = None if component.config is None else small_config(component.config)
        label = f"{component.role}-{component.name}"
        return replace(make_subject(component.role, component.load(), config, label), registration=component)
    for role, base in _ROLES.items():
        if issubclass(component, base):
            return make_subject(role, component)
    raise PluginError(
        one_line(f"{component.__name__} is neither an Encoder nor a Dynamics nor a Decoder"),
        fix="implement one of the three roles of worldlab.interfaces",
    )


def run_checks(
    role: str, cls: type[Component], config: Config | None = None, *, only: Collection[str] | None = None
) -> list[Result]:
    """Run a role's checks on a class. config: small sizes by default. only: ids of the checks to run.

    Returns one Result a check, in order; nothing a component raises escapes. Raises: PluginError for an unknown role.
    """
    return _run(make_subject(role, cls, config), only)


def check_component(registration: Registration, *, only: Collection[str] | None = None) -> list[Result]:
    """Run the checks on a registered component with a small configuration.

    Raises: PluginError if its module cannot be imported or its role has no checks.
    """
    return _run(as_subject(registration), only)


def check_mix(
    encoder: Choice, dynamics: Choice, decoder: Choice, *, only: Collection[str] | None = None
) -> list[Result]:
    """Run the world-model checks on three choices."""
    return _run(mix_subject(encoder, dynamics, decoder, "world_model"), only)


def _run(subject: Subject, only: Collection[str] | None) -> list[Result]:
    return [evaluate(c, subject) for c in checks_for(subject.role) if only is None or c.id in only]
