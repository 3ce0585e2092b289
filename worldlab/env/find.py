"""Finds the environment that an id names, and checks environments. The core knows no environment by name.

`make_env` delivers every environment in one form: observations are dicts {key: array} of uint8 images (H, W, C) and
float32 vectors (n,), actions are Discrete or a finite Box, and invalid values raise EnvError.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypedDict, runtime_checkable

from worldlab.errors import EnvError, PluginError, WorldlabError, build_part, did_you_mean, one_line
from worldlab.settings import EnvSettings

if TYPE_CHECKING:
    import gymnasium


@runtime_checkable
class EnvAdapter(Protocol):
    """What an env plugin registers: `register.env("name", "module:Adapter", config=None, summary="...")`.

    The target is a class without constructor arguments, or an instance.
    """

    def names(self) -> list[str]:
        """Return the ids this adapter offers, for lists and spelling hints."""
        ...

    def resolve(self, id: str) -> str | None:
        """Return the full id for what the user typed ("CarRacing" -> "CarRacing-v3"); None if unknown."""
        ...

    def make(self, id: str, settings: EnvSettings) -> gymnasium.Env:
        """Build the environment of a full id. The core applies the settings to it (`make_env`). Raises: EnvError."""
        ...


@runtime_checkable
class BoundsReturns(Protocol):
    """An adapter that knows which returns an episode can have, so that a report's intervals do not leave them."""

    def return_bounds(self, id: str, settings: EnvSettings) -> tuple[float, float] | None:
        """Return the least and the largest possible return of a full id with these settings; None if unknown."""
        ...


class AdapterRegistry(Protocol):
    """Lists and loads env adapters: the part of `worldlab.registry.Registry` that this module uses."""

    def names(self, role: str) -> Sequence[str]: ...
    def get(self, role: str, name: str) -> Any: ...


def open_adapter(registry: AdapterRegistry, id: str) -> tuple[EnvAdapter, str]:
    """Find the adapter that builds an environment.

    An adapter registered under exactly this id is tried first, then the others in the registry's order. An id
    "name:task" whose name is registered is that adapter's alone. A broken adapter is skipped unless the id names it.
    Returns: the adapter, and the full id for its `make`.
    Raises: EnvError with the closest name if no adapter knows the id; PluginError if the id names a broken adapter.
    """
    broken: list[str] = []
    adapters: list[EnvAdapter] = []
    names = registry.names("env")
    owner = id.partition(":")[0]
    tried = [owner] if owner in names and owner != id else sorted(names, key=lambda name: name != id)
    for name in tried:
        try:
            adapter = _load(registry, name)
        except PluginError as error:
            if name == owner:
                raise
            broken.append(error.message)
            continue
        full = adapter.resolve(id)
        if full is not None:
            return adapter, full
        adapters.append(adapter)
    offered = sorted({name for adapter in adapters for name in adapter.names()})
    short = {name.rpartition("-v")[0] or name: name for name in offered}
    hint = did_you_mean(id, offered) or did_you_mean(id, short)
    raise EnvError(
        f"no environment {id[:40]!r}.{hint}",
        cause="; ".join(broken) or f"none of the {len(offered)} known ids matches",
        fix='worldlab plugins lists what is installed; "package.module:Id" imports a module that registers its own',
    )


def make_env(adapter: EnvAdapter, id: str, settings: EnvSettings) -> gymnasium.Env:
    """Build the environment of a full id and apply the settings (worldlab.env.wrappers.wrap), unless `make` has done so.

    Equal budgets of a comparison rest on `env.repeat`, `env.size` and `env.time_limit`, so no adapter may drop them.
    Raises: EnvError; PluginError if `make` returns no environment or has applied other settings.
    """
    import gymnasium

    from worldlab.env.wrappers import settings_applied, wrap

    env = adapter.make(id, settings)
    who = f"the env adapter {type(adapter).__name__}"
    if not isinstance(env, gymnasium.Env):
        raise PluginError(
            one_line(f"{who}: make({id[:30]!r}) returns a {type(env).__name__}, not a gymnasium.Env"),
            fix="return an environment; worldlab applies the settings to it",
        )
    applied = settings_applied(env)
    if applied is None:
        return wrap(env, settings, name=id)
    if different := [name for name, value in settings if name != "id" and getattr(applied, name) != value]:
        name = different[0]
        env.close()
        raise PluginError(
            one_line(f"{who} does not apply env.{name} of {id[:30]!r}"),
            cause=f"it wraps with {name} = {getattr(applied, name)!r}, the run has {getattr(settings, name)!r}",
            fix="call wrap(env, settings) with the settings that make(id, settings) got, or return the bare environment",
        )
    return env


def env_names(registry: AdapterRegistry) -> dict[str, list[str]]:
    """Return {adapter name: ids it offers} for every registered adapter that loads."""
    offered: dict[str, list[str]] = {}
    for name in registry.names("env"):
        try:
            offered[name] = _load(registry, name).names()
        except PluginError:
            continue  # `worldlab plugins` reports it, with the reason
    return offered


def _load(registry: AdapterRegistry, name: str) -> EnvAdapter:
    return as_adapter(name, registry.get("env", name).load())


def as_adapter(name: str, loaded: Any) -> EnvAdapter:
    """Return the adapter that an env plugin registered: `loaded` itself, or an instance if it is a class.

    Raises: PluginError if it lacks a method of EnvAdapter.
    """
    return build_part(
        EnvAdapter, loaded, f"env plugin {name!r}", "an adapter", "names(), resolve(id) or make(id, settings)"
    )


class Finding(TypedDict):
    """One result of `inspect_env`: plain data, ready for JSON."""

    check: str
    status: Literal["ok", "warn", "fail"]
    detail: str


def inspect_env(env: gymnasium.Env, seconds: float = 1.0) -> list[Finding]:
    """Run an environment with random actions and report the results.

    Checks: spaces; values within the declared bounds; two rollouts of 20 steps with the same seed are identical; speed
    over about `seconds`; whether and how episodes ended. A faulty environment raises nothing: its finding has the
    status "fail".
    """
    findings: list[Finding] = []
    for check in (_check_spaces, _check_values, _check_seeding, lambda env: _check_speed(env, seconds)):
        try:
            findings += check(env)
        except WorldlabError as error:
            detail = f"{error.message} ({error.cause})" if error.cause else error.message
            findings.append(Finding(check="runs", status="fail", detail=detail))
        except Exception as error:
            findings.append(Finding(check="runs", status="fail", detail=f"{type(error).__name__}: {error}"))
    return findings


def _check_spaces(env: gymnasium.Env) -> list[Finding]:
    from worldlab.env.spaces import action_spec, obs_spec

    obs, action = obs_spec(env.observation_space), action_spec(env.action_space)
    entries = ", ".join(f"{key}: {spec.kind} {spec.shape}" for key, spec in obs.entries)
    return [Finding(check="spaces", status="ok", detail=f"obs {entries}; action {action.kind} ({action.dim})")]


def _rollout(env: gymnasium.Env, steps: int) -> list[tuple[Any, ...]]:
    """Return the (obs, reward, terminated, truncated) of a rollout with seed 0; it stops when the episode ends."""
    env.action_space.seed(0)
    transitions: list[tuple[Any, ...]] = [(env.reset(seed=0)[0],)]
    for _ in range(steps):
        transitions.append(env.step(env.action_space.sample())[:4])
        if transitions[-1][2] or transitions[-1][3]:
            break
    return transitions


def _check_values(env: gymnasium.Env) -> list[Finding]:
    for step, transition in enumerate(_rollout(env, 20)):
        if not env.observation_space.contains(transition[0]):
            detail = f"the observation of step {step} is outside the declared bounds"
            return [Finding(check="values", status="warn", detail=detail)]
    return [Finding(check="values", status="ok", detail="finite and within the declared bounds")]


def _check_seeding(env: gymnasium.Env) -> list[Finding]:
    import numpy as np

    first, second = _rollout(env, 20), _rollout(env, 20)
    for step, (one, other) in enumerate(zip(first, second, strict=False)):
        same_obs = all(np.array_equal(one[0][key], other[0][key]) for key in one[0])
        if not same_obs or one[1:] != other[1:]:
            detail = f"two rollouts with the same seed and actions differ at step {step}: runs cannot be repeated"
            return [Finding(check="seeding", status="warn", detail=detail)]
    return [Finding(check="seeding", status="ok", detail="two seeded rollouts are identical")]


def _check_speed(env: gymnasium.Env, seconds: float) -> list[Finding]:
    env.reset(seed=1)
    steps = terminated = truncated = 0
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds:
        _, _, ended, cut, _ = env.step(env.action_space.sample())
        steps, terminated, truncated = steps + 1, terminated + ended, truncated + cut
        if ended or cut:
            env.reset()
    rate = steps / (time.perf_counter() - begin)
    ends = f"{terminated} terminated, {truncated} truncated in {steps} random steps"
    return [
        Finding(check="speed", status="ok", detail=f"{rate:.0f} steps/s"),
        Finding(check="episodes", status="ok" if terminated + truncated else "warn", detail=ends),
    ]


def check_env(id: str, registry: AdapterRegistry) -> dict[str, Any]:
    """Return the result of `worldlab check-env`: the full id, whether no check failed, and all findings."""
    adapter, env_id = open_adapter(registry, id)
    env = make_env(adapter, env_id, EnvSettings(id=env_id))
    try:
        findings = inspect_env(env)
    finally:
        env.close()
    return {"env": env_id, "ok": all(f["status"] != "fail" for f in findings), "findings": findings}
