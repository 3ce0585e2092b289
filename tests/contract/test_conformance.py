"""Every registered component passes every check; its other modes pass the checks that do not train."""

from __future__ import annotations

from worldlab.registry import load_registry
from worldlab.testing import parametrize_with_checks
from worldlab.testing.runner import as_subject

REGISTERED = [r for role in ("encoder", "dynamics", "decoder") for r in load_registry().registrations(role)]


@parametrize_with_checks(REGISTERED)
def test_component(subject, check):
    check(subject)


def test_something_is_registered_and_can_be_named():
    assert {"encoder", "dynamics", "decoder"} <= {r.role for r in REGISTERED}
    first = REGISTERED[0]
    assert as_subject(f"{first.role}:{first.name}").choice.cls is first.load()
