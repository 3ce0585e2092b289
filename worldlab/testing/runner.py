"""Run the checks on a class, a registered component or a whole world model, without pytest."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from worldlab.agent import Agent
from worldlab.config.resolve import NoOptions
from worldlab.config.schema import describe_invalid
from worldlab.env.find import as_adapter
from worldlab.errors import PluginError, one_line
from worldlab.interfaces import Component, Decoder, Dynamics, Encoder
from worldlab.registry import Registration, load_registry
from worldlab.settings import Config
from worldlab.testing.agent_bench import AgentBench, AgentSubject
from worldlab.testing.bench import Bench, Choice, Mix, Subject, reference_mix
from worldlab.testing.checks import ROLES, Result, checks_for, evaluate_all
from worldlab.testing.env_subject import EnvSubject
from worldlab.testing.launcher_subject import LauncherSubject
from worldlab.testing.sizes import complete, small_config, variants
from worldlab.testing.tracker_subject import TrackerSubject
from worldlab.training.compose import load_part

AnySubject = Subject | AgentSubject | EnvSubject | LauncherSubject | TrackerSubject
ComponentLike = str | Registration | type | AnySubject
"""A component to check: a registered name such as "encoder:vae", a registration, a class, or a subject."""

_ROLES: dict[str, type[Component]] = {"encoder": Encoder, "dynamics": Dynamics, "decoder": Decoder}


def make_subject(role: str, target: Any, config: Config | None = None, label: str = "") -> AnySubject:
    """Return a component with what the checks of its role need. target: its class, or the adapter of an "env".

    config: small_config of its class if None; agents and launchers need one. Raises: PluginError for an unknown role.
    """
    label = label or f"{role}-{getattr(target, '__name__', type(target).__name__)}"
    if role in _ROLES:
        choice = Choice(target, complete(small_config(target.Config) if config is None else config, role))
        kinds = ("gaussian",) if role == "encoder" else ("gaussian", "point", "categorical")
        return Subject(role, label, tuple(replace(reference_mix(kind=kind), **{role: choice}) for kind in kinds))
    if role == "env":
        return EnvSubject(label, as_adapter(label, target))
    if role == "tracker":
        return TrackerSubject(label, target)
    choice = Choice(target, small_config(getattr(target, "Config", NoOptions)) if config is None else config)
    if role == "agent":
        return AgentSubject(label, choice)
    if role == "launcher":
        return LauncherSubject(label, choice)
    raise PluginError(one_line(f"no checks for the role {role!r}"), fix=f"roles: {', '.join(ROLES)}")


def build(
    component: ComponentLike, obs: str = "", *, latent: str = "", action: str = "continuous", **settings: Any
) -> Bench | AgentBench:
    """Build a component into a world model with reference partners, for an author's own tests.

    An agent is built into a world model whose rewards are known (worldlab.testing.known_world). settings: of the
    component's config; the others stay small. obs: a name in toys.OBS; "" takes the first that the component supports.
    latent: "gaussian", "categorical" or "point", the kind that the partner of a dynamics or decoder emits; "" takes the
    first that the component supports. action: "continuous" or "discrete".

        bench = build("dynamics:mine", latent="categorical", memory=4)
        bench.part                                  # the component; bench.encoder, .dynamics, .decoder, .model, .specs
        bench.part.advance(bench.part.initial(3), bench.latents(3), bench.actions(3))

    Raises: PluginError if no component of that name is installed, or its role has no bench; NotApplicable if the
    component does not support obs, latent or action; pydantic's ValidationError for invalid settings.
    """
    subject = as_subject(component)
    if isinstance(subject, EnvSubject | LauncherSubject | TrackerSubject):
        raise PluginError(f"no bench for the role {subject.role!r}", fix="build the class itself in your test")
    small = subject.choice.config
    subject = subject.with_config(complete(type(small)(**{**dict(small), **settings}), subject.role))
    if isinstance(subject, AgentSubject):
        return subject.bench(action)
    return (subject.with_latent(kind=latent) if latent else subject).bench(obs, action)


def make_mix_subject(encoder: Choice, dynamics: Choice, decoder: Choice, label: str) -> Subject:
    """Return a whole world model as a subject."""
    return Subject("world_model", label, (Mix(encoder, dynamics, decoder),))


def as_subject(component: ComponentLike) -> AnySubject:
    """Return the subject of a component.

    Raises: PluginError if no component of that name is installed, or the class implements no role.
    """
    if isinstance(component, AnySubject):
        return component
    if isinstance(component, str):
        role, _, name = component.partition(":")
        component = load_registry().get(role, name)
    if isinstance(component, Registration):
        return _make_registered_subject(component, _small(component))
    for role, base in {**_ROLES, "agent": Agent}.items():
        if issubclass(component, base):
            return make_subject(role, component)
    for role, method in (
        ("env", "resolve"),
        ("launcher", "run"),
        ("tracker", "scalars"),
    ):  # protocols: a plugin inherits nothing
        if callable(getattr(component, method, None)):
            return make_subject(role, component)
    raise PluginError(
        one_line(f"{component.__name__} implements no role"),
        fix="subclass Encoder, Dynamics or Decoder of worldlab.interfaces or Agent of worldlab.agent",
    )


def modes(registration: Registration) -> Iterator[tuple[str, AnySubject]]:
    """Yield (mode, subject): "" and the component in its small configuration, then each other choice of its Literals.

    All checks of the role apply to the first; the checks that do not train (`not Check.slow`) apply to the others. A
    component that is a variant of another has only the first: the other one has the modes. Raises: PluginError if the
    module cannot be imported or the defaults are not valid.
    """
    small = _small(registration)
    yield "", _make_registered_subject(registration, small)
    for mode, config in () if registration.variant_of else variants(small):
        yield mode, _make_registered_subject(registration, config, mode)


def run_checks(
    role: str, target: Any, config: Config | None = None, *, only: Collection[str] | None = None
) -> list[Result]:
    """Run the checks of a role on a class, or on the adapter of an "env". only: ids of the checks to run.

    config: small sizes by default.

    Returns: one Result per check, in order; an exception in a component becomes a failed Result.
    Raises: PluginError for an unknown role.
    """
    return _run(make_subject(role, target, config), only)


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
    """Return the component's configuration at small sizes, with the settings that are registered with its name.

    Raises: PluginError if its defaults are not valid.
    """
    config = registration.config or NoOptions
    try:
        return small_config(config, **registration.preset)
    except (ValidationError, AssertionError) as exc:
        raise PluginError(
            one_line(f"{registration.who}: its default settings are not valid"),
            cause=describe_invalid(exc, config) if isinstance(exc, ValidationError) else one_line(exc, 300),
            fix="give every setting a default that its own validation rules allow",
        ) from exc


def _make_registered_subject(registration: Registration, config: Config, mode: str = "") -> AnySubject:
    label = f"{registration.role}-{registration.name}" + (f"-{mode}" if mode else "")
    interface = {**_ROLES, "agent": Agent}.get(registration.role)
    target = registration.load() if interface is None else load_part(registration, interface)
    subject = make_subject(registration.role, target, config, label)
    return replace(subject, registration=registration)


def _run(subject: AnySubject, only: Collection[str] | None) -> list[Result]:
    return list(evaluate_all((c for c in checks_for(subject.role) if only is None or c.id in only), subject))
