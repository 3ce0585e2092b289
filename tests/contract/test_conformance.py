"""Every registered component passes every check; its other modes pass those that train nothing."""

from __future__ import annotations

import pytest

from worldlab.registry import load_registry
from worldlab.testing import checks_for, modes, parametrize_with_checks
from worldlab.testing.checks import evaluate
from worldlab.testing.runner import as_subject

REGISTERED = [r for role in ("encoder", "dynamics", "decoder") for r in load_registry().registrations(role)]


@parametrize_with_checks(REGISTERED)
def test_component(subject, check):
    check(subject)


def _modes():
    for registration in REGISTERED:
        for mode, subject in modes(registration):
            if mode:
                yield pytest.param(subject, id=subject.label)


@pytest.mark.parametrize("subject", list(_modes()))
def test_mode(subject):
    found = [evaluate(c, subject) for c in checks_for(subject.role) if not c.slow]
    assert not [f"{r.check}: {r.cause}" for r in found if not r.passed]


def test_something_is_registered_and_can_be_named():
    assert {"encoder", "dynamics", "decoder"} <= {r.role for r in REGISTERED}
    first = REGISTERED[0]
    assert as_subject(f"{first.role}:{first.name}").choice.cls is first.load()
