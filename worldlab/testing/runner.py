"""Run the checks on a class, a registered component or a whole world model, without pytest."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from worldlab.config.resolve import NoOptions
from worldlab.config.schema import describe_invalid
from worldlab.errors import PluginError, one_line
from worldlab.interfaces import Component, Decoder, Dynamics, Encoder
from worldlab.registry import Registration, load_registry
from worldlab.settings import Config
from worldlab.testing.bench import Bench, Choice, Mix, Subject, reference_mix
from worldlab.testing.checks import Result, checks_for, evaluate_all
from worldlab.testing.sizes import complete, small_config, variants
from worldlab.training.compose import load_part

ComponentLike = str | Registration | type[Component] | Subject
"""A component to check: a registered name such as "encoder:vae", a registration, a class, or a subject."""

_ROLES: dict[str, type[Component]] = {"encoder": Encoder, "dynamics": Dynamics, "decoder": Decoder}


def make_subject(role: str, cls: type[Component], config: Config | None = None, label: str = "") -> Subject:
    """Return a component with reference partners. config: small_config of its class if None.

    Raises: PluginError if role is not encoder, dynamics or decoder.
    """
    if role not in _ROLES:
        raise PluginError(one_line(f"no checks for the role {role!r}"), fix=f"roles: {', '.join(_ROLES)}")
    choice = Choice(cls, complete(small_config(cls.Config) if config is None else config, role))
    kinds = ("gaussian",) if role == "encoder" else ("gaussian", "point", "categorical")
    mixes = tuple(replace(reference_mix(kind=kind), **{role: choice}) for kind in kinds)
    return Subject(role, label or f"{role}-{cls.__name__}", mixes)


def build_bench(component: ComponentLike, obs: str = "", **settings: Any) -> Bench:
    """Build a component into a world model with reference partners. settings: of its config; the others stay small.

    obs: a name in toys.OBS; "" takes the first that the component supports.
    Raises: PluginError if no component of that name is installed; NotApplicable if the component does not support obs;
    pydantic's ValidationError for invalid settings.
    """
    subject = as_subject(component)
    cls, small = subject.choice.cls, subject.choice.config
    config = type(small)(**{**dict(small), **settings})
    return make_subject(subject.role, cls, config).bench(obs)


def make_mix_subject(encoder: Choice, dynamics: Choice, decoder: Choice, label: str) -> Subject:
    """Return a whole world model as a subject."""
    return Subject("world_model", label, (Mix(encoder, dynamics, decoder),))


def as_subject(component: ComponentLike) -> Subject:
    """Return the subject of a component.

    Raises: PluginError if no component of that name is installed, or the class implements no role.
    """
    if isinstance(component, Subject):
        return component
    if isinstance(component, str):
        role, _, name = component.partition(":")
        component = load_registry().get(role, name)
    if isinstance(component, Registration):
        return _make_registered_subject(component, _small(component))
    for role, base in _ROLES.items():
        if issubclass(component, base):
            return make_subject(role, component)
    raise PluginError(
        one_line(f"{component.__name__} is neither an Encoder nor a Dynamics nor a Decoder"),
        fix="subclass Encoder, Dynamics or Decoder of worldlab.interfaces",
    )


def modes(registration: Registration) -> Iterator[tuple[str, Subject]]:
    """Yield (mode, subject): "" and the component in its small configuration, then each other choice of its Literals.

    All checks of the role apply to the first; the checks that do not train (`not Check.slow`) apply to the others.
    Raises: PluginError if the role has no checks, the module cannot be imported or the defaults are not valid.
    """
    small = _small(registration)
    yield "", _make_registered_subject(registration, small)
    for mode, config in variants(small):
        yield mode, _make_registered_subject(registration, config, mode)


def run_checks(
    role: str, cls: type[Component], config: Config | None = None, *, only: Collection[str] | None = None
) -> list[Result]:
    """Run the checks of a role on a class. config: small sizes by default. only: ids of the checks to run.

    Returns: one Result per check, in order; an exception in a component becomes a failed Result.
    Raises: PluginError for an unknown role.
    """
    return _run(make_subject(role, cls, config), only)


def check_component(registration: Registration, *, only: Collection[str] | None = None) -> list[Result]:
    """Run the checks on a registered component with a small configuration.

    Raises: PluginError if the module cannot be imported or the role has no checks.
    """
    return _run(as_subject(registration), only)


def check_mix(
    encoder: Choice, dynamics: Choice, decoder: Choice, *, only: Collection[str] | None = None
) -> list[Result]:
    """Run the world-model checks on an encoder, a dynamics and a decoder."""
    return _run(make_mix_subject(encoder, dynamics, decoder, "world_model"), only)


def _small(registration: Registration) -> Config:
    """Return the component's configuration at small sizes. Raises: PluginError if its defaults are not valid."""
    config = registration.config or NoOptions
    try:
        return small_config(config)
    except (ValidationError, AssertionError) as exc:
        raise PluginError(
            one_line(f"{registration.who}: its default settings are not valid"),
            cause=describe_invalid(exc, config) if isinstance(exc, ValidationError) else one_line(exc, 300),
            fix="give every setting a default that its own validation rules allow",
        ) from exc


def _make_registered_subject(registration: Registration, config: Config, mode: str = "") -> Subject:
    label = f"{registration.role}-{registration.name}" + (f"-{mode}" if mode else "")
    if registration.role not in _ROLES:
        raise PluginError(one_line(f"no checks for the role {registration.role!r}"), fix=f"roles: {', '.join(_ROLES)}")
    cls = load_part(registration, _ROLES[registration.role])
    return replace(make_subject(registration.role, cls, config, label), registration=registration)


def _run(subject: Subject, only: Collection[str] | None) -> list[Result]:
    return list(evaluate_all((c for c in checks_for(subject.role) if only is None or c.id in only), subject))
