"""Gymnasium's environments, by short name, full id or "package.module:Id"."""

from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from worldlab.errors import EnvError, WorldlabError
from worldlab_envs.headless import go_headless

if TYPE_CHECKING:
    import gymnasium
    import numpy as np

    from worldlab.settings import EnvSettings


REWARDS = {"CartPole": (0.0, 1.0), "Pendulum": (-16.2736045, 0.0), "MountainCar": (-1.0, 0.0), "Acrobot": (-1.0, 0.0)}
"""The least and the largest reward of a frame, both of one sign: pi^2 + 0.1 * 8^2 + 0.001 * 2^2 is a Pendulum's worst."""


class GymnasiumAdapter:
    """The adapter of all environments in Gymnasium's registry."""

    def names(self) -> list[str]:
        """Return the newest version of each environment."""
        from gymnasium.envs.registration import registry

        newest: dict[tuple[Any, str], Any] = {}
        for spec in registry.values():
            best = newest.get((spec.namespace, spec.name))
            if best is None or (spec.version or 0) > (best.version or 0):
                newest[spec.namespace, spec.name] = spec
        return sorted(spec.id for spec in newest.values())

    def resolve(self, id: str) -> str | None:
        """Return the full id, with the newest version if none was given; None if Gymnasium does not have the
        environment.

        "package.module:Id" imports the module first, which registers its environments. Raises: EnvError when that
        module cannot be imported or does not register the id.
        """
        from gymnasium.envs.registration import find_highest_version, get_env_id, parse_env_id, registry
        from gymnasium.error import Error

        go_headless()
        module, _, name = id.rpartition(":")
        if module:
            _import(module)
        if name not in registry:
            try:
                namespace, base, version = parse_env_id(name)
            except Error:
                base = None
            newest = None
            if base is not None and version is None:
                newest = find_highest_version(namespace, base)
            if base is not None and newest is not None:
                name = get_env_id(namespace, base, newest)
            elif module:
                raise EnvError(
                    f"module {module[:30]!r} registers no environment {name[:30]!r}",
                    cause="importing it did not add that id to Gymnasium's registry",
                    fix=f'call gymnasium.register("{name}", ...) when {module} is imported',
                )
            else:
                return None
        return f"{module}:{name}" if module else name

    def make(self, id: str, settings: EnvSettings) -> gymnasium.Env:
        """Build the wrapped environment of a full id, without a display. Raises: EnvError."""
        return build(id, settings)

    def return_bounds(self, id: str, settings: EnvSettings) -> tuple[float, float] | None:
        """Return the possible returns (worldlab.env.find.BoundsReturns) where the rewards of a frame are known."""
        import gymnasium

        spec = gymnasium.spec(id.rpartition(":")[2])
        rewards = REWARDS.get(spec.name)
        limit = spec.max_episode_steps if settings.time_limit is None else settings.time_limit * settings.repeat
        if rewards is None or limit is None:
            return None
        return min(rewards) * limit, max(rewards) * limit

    def truth(self, env: gymnasium.Env) -> dict[str, np.ndarray] | None:
        """Return the simulator's state (worldlab.study.measures.ground_truth.HasTruth); None for unsupported
        simulators.
        """
        from worldlab_envs.truth import read_truth

        return read_truth(env)


@dataclass(frozen=True)
class NamedAdapter:
    """The adapter of one environment in Gymnasium's registry under a short name. module: the module that registers
    it. returns: the possible returns of an episode with the registered limit, if they are known.
    """

    name: str
    id: str
    module: str
    returns: tuple[float, float] | None = None

    def names(self) -> list[str]:
        """Return the short name."""
        return [self.name]

    def resolve(self, id: str) -> str | None:
        """Return the full id for the short name or the full id."""
        return self.id if id in (self.name, self.id) else None

    def return_bounds(self, id: str, settings: EnvSettings) -> tuple[float, float] | None:
        """Return the possible returns of an episode (worldlab.env.find.BoundsReturns)."""
        return self.returns if settings.time_limit is None else None

    def make(self, id: str, settings: EnvSettings) -> gymnasium.Env:
        """Build the wrapped environment."""
        _import(self.module)  # a worker process has unpickled this adapter and imported nothing else
        return build(id, settings)


def build(id: str, settings: EnvSettings) -> gymnasium.Env:
    """Build a Gymnasium environment with worldlab's wrappers. Raises: EnvError with Gymnasium's own reason."""
    go_headless()
    from worldlab.env.wrappers import wrap

    env = None
    try:
        env, frame_limit = _make(id, settings)
        return wrap(env, settings, name=id, frame_limit=frame_limit, draw=_lazy_rendering(env, settings))
    except WorldlabError:
        _close(env)
        raise
    except Exception as error:
        _close(env)
        raise EnvError(
            f"env {id[:50]!r} cannot be built: {type(error).__name__}",
            cause=f"{error}",
            fix=_suggest_fix(error, id),
        ) from error


def _suggest_fix(error: Exception, id: str) -> str:
    from gymnasium.error import NameNotFound, VersionNotFound

    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"pip install {error.name}, in the Python that runs worldlab"
    if isinstance(error, NameNotFound | VersionNotFound):
        return f"leave the version out: --env {id.rpartition('-v')[0] or id}"
    return f"worldlab check-env {id}"


def _make(id: str, settings: EnvSettings) -> tuple[gymnasium.Env, int | None]:
    """Return the bare environment and its frame limit, which the wrappers apply."""
    import gymnasium
    from gymnasium.envs.registration import load_env_creator

    module, _, name = id.rpartition(":")
    if module:
        _import(module)
    spec = gymnasium.spec(name)
    creator = load_env_creator(spec.entry_point) if isinstance(spec.entry_point, str) else spec.entry_point
    options: dict[str, Any] = {}
    modes = getattr(creator, "metadata", {}).get("render_modes", [])
    if "rgb_array" in modes and "render_mode" not in spec.kwargs:
        options["render_mode"] = "rgb_array"  # costs nothing until something is rendered
    is_mujoco = _is_mujoco(creator)
    if is_mujoco and settings.pixels and settings.size is not None:
        options |= {"width": settings.size, "height": settings.size}
    if not is_mujoco:
        return gymnasium.make(name, max_episode_steps=-1, disable_env_checker=True, **options), spec.max_episode_steps
    from worldlab_envs.mujoco_support import DivergenceCheck, disable_render_effects, log_warnings

    with log_warnings():
        env = gymnasium.make(name, max_episode_steps=-1, disable_env_checker=True, **options)
    if settings.pixels:
        disable_render_effects(env)
    return DivergenceCheck(env), spec.max_episode_steps


def _lazy_rendering(env: gymnasium.Env, settings: EnvSettings) -> Any:
    """Return the wrapper that renders only CarRacing frames that are observed; None for other environments."""
    inner = env.unwrapped
    if type(inner).__module__ != "gymnasium.envs.box2d.car_racing" or not hasattr(inner, "_render"):
        return None
    from worldlab_envs.car_racing import LazyRendering

    return functools.partial(LazyRendering, observe=not settings.pixels)


def _is_mujoco(creator: Any) -> bool:
    """Return whether a class is one of Gymnasium's MuJoCo environments, without importing MuJoCo for others."""
    names = {f"{base.__module__}.{base.__name__}" for base in getattr(creator, "__mro__", ())}
    return "gymnasium.envs.mujoco.mujoco_env.MujocoEnv" in names


def _import(module: str) -> None:
    try:
        importlib.import_module(module)
    except Exception as error:
        raise EnvError(
            f"module {module[:40]!r} of the environment cannot be imported: {type(error).__name__}"[:100],
            cause=f"{error}",
            fix=f"python -c 'import {module}' shows the whole error; it must be installed or on PYTHONPATH",
        ) from error


def _close(env: gymnasium.Env | None) -> None:
    if env is not None:
        env.close()
