"""The declared abilities of a component, read from a built instance: some depend on settings and observations."""

from __future__ import annotations

from typing import Any

from worldlab.errors import PluginError, one_line
from worldlab.interfaces import Component, Dynamics, ParallelDynamics
from worldlab.registry import Registration
from worldlab.registry.faults import where
from worldlab.testing.bench import Subject
from worldlab.testing.checks import CheckFailure, NotApplicable
from worldlab.testing.runner import modes

ABILITIES = {
    "encoder": ("posterior_kind", "uses_memory"),
    "dynamics": ("prior_kind", "reparameterised"),
    "decoder": ("score_kind", "likelihood", "renders"),
}
"""The attributes that declare abilities, by role."""


def abilities_of(registration: Registration) -> dict[str, Any]:
    """Return the abilities of a component in its small configuration, with image observations if it supports them.

    Agents, environments and launchers have none: {}.
    Raises: PluginError if the component cannot be imported or built, or does not implement its role.
    """
    if registration.role not in ABILITIES:
        registration.load()
        return {}
    part = _build(registration)
    abilities = {name: getattr(part, name) for name in ABILITIES[registration.role] if hasattr(part, name)}
    return {**abilities, "parallel": isinstance(part, ParallelDynamics)} if isinstance(part, Dynamics) else abilities


def _build(registration: Registration) -> Component:
    _, subject = next(modes(registration))
    assert isinstance(subject, Subject), "a role with abilities is a part of the world model"
    try:
        try:
            return subject.bench("image").part
        except NotApplicable:
            return subject.bench().part
    except CheckFailure as exc:  # it supports no observation, or cannot be built
        raise PluginError(one_line(f"{registration.who} {exc.message}"), fix=exc.fix) from exc
    except (Exception, SystemExit) as exc:  # a plugin may raise anything
        raise PluginError(
            one_line(f"{registration.who} cannot be built: {type(exc).__name__}: {exc}"),
            cause=f"{registration.target}, at {where(exc)}",
            fix=f"worldlab check-plugin {registration.role}:{registration.name}",
        ) from exc
