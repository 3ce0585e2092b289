"""Writes spaces as JSON and reads them again, without trusting what is read."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from worldlab.errors import ConfigError, one_line

LARGEST = 2**28
"""Most entries of a space that is read: a larger one is damaged or hostile."""


def to_json(space: spaces.Space) -> dict[str, Any]:
    """Return a Dict, Box or Discrete space as JSON data. The bounds of a Box are kept where they are finite."""
    if isinstance(space, spaces.Dict):
        return {"keys": {key: to_json(part) for key, part in space.items()}}
    if isinstance(space, spaces.Discrete):
        return {"n": int(space.n), "start": int(space.start)}
    assert isinstance(space, spaces.Box), space
    shape = {"shape": list(space.shape), "dtype": space.dtype.name}
    if space.dtype == np.uint8 or not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        return shape
    return {**shape, "low": space.low.ravel().tolist(), "high": space.high.ravel().tolist()}


def from_json(value: Any) -> spaces.Space:
    """Return the space of `to_json`. Raises: ConfigError for anything else."""
    try:
        return _space(value)
    except (KeyError, TypeError, ValueError, AttributeError, AssertionError, OverflowError, MemoryError) as error:
        raise ConfigError(
            "the description of a space is damaged", cause=one_line(f"{error}: {value!r}", 300)
        ) from error


def _space(value: Any) -> spaces.Space:
    if "keys" in value:
        return spaces.Dict({str(key): _space(part) for key, part in value["keys"].items()})
    if "n" in value:
        return spaces.Discrete(int(value["n"]), start=int(value["start"]))
    dtype, shape = np.dtype(str(value["dtype"])), tuple(int(side) for side in value["shape"])
    if dtype.kind not in "fiu" or any(side < 1 for side in shape) or np.prod(shape, dtype=float) > LARGEST:
        raise ValueError("no Box of numbers")
    if "low" in value:
        low, high = (np.array(value[name], dtype).reshape(shape) for name in ("low", "high"))
        return spaces.Box(low, high, dtype=dtype.type)
    if dtype == np.uint8:
        return spaces.Box(0, 255, shape, np.uint8)
    return spaces.Box(-np.inf, np.inf, shape, dtype.type)


__all__ = ["from_json", "to_json"]
