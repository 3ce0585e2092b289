"""Shared by the formats: files that a stranger may have written are found and checked before they are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from worldlab.env.spaces import RESERVED_KEYS, STEP_FIELDS, Schema
from worldlab.env.spaces_json import from_json, to_json
from worldlab.errors import ConfigError, import_extra, one_line
from worldlab.experience.dataset import CHUNK_BYTES
from worldlab.runs.parse import parse_json
from worldlab.runs.storage import read_json

RECORDING = "recording.json"
"""What a writer of ours says about recorded episodes: environment and spaces."""


def refuse(
    path: object, what: str, fix: str = "do not trust a data set whose files were made up like this"
) -> ConfigError:
    """Return the error for a file that is damaged or hostile."""
    name, what = one_line(path, 200), one_line(what, 200)
    return ConfigError(one_line(f"{Path(name).name[-40:]!r} is refused: {what}"), cause=f"{name}: {what}", fix=fix)


def inside(folder: Path, name: str) -> Path:
    """Return a file of a folder by a name that the data give. Raises: ConfigError for a name or link that leads out."""
    if not name.isprintable():
        raise refuse(name, "its name has control characters")
    path = folder / name
    if Path(name).is_absolute() or ".." in Path(name).parts or not path.resolve().is_relative_to(folder.resolve()):
        raise refuse(name, "it leads out of the folder of the data set")
    if not path.is_file():
        raise refuse(path, "it is not there, or is no file", fix="download the data set again")
    return path


def files_of(folder: Path, *suffixes: str) -> list[Path]:
    """Return the files of a folder by suffix, sorted, each checked as by `inside`."""
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes)
    return [inside(folder, path.name) for path in found]


def needs(package: str, extra: str) -> Any:
    """Import a package of an extra. Raises: PluginError with the command that installs it."""
    return import_extra(package, extra, "this data set")


def parse_schema(text: str) -> Schema:
    """Return the layout that the header of a segment gives. Raises: ConfigError if it is none."""
    try:
        items = parse_json(text.encode())
        schema: Schema = {
            str(key): (tuple(int(side) for side in shape), np.dtype(str(kind)).name) for key, kind, shape in items
        }
    except (ValueError, TypeError, UnicodeError) as error:
        raise refuse("the segment's header", "it describes no records") from error
    size = sum(np.prod(shape, dtype=float) * np.dtype(kind).itemsize for shape, kind in schema.values())
    sides = all(side >= 0 for shape, _ in schema.values() for side in shape)
    if not set(STEP_FIELDS) < set(schema) or not sides or size > CHUNK_BYTES or schema["prev_action"][0][1:] != ():
        raise refuse("the segment's header", f"its records have the layout {json.dumps(items)[:60]}")
    return schema


def obs_part(name: str, shape: tuple[int, ...], dtype: np.dtype) -> spaces.Box:
    """Return the space of observations stored as arrays [T, *shape]: an image, or a vector of the flattened numbers.

    Raises: ConfigError for what is neither.
    """
    if dtype == np.uint8 and len(shape) in (2, 3):
        return spaces.Box(0, 255, shape if len(shape) == 3 else (*shape, 1), np.uint8)
    if dtype.kind in "fiub" and all(side > 0 for side in shape):
        return spaces.Box(-np.inf, np.inf, (int(np.prod(shape)),), np.float32)
    raise refuse(name, f"observations are images or numbers, these are {dtype} {shape}", fix="leave the key out")


def as_part(space: spaces.Space, values: np.ndarray) -> np.ndarray:
    """Return stored observations [T, ...] in the form of their space."""
    assert space.shape is not None and space.dtype is not None
    with np.errstate(over="ignore"):  # what is too large for float32 becomes infinity, which is reported by episode
        return np.asarray(values).reshape(len(values), *(space.shape if values.size else (0,))).astype(space.dtype)


def obs_space(parts: dict[str, spaces.Box]) -> spaces.Dict:
    """Return the Dict of observations; reserved names are refused. A single image is "image", a single vector "vector"."""
    if reserved := sorted(RESERVED_KEYS & set(parts)):
        raise refuse(reserved[0], "an observation has a reserved name", fix="rename it")
    return spaces.Dict({key: part for key, part in parts.items()})


def shown_name(parts: dict[str, spaces.Box]) -> dict[str, str]:
    """Return the name in worldlab of each stored observation: "image" or "vector" if there is one of its kind alone."""
    if len(parts) == 1:
        [(key, part)] = parts.items()
        return {key: "image" if part.dtype == np.uint8 else "vector"}
    return {key: key for key in parts}


def guessed_actions(low: np.ndarray, high: np.ndarray, one_hot: bool, dtype: np.dtype) -> tuple[spaces.Space, bool]:
    """Return the space of actions whose entries were seen in [low, high], and whether they are stored encoded.

    Whole numbers are Discrete, one-hot vectors too; else the bounds are [-1, 1], or wider if that is exceeded.
    """
    if dtype.kind in "iub" and low.size == 1:
        if low[0] < 0 or high[0] >= 2**16:
            raise refuse("the actions", f"they are whole numbers from {low[0]:g} to {high[0]:g}", fix="count from 0")
        return spaces.Discrete(int(high[0]) + 1), False
    if one_hot and low.size > 1:
        return spaces.Discrete(low.size), True
    finite = np.where(np.isfinite(low) & np.isfinite(high), np.maximum(np.abs(low), np.abs(high)), 1.0)
    bound = np.maximum(1.0, finite).astype(np.float32)
    return spaces.Box(-bound, bound, dtype=np.float32), False


def described(content: object) -> tuple[str, spaces.Space | None, dict[str, str]]:
    """Return env id, action space (None if unknown) and names of observations that a recording's description gives."""
    if not isinstance(content, dict):
        return "", None, {}
    env = content.get("env")
    action = from_json(content["action_space"]) if "action_space" in content else None
    names = content.get("names")
    names = {str(key): str(value) for key, value in names.items()} if isinstance(names, dict) else {}
    return (env if isinstance(env, str) else ""), action, names


def read_description(folder: Path) -> object:
    """Return the content of recording.json in a folder; None without one. Raises: ConfigError if it is damaged."""
    try:
        return read_json(folder / RECORDING)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise refuse(folder / RECORDING, str(error)) from error


def description(env_id: str, observation_space: spaces.Space, action_space: spaces.Space) -> dict[str, Any]:
    """Return the content of recording.json: the environment and the spaces of recorded episodes."""
    return {"env": env_id, "observation_space": to_json(observation_space), "action_space": to_json(action_space)}


__all__ = [
    "RECORDING",
    "as_part",
    "described",
    "description",
    "files_of",
    "guessed_actions",
    "inside",
    "needs",
    "obs_part",
    "obs_space",
    "parse_schema",
    "read_description",
    "refuse",
    "shown_name",
]
