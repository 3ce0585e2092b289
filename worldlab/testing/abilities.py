"""What a component declares it can do, read off one that is built: some abilities depend on settings and observations."""

from __future__ import annotations

from typing import Any

from worldlab.errors import PluginError, one_line
from worldlab.interfaces import Component, Dynamics, ParallelDynamics
from worldlab.registry import Registration
from worldlab.registry.discovery import where
from worldlab.testing.checks import CheckFailure, NotApplicable
from worldlab.testing.runner import modes

ABILITIES = {
    "encoder": ("posterior_kind", "uses_memory"),
    "dynamics": ("prior_kind", "reparameterised"),
    "decoder": ("score_kind", "likelihood", "renders"),
}
"""What is declared, by role."""


def abilities_of(registration: Registration) -> dict[str, Any]:
    """The abilities of a component with its default choices, for pictures where it takes them; {} for agents and envs.

    Raises: PluginError if it cannot be imported or built, or does not implement its role.
    """
    if registration.role not in ABILITIES:
        registration.load()
        return {}
    part = _built(registration)
    found = {name: getattr(part, name) for name in ABILITIES[registration.role] if hasattr(part, name)}
    return {**found, "parallel": isinstance(part, ParallelDynamics)} if isinstance(part, Dynamics) else found


def _built(registration: Registration) -> Component:
    _, subject = next(modes(registration))
    try:
        try:
            return subject.bench("image").part
        except NotApplicable:
            return subject.bench().part
    except CheckFailure as exc:  # it refuses everything
        raise PluginError(one_line(f"{registration.who} {exc.message}"), fix=exc.fix) from exc
    except (Exception, SystemExit) as exc:  # a plugin may raise anything
        raise PluginError(
            one_line(f"{registration.who} cannot be built: {type(exc).__name__}: {exc}"),
            cause=f"{registration.target}, at {where(exc)}",
            fix=f"worldlab check-plugin {registration.role}:{registration.name}",
        ) from exc
