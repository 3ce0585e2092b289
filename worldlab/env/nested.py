"""Nested observation spaces as flat ones: the entry b of the entry a is called "a/b", the first of a Tuple "a/0".

A "." in a key becomes "_", since torch uses it to separate the names of modules.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from typing import Any

from gymnasium import spaces

from worldlab.errors import EnvError, one_line

_log = logging.getLogger("worldlab")


def flatten_space(space: spaces.Space, env_id: str) -> dict[str, spaces.Space]:
    """Return the entries of a Dict or Tuple space by name, at any depth. Texts are left out, with a warning.

    Raises: EnvError if two entries get the same name.
    """
    flat: dict[str, spaces.Space] = {}
    for key, part in entries(space).items():
        if is_text(part):
            _warn_of_text(env_id, key)
            continue
        inner = {key: part}
        if isinstance(part, spaces.Dict | spaces.Tuple):
            inner = {f"{key}/{name}": leaf for name, leaf in flatten_space(part, env_id).items()}
        twice = sorted(flat.keys() & inner.keys())
        if twice:
            raise EnvError(
                one_line(f"env {one_line(env_id, 40)!r} has two observations named {one_line(twice[0], 30)!r}"),
                cause='nested entries are named by their path: "b" inside "a" becomes "a/b"',
                fix="rename one of them in the observation space",
            )
        flat |= inner
    return flat


def is_text(space: spaces.Space) -> bool:
    """Return whether the values of a space are strings: Text, or a space of an environment's own."""
    return space.dtype is not None and space.dtype.kind == "U"


def entries(space: spaces.Space) -> dict[str, spaces.Space]:
    """Return the parts of a Dict by key or those of a Tuple by position; {} for any other space."""
    if isinstance(space, spaces.Dict):
        return {_name(key): part for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return {str(index): part for index, part in enumerate(space.spaces)}
    return {}


def values_of(space: spaces.Space, value: Any) -> dict[str, Any] | None:
    """Return the values of a Dict or Tuple observation by the names of `entries`; None if it does not fit."""
    if isinstance(space, spaces.Tuple):
        fits = isinstance(value, tuple | list) and len(value) == len(space.spaces)
        return {str(index): part for index, part in enumerate(value)} if fits else None
    fits = isinstance(value, Mapping) and {_name(key) for key in value} == entries(space).keys()
    return {_name(key): part for key, part in value.items()} if fits else None


def _name(key: object) -> str:
    return str(key).replace(".", "_")


@functools.cache  # an environment is built several times in a run
def _warn_of_text(env_id: str, key: str) -> None:
    _log.warning("env %s: the observation '%s' is text, which no model reads; it is left out", env_id, key)
