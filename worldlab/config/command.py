"""Writes the command that repeats a run: the shortest flags that resolve to its configuration."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from worldlab.config.resolve import PARTS, RunConfig, resolve
from worldlab.config.schema import NONE
from worldlab.registry import Registry
from worldlab.settings import DIAL

MOST = 24
"""Flags beyond which a command is no longer read: the configuration file is then the better way."""
_FIRST = (("size", "data", "offline", "strict"), tuple(f"model.{name}" for name in DIAL))
"""Settings on which the defaults of others depend, in this order."""


def train_command(config: RunConfig, registry: Registry) -> str | None:
    """Return "worldlab train --env ..." for a configuration; None if no short line gives exactly this configuration."""
    wanted = dict(_leaves(config.to_mapping()))
    chosen = {"env.id": wanted["env.id"], **{f"{role}.name": wanted[f"{role}.name"] for role in PARTS}}
    for keys in (*_FIRST, tuple(wanted)):
        now = _resolved(chosen, config, registry)
        chosen |= {key: wanted[key] for key in keys if key in wanted and now.get(key, wanted[key]) != wanted[key]}
    texts = [_flag(key, value) for key, value in chosen.items()]
    if len(chosen) > MOST or None in texts or _resolved(chosen, config, registry) != wanted:
        return None
    presets = [f"--preset {shlex.quote(name)}" for name in config.presets]
    head = [text for text in texts[: 1 + len(PARTS)] if text]
    return " ".join(["worldlab train", *head, *presets, *(text for text in texts[1 + len(PARTS) :] if text)])


def _resolved(chosen: Mapping[str, Any], config: RunConfig, registry: Registry) -> dict[str, Any]:
    """Return the leaves of the configuration that flags resolve to."""
    flags: dict[str, Any] = {}
    for key, value in chosen.items():
        *groups, leaf = key.split(".")
        node = flags
        for group in groups:
            node = node.setdefault(group, {})
        node[leaf] = NONE if value is None else value
    return dict(_leaves(resolve(registry, presets=config.presets, flags=flags).to_mapping()))


def _leaves(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        elif prefix or key != "presets":
            yield f"{prefix}{key}", value


def _flag(key: str, value: Any) -> str | None:
    """Return a setting as a flag; None for a value that has no short form."""
    name = {"env.id": "env", **{f"{role}.name": role for role in PARTS}}.get(key, key)
    name = re.sub(r"_(?!$)", "-", name)
    if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return f"--{name} {shlex.quote(','.join(value) or NONE)}"
    if isinstance(value, bool):
        head, dot, leaf = name.rpartition(".")
        return f"--{name}" if value else f"--{head}{dot}no-{leaf}"
    if value is None or isinstance(value, str | int | float):
        return f"--{name} {shlex.quote(NONE if value is None else str(value))}"
    return None


__all__ = ["train_command"]
