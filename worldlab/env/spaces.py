"""Converts environment spaces to specs, encodes and decodes actions, and defines the layout of replay records.

Environments have the form of `worldlab.env.find`: a Dict of uint8 images (H, W, C) and float32 vectors (n,), and a Box
or Discrete action space.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from worldlab.errors import DivergedError, EnvError
from worldlab.specs import ActionSpec, ArraySpec, ObsSpec

CHANNELS = (1, 3, 4)
"""Supported numbers of image channels: grey, RGB, RGBA."""
MIN_SIDE = 8
"""Smallest image side, in pixels, that a convolution stack can halve at least twice."""
MAX_ASPECT = 4
"""Largest ratio of long to short image side; beyond it, a square resize is useless."""
STEP_FIELDS = ("prev_action", "reward", "cont", "is_first")
"""Fields of every replay record besides the observation."""
RESERVED_KEYS = frozenset({*STEP_FIELDS, "mask"})

Schema = dict[str, tuple[tuple[int, ...], str]]
"""Replay layout: {key: (shape of one step, numpy dtype name)}, in storage order."""


def obs_spec(space: spaces.Space) -> ObsSpec:
    """Return the ObsSpec of an observation space; images become (C, H, W).

    space: a Dict of uint8 Boxes (H, W, C) and float32 Boxes (n,), keys in the order of the Dict.
    Raises: EnvError for any other space, a reserved key, an image side below 8 or an aspect ratio above 4.
    """
    if not isinstance(space, spaces.Dict) or not space.spaces:
        raise EnvError(
            f"the observation space is {_short(space)}, not a Dict with entries",
            cause="observations reach the core as {key: array}",
            fix="wrap the environment with worldlab.env.wrappers.wrap(env, settings)",
        )
    return ObsSpec(tuple((key, _array_spec(key, part)) for key, part in space.spaces.items()))


def _array_spec(key: str, space: spaces.Space) -> ArraySpec:
    if key in RESERVED_KEYS:
        raise EnvError(
            f"observation key {key!r} is reserved",
            cause=f"replay records use the keys {', '.join(sorted(RESERVED_KEYS))}",
            fix="rename the key in the environment's observation space",
        )
    if isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) == 3:
        check_image_shape(key, space.shape)
        height, width, channels = space.shape
        return ArraySpec("image", (channels, height, width))
    if isinstance(space, spaces.Box) and space.dtype == np.float32 and len(space.shape) == 1 and space.shape[0] > 0:
        return ArraySpec("vector", space.shape)
    raise EnvError(
        f"observation {key!r} has the space {_short(space)}",
        cause="accepted are uint8 images (H, W, C) and float32 vectors (n,)",
        fix="wrap the environment with worldlab.env.wrappers.wrap(env, settings)",
    )


def check_image_shape(key: str, shape: tuple[int, ...]) -> None:
    """Raise EnvError for an image shape (H, W, C) that no model supports."""
    height, width, channels = shape
    if channels not in CHANNELS:
        raise EnvError(
            f"image {key!r} has the shape {shape}",
            cause=f"images are (height, width, channels) with channels in {CHANNELS}",
            fix="declare the observation as uint8 (H, W, C); move a leading channel axis to the end",
        )
    if min(height, width) < MIN_SIDE:
        raise EnvError(
            f"image {key!r} is {height} x {width} pixels; the smallest side accepted is {MIN_SIDE}",
            cause="an encoder halves images several times",
            fix=f"--env.size {MIN_SIDE} or more resizes it",
        )
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise EnvError(
            f"image {key!r} is {height} x {width} pixels: one side is over {MAX_ASPECT} times the other",
            cause="encoders and decoders are built for roughly square images",
            fix="--env.size 64 resizes it to 64 x 64, or crop it in the environment",
        )


def action_spec(space: spaces.Space) -> ActionSpec:
    """Return the ActionSpec of an action space: Discrete(n) becomes a one-hot of n, a float Box of k numbers [-1, 1]^k.

    Raises: EnvError for any other space, and for a Box with an infinite or empty range.
    """
    if isinstance(space, spaces.Discrete):
        return ActionSpec("discrete", int(space.n))
    if not isinstance(space, spaces.Box):
        raise EnvError(
            f"the action space {_short(space)} is not supported",
            cause="accepted are Discrete and Box with finite bounds",
            fix="flatten the choices into one Discrete (gymnasium.ActionWrapper), or use a Box",
        )
    if not np.issubdtype(space.dtype, np.floating) or int(np.prod(space.shape)) == 0:
        raise EnvError(
            f"the action space {_short(space)} is not a non-empty Box of floats",
            fix="declare whole-number actions as Discrete, continuous ones as float32",
        )
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        raise EnvError(
            "the action space has infinite bounds",
            cause=f"actions are scaled from [-1, 1] to the bounds; got {_range(space.low)} and {_range(space.high)}",
            fix="wrap the environment with gymnasium.wrappers.RescaleAction or declare finite bounds",
        )
    if not (space.low < space.high).all():
        raise EnvError(
            "the action space has an entry whose low is not below its high",
            cause=f"low {space.low.ravel().tolist()}, high {space.high.ravel().tolist()}",
            fix="remove that entry from the action space",
        )
    return ActionSpec("continuous", int(np.prod(space.shape)))


def encode_action(space: spaces.Space, native: Any) -> np.ndarray:
    """Encode native actions as float32 [A] or [N, A]: a one-hot, or the range of the Box mapped to [-1, 1].

    native: one action of the space, or a batch of N. Out-of-range Box actions are clipped, as most environments do.
    Raises: EnvError for a Discrete action outside the space.
    """
    if isinstance(space, spaces.Discrete):
        index = np.asarray(native).astype(np.int64) - int(space.start)
        if ((index < 0) | (index >= space.n)).any():
            raise EnvError(
                f"action {np.asarray(native).tolist()} is outside of {_short(space)}"[:100],
                cause=f"accepted are {int(space.start)} to {int(space.start + space.n) - 1}",
            )
        return np.eye(int(space.n), dtype=np.float32)[index]
    low, high = _bounds(space)
    values = np.asarray(native, dtype=np.float64)
    values = values.reshape(*values.shape[: values.ndim - len(_box(space).shape)], -1)
    return np.clip(2 * (values - low) / (high - low) - 1, -1, 1).astype(np.float32)


def decode_action(space: spaces.Space, encoded: np.ndarray) -> Any:
    """Invert `encode_action`: argmax, or rescale and clip.

    encoded: float [A] or [N, A]. Returns: an action of the space (an int64 scalar, an array of the Box's shape and
    dtype) or a batch of N. Raises: DivergedError when a number is not finite.
    """
    encoded = np.asarray(encoded)
    if not np.isfinite(encoded).all():
        raise DivergedError(
            "the agent chose an action that is not a finite number",
            cause=f"encoded action {encoded.ravel()[:8].tolist()}",
            fix="lower train.learning_rate or the agent's learning rate",
        )
    if isinstance(space, spaces.Discrete):
        return encoded.argmax(-1) + space.start
    box = _box(space)
    low, high = _bounds(space)
    values = low + (np.clip(encoded.astype(np.float64), -1, 1) + 1) / 2 * (high - low)
    values = values.astype(box.dtype).reshape(*encoded.shape[:-1], *box.shape)
    return np.clip(values, box.low, box.high)  # rounding to float32 may step over a bound


def record_schema(space: spaces.Space, action: ActionSpec) -> Schema:
    """Return the replay layout of one step: the observation as the environment gives it, then the step fields.

    Raises: EnvError as `obs_spec` does.
    """
    obs_spec(space)
    parts: dict[str, Any] = dict(space.spaces) if isinstance(space, spaces.Dict) else {}
    schema: Schema = {key: (tuple(part.shape), np.dtype(part.dtype).name) for key, part in parts.items()}
    schema["prev_action"] = ((action.dim,), "float32")
    schema["reward"] = ((), "float32")
    schema["cont"] = ((), "float32")
    schema["is_first"] = ((), "bool")
    return schema


def _box(space: spaces.Space) -> spaces.Box:
    assert isinstance(space, spaces.Box), "action_spec accepted this space"
    return space


def _bounds(space: spaces.Space) -> tuple[np.ndarray, np.ndarray]:
    box = _box(space)
    return box.low.astype(np.float64).ravel(), box.high.astype(np.float64).ravel()


def _range(values: np.ndarray) -> str:
    return f"{values.min():g} to {values.max():g}"


def _short(space: spaces.Space) -> str:
    text = " ".join(str(space).split())
    return text if len(text) <= 50 else text[:47] + "..."
