"""The wrappers that convert any environment to the core's interface, in a fixed order."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from worldlab.env.distractors import Distractors
from worldlab.env.nested import entries, flatten_space, is_text, values_of
from worldlab.env.resize import area_weights, resize
from worldlab.env.spaces import CHANNELS, MIN_SIDE, action_spec, obs_spec
from worldlab.errors import EnvError
from worldlab.settings import EnvSettings


def wrap(
    env: gymnasium.Env,
    settings: EnvSettings,
    *,
    name: str = "",
    frame_limit: int | None = None,
    draw: Callable[[gymnasium.Env], gymnasium.Env] | None = None,
) -> gymnasium.Env:
    """Apply the settings (`env.repeat`, `size`, `pixels`, `time_limit`, ...) and convert the observations for the core.

    The core wraps what an adapter's `make` returns. An adapter wraps it itself only if it needs an argument below.
    name: what errors call the environment; by default its id or class. frame_limit: frames per episode if
    settings.time_limit is unset. draw: a wrapper placed after the action repeat, for an environment that renders its
    observation lazily. Returns: an environment with a Dict of uint8 images (H, W, C) and float32 vectors (n,); a single
    image is called "image", a single vector "vector". Raises: EnvError for spaces that worldlab does not support.
    """
    spec = getattr(env, "spec", None)
    env_id = name or (type(env).__name__ if spec is None else spec.id)
    for attribute in ("observation_space", "action_space"):
        if not isinstance(getattr(env, attribute, None), spaces.Space):
            raise EnvError(
                f"env {env_id[:40]!r} has no {attribute}",
                cause=f"got {getattr(env, attribute, None)!r}, expected a gymnasium.spaces.Space"[:200],
                fix=f"set self.{attribute} in the environment's __init__",
            )
    env = CheckedEnv(env, env_id, settings)
    if settings.time_limit is None and frame_limit is not None:
        env = TimeLimit(env, frame_limit)
    if settings.repeat > 1:
        env = ActionRepeat(env, settings.repeat)
    if settings.time_limit is not None:
        env = TimeLimit(env, settings.time_limit)
    if settings.collect_limit is not None:
        env = TimeLimit(env, settings.collect_limit)
    if settings.patience is not None:
        env = Patience(env, settings.patience)
    if draw is not None:
        env = draw(env)
    if settings.pixels:
        env = PixelObservation(env)
    env = DictObservation(env)
    if settings.size is not None:
        env = ResizeImages(env, settings.size)
    if settings.distractors:
        env = Distractors(env, settings.distractors)
    obs_spec(env.observation_space)
    action_spec(env.action_space)
    return env


def settings_applied(env: gymnasium.Env) -> EnvSettings | None:
    """Return the settings with which `wrap` has wrapped an environment; None if it has not."""
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, CheckedEnv):
            return env.settings
        env = env.env
    return None


LARGEST = float(np.finfo(np.float32).max)
"""The largest reward: the replay stores float32."""


class CheckedEnv(gymnasium.Wrapper):
    """Rejects values that violate the environment's own declaration, copies observations and flattens nested ones.

    Checked at every step: the five return values of Gymnasium's API, the observation's keys, shapes and dtypes, finite
    observations (also as float32), a finite reward, and that terminated and truncated are bools. Bounds are not checked:
    many environments exceed theirs by a rounding error; `worldlab check-env` reports it.
    """

    def __init__(self, env: gymnasium.Env, env_id: str, settings: EnvSettings | None = None):
        super().__init__(env)
        self.settings = settings
        self._id = env_id
        self._step = 0
        space = env.observation_space
        self._keyed = isinstance(space, spaces.Dict | spaces.Tuple)
        parts = flatten_space(space, env_id) if self._keyed else {"obs": space}
        if self._keyed:
            self.observation_space = spaces.Dict(parts)
        for key, part in parts.items():
            if not isinstance(part, spaces.Box | spaces.Discrete):
                raise EnvError(
                    f"env {env_id[:40]!r}: observation {key!r} is a {type(part).__name__} space",
                    cause="accepted are Box, Discrete, Dicts and Tuples of these, and texts in them, which are left out",
                    fix="gymnasium.wrappers.FlattenObservation makes it one vector",
                )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._step = 0
        answer = self.env.reset(seed=seed, options=options)
        if not (isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], dict)):
            raise self._api_error("reset() must return (obs, info)", answer)
        return self._check_obs(answer[0]), answer[1]

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._step += 1
        answer = self.env.step(action)
        if not (isinstance(answer, tuple) and len(answer) == 5):
            raise self._api_error("step() must return (obs, reward, terminated, truncated, info)", answer)
        obs, reward, terminated, truncated, info = answer
        scalar = isinstance(reward, int | float | np.number | np.bool_) or getattr(reward, "shape", None) == ()
        number = float(reward) if scalar else math.nan  # type: ignore[arg-type]
        if not abs(number) <= LARGEST:  # false for NaN
            raise self._space_error("the reward", "a finite float32 number", repr(reward)[:80])
        ended = self._check_flag("terminated", terminated), self._check_flag("truncated", truncated)
        return self._check_obs(obs), number, *ended, info

    def _check_flag(self, name: str, value: Any) -> bool:
        """Return a flag as a bool. Accepted are bools of Python and numpy, 0 and 1, and 0-dimensional arrays of them."""
        if isinstance(value, bool | np.bool_):
            return bool(value)
        scalar = isinstance(value, int | np.integer) or getattr(value, "shape", None) == ()
        if not (scalar and value in (0, 1)):
            raise self._space_error(name, "True or False", repr(value)[:80], breaks="is no bool")
        return bool(value)

    def _check_obs(self, obs: Any) -> Any:
        space = self.env.observation_space
        return dict(self._check_entries(space, obs)) if self._keyed else self._check_part("obs", space, obs)

    def _check_entries(self, space: spaces.Space, obs: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
        """Yield the name and value of every entry of a Dict or Tuple observation, at any depth."""
        parts, values = entries(space), values_of(space, obs)
        if values is None:
            what = f"obs[{prefix[:-1]!r}]" if prefix else "the observation"
            kind = f"a dict with keys {sorted(parts)}" if isinstance(space, spaces.Dict) else f"{len(parts)} entries"
            got = sorted(map(str, obs)) if isinstance(obs, dict) else type(obs).__name__
            raise self._space_error(what, kind, f"{got}")
        for key, part in parts.items():
            if isinstance(part, spaces.Dict | spaces.Tuple):
                yield from self._check_entries(part, values[key], f"{prefix}{key}/")
            elif not is_text(part):
                yield prefix + key, self._check_part(prefix + key, part, values[key])

    def _check_part(self, key: str, space: spaces.Space, value: Any) -> Any:
        if isinstance(space, spaces.Discrete):
            if not (isinstance(value, int | np.integer) and 0 <= value - space.start < space.n):
                raise self._space_error(f"obs[{key!r}]", str(space), repr(value)[:80])
            return int(value)
        shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
        if shape != space.shape or dtype != space.dtype:
            got = f"{dtype} {shape}" if dtype is not None else type(value).__name__
            raise self._space_error(f"obs[{key!r}]", f"{space.dtype} {space.shape}", got)
        value = np.array(value)  # the environment may overwrite its buffer at the next step
        if value.dtype.kind == "f" and not _surely_finite(value):
            with np.errstate(over="ignore"):
                finite = np.isfinite(value.astype(np.float32, copy=False))
            if not finite.all():
                bad = value[~finite].ravel()
                raise self._space_error(f"obs[{key!r}]", "finite float32 numbers", f"{bad.size} like {bad[0]}")
        return value

    def _space_error(self, what: str, expected: str, got: str, breaks: str = "breaks the declared space") -> EnvError:
        where = f"step {self._step} of the episode" if self._step else "reset"
        rest = f", {where}: {what[:25]} {breaks}"
        return EnvError(
            f"env {self._id[: max(4, 84 - len(rest))]!r}{rest}",  # the pool adds the environment's number
            cause=f"expected {expected}, got {got}",
            fix="correct the environment or its observation_space; worldlab check-env shows details",
        )

    def _api_error(self, rule: str, answer: Any) -> EnvError:
        got = f"{len(answer)} values" if isinstance(answer, tuple) else type(answer).__name__
        return EnvError(
            f"env {self._id[:40]!r} does not speak Gymnasium's API",
            cause=f"{rule}; got {got}",
            fix="port it to gymnasium>=1.0, or wrap it with shimmy's GymV21CompatibilityV0",
        )


@np.errstate(over="ignore", invalid="ignore")
def _surely_finite(value: np.ndarray) -> bool:
    """Return whether one sum of squares shows that all numbers are finite as float32, which is faster than to test each."""
    flat = value.ravel()
    return bool(np.dot(flat, flat) < 1e76)  # the square of the largest float32; false for NaN


class ActionRepeat(gymnasium.Wrapper):
    """Repeats each action `repeat` times, sums the rewards and stops when the episode ends."""

    def __init__(self, env: gymnasium.Env, repeat: int):
        super().__init__(env)
        self._repeat = repeat

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        total = 0.0
        for _ in range(self._repeat):
            obs, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            if terminated or truncated:
                break
        return obs, total, terminated, truncated, info


class TimeLimit(gymnasium.Wrapper):
    """Truncates an episode after `steps` calls of step, unless it terminates at that step."""

    def __init__(self, env: gymnasium.Env, steps: int):
        super().__init__(env)
        self._limit = steps
        self._taken = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._taken = 0
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._taken += 1
        cut = self._taken >= self._limit and not terminated
        return obs, float(reward), terminated, truncated or cut, info


class Patience(gymnasium.Wrapper):
    """Truncates an episode after `steps` consecutive steps without a positive reward."""

    def __init__(self, env: gymnasium.Env, steps: int):
        super().__init__(env)
        self._limit = steps
        self._waited = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._waited = 0
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._waited = 0 if float(reward) > 0 else self._waited + 1
        cut = self._waited >= self._limit and not terminated
        return obs, float(reward), terminated, truncated or cut, info


class PixelObservation(gymnasium.Wrapper):
    """Replaces the observation by the rendered image, once per step. The environment must render rgb_array."""

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        env.reset(seed=0)  # only a rendered image shows its size, and only a started episode can be rendered
        shape = self._picture().shape
        self.observation_space = spaces.Box(0, 255, shape, np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        _, info = self.env.reset(seed=seed, options=options)
        return self._picture(), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        _, reward, terminated, truncated, info = self.env.step(action)
        return self._picture(), float(reward), terminated, truncated, info

    def _picture(self) -> np.ndarray:
        frame = self.env.render()
        if not (isinstance(frame, np.ndarray) and frame.dtype == np.uint8 and frame.ndim == 3):
            raise EnvError(
                "the environment cannot be observed as pixels",
                cause=f"render() returned {type(frame).__name__}, expected a uint8 array (H, W, C)",
                fix="unset env.pixels, or give the environment a render_mode 'rgb_array'",
            )
        return np.array(frame)


class DictObservation(gymnasium.Wrapper):
    """Converts every observation to {key: uint8 image (H, W, C) or float32 vector (n,)}.

    Boxes are flattened into vectors, Discrete becomes a one-hot, grey images (H, W) get a channel.
    """

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        space = env.observation_space
        self._single = None
        if isinstance(space, spaces.Dict):
            parts = dict(space.spaces)
        else:
            self._single = "image" if _is_image(space) else "vector"
            parts = {self._single: space}
        self._parts = parts
        self.observation_space = spaces.Dict({key: _convert_space(key, part) for key, part in parts.items()})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        obs, info = self.env.reset(seed=seed, options=options)
        return self._convert(obs), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        return self._convert(obs), float(reward), terminated, truncated, info

    def _convert(self, obs: Any) -> dict[str, np.ndarray]:
        if self._single is not None:
            obs = {self._single: obs}
        return {key: _convert_value(part, obs[key]) for key, part in self._parts.items()}


class ResizeImages(gymnasium.Wrapper):
    """Resizes every image to size x size by exact area averaging (a smaller image is magnified in blocks)."""

    def __init__(self, env: gymnasium.Env, size: int):
        super().__init__(env)
        assert isinstance(env.observation_space, spaces.Dict)
        parts = dict(env.observation_space.spaces)
        self._weights: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for key, part in parts.items():
            if part.dtype != np.uint8 or part.shape is None:
                continue
            height, width, channels = part.shape
            if (height, width) != (size, size):
                self._weights[key] = (area_weights(height, size), area_weights(width, size))
                parts[key] = spaces.Box(0, 255, (size, size, channels), np.uint8)
        self.observation_space = spaces.Dict(parts)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        obs, info = self.env.reset(seed=seed, options=options)
        return self._resize(obs), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        return self._resize(obs), float(reward), terminated, truncated, info

    def _resize(self, obs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {
            key: resize(value, *self._weights[key]) if key in self._weights else value for key, value in obs.items()
        }


def _is_image(space: spaces.Space) -> bool:
    return isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) in (2, 3)


def _convert_space(key: str, space: spaces.Space) -> spaces.Box:
    if isinstance(space, spaces.Discrete):
        return spaces.Box(0, 1, (int(space.n),), np.float32)
    assert isinstance(space, spaces.Box), "CheckedEnv rejects everything else"
    if _is_image(space):
        return spaces.Box(0, 255, space.shape if len(space.shape) == 3 else (*space.shape, 1), np.uint8)
    if len(space.shape) == 3 and min(space.shape[:2]) >= MIN_SIDE and space.shape[2] in CHANNELS:
        raise EnvError(
            f"observation {key!r} looks like an image {space.shape} of {space.dtype}",
            cause="images are uint8 with values 0 to 255; as a vector it would be far too wide",
            fix="declare it as Box(0, 255, shape, uint8)",
        )
    with np.errstate(over="ignore"):
        low, high = space.low.astype(np.float32).ravel(), space.high.astype(np.float32).ravel()
    return spaces.Box(low, high, dtype=np.float32)


def _convert_value(space: spaces.Space, value: Any) -> np.ndarray:
    if isinstance(space, spaces.Discrete):
        one_hot = np.zeros(int(space.n), np.float32)
        one_hot[int(value) - int(space.start)] = 1
        return one_hot
    if _is_image(space):
        return value if value.ndim == 3 else value[..., None]
    return np.asarray(value, np.float32).ravel()
