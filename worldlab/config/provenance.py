"""Compares the plugins that a run was made with to the installed ones, and explains how to get missing ones.

A run only names its plugins and its environment; nothing is installed or imported because a run names it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from worldlab.config.resolve import PARTS, RunConfig, resolve
from worldlab.errors import ConfigError, PluginError, one_line
from worldlab.registry import Registration, Registry
from worldlab.runs import storage

log = logging.getLogger("worldlab")

FILE = "file:"
"""Prefix of the distribution of a `--plugin` file: "file:hello.py"."""
_INSTALLABLE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9.+!_-]*", re.ASCII)


def components(config: RunConfig, registry: Registry) -> dict[str, dict[str, str | None]]:
    """Return the entry of run.json for each part in use: name, distribution, version, sha256 (of a file, else None).

    A component that a part is built from is named by its setting: "dynamics.member".
    """
    digests = {(s.distribution, s.version): s.sha256 for s in registry.sources}
    found: dict[str, dict[str, str | None]] = {}
    for place, entry in _entries(config, registry):
        found[place] = {
            "name": entry.name,
            "distribution": entry.distribution,
            "version": entry.version,
            "sha256": digests.get((entry.distribution, entry.version)),
        }
    return found


def _entries(config: RunConfig, registry: Registry) -> Iterator[tuple[str, Registration]]:
    for role in PARTS:
        part = getattr(config, role)
        yield role, registry.get(role, part.name)
        for field, chosen in part.inner.items():
            yield f"{role}.{field}", chosen.registration


def role_of(place: str) -> str:
    """Return the role of an entry of `components`: "dynamics" of "dynamics.member"."""
    return place.partition(".")[0]


def find_missing(run: Path, registry: Registry) -> PluginError | None:
    """Return the error for the first part of a run that is not installed now, with the version to install.

    Returns None if nothing is missing, if the run does not record its parts, or if a part is installed but broken (then
    the registry reports the reason).
    """
    claimed = {claim for plugin in registry.broken for claim in plugin.claims}
    for place, was in _recorded(run).items():
        role = role_of(place)
        if was["name"] in registry.names(role) or (role, was["name"]) in claimed:
            continue
        return PluginError(
            one_line(f"run '{run.name}' needs {role} {was['name']!r} from {_label(was)}, which is not installed"),
            cause="a run cannot bring or import a plugin by itself",
            fix=_remedy(run, was),
        )
    return None


def resolve_saved(
    run: Path, registry: Registry, flags: Mapping[str, Any] | None = None, trusted: Collection[str] = ()
) -> RunConfig:
    """Resolve the configuration of a run, overridden by flags.

    trusted: modules that the environment of the run may import (`check_env_module`).
    Raises: ConfigError; PluginError, with what to install, if a part is missing.
    """
    try:
        config = resolve(registry, files=[run / "config.toml"], flags=flags)
    except PluginError as error:
        raise find_missing(run, registry) or error from None
    check_env_module(config, registry, trusted, flags or {})
    return config


def env_module(id: str, registry: Registry) -> str | None:
    """Return the module that an environment's id "module:Id" imports; None if the id names no module."""
    module = id.rpartition(":")[0]
    return None if not module or module in registry.names("env") else module


def check_env_module(config: RunConfig, registry: Registry, trusted: Collection[str], flags: Mapping[str, Any]) -> None:
    """Check that a saved configuration imports no module that the user has not named, in `trusted` or as env.id in flags.

    To import a module is to run its code, and a run folder may come from a stranger. Raises: ConfigError.
    """
    chosen = flags.get("env")
    if chosen is not None and (not isinstance(chosen, Mapping) or "id" in chosen):
        return
    module = env_module(config.core.env.id, registry)
    if module is not None and module not in trusted:
        raise ConfigError(
            one_line(f"the environment of this run imports the module {one_line(module, 40)!r}"),
            cause="its config.toml says so, and an import runs the module's code",
            fix=f"if you trust that module: --trust-env {one_line(module, 60)}, in Python trust_env={one_line(module, 60)!r}",
        )


def find_changes(run: Path, config: RunConfig, registry: Registry) -> list[dict[str, str]]:
    """Return the parts whose plugin differs from the one that the run was made with: role, was, now, fix."""
    recorded, current = _recorded(run), components(config, registry)
    return [
        {"role": role, "was": _label(was), "now": _label(current[role]), "fix": _remedy(run, was)}
        for role, was in recorded.items()
        if role in current and was["name"] == current[role]["name"] and _label(was) != _label(current[role])
    ]


def warn_of_changes(changed: list[dict[str, str]]) -> None:
    """Log each part whose plugin differs from the one the run was made with."""
    for part in changed:
        log.warning("%s is now from %s; the run was made with %s", part["role"], part["now"], part["was"])


def version_error(changed: list[dict[str, str]]) -> PluginError:
    """Return the error for a strict run that would resume with a different plugin version."""
    first = changed[0]
    return PluginError(
        one_line(f"{first['role']} is now from {first['now']}; this strict run was made with {first['was']}"),
        cause="strict = true promises identical bits, which another version may not give",
        fix=f"{first['fix']}, or resume with --no-strict",
    )


def _recorded(run: Path) -> dict[str, dict[str, str]]:
    """Return the parts in run.json, every value as text because the file is untrusted; {} if there are none."""
    try:
        content = storage.read_json(run / "run.json")
    except (OSError, ValueError):
        return {}
    parts = content.get("components") if isinstance(content, Mapping) else None
    if not isinstance(parts, Mapping):
        return {}
    keys = ("name", "distribution", "version")
    return {
        role: {key: one_line(part.get(key, ""), 80) for key in keys}
        for role, part in parts.items()
        if role_of(role) in PARTS and isinstance(part, Mapping) and part.get("name")
    }


def _label(part: Mapping[str, Any]) -> str:
    return f"{part['distribution']} {part['version']}".strip()


def _remedy(run: Path, part: Mapping[str, str]) -> str:
    """Return how to get a part: the run's copy of its file, a pip command, or a description."""
    if part["distribution"].startswith(FILE):
        kept = run / "plugins" / Path(part["distribution"].removeprefix(FILE)).name
        return f"--plugin {kept}   the copy in the run folder; read it first if the run is not yours"
    wanted = f"{part['distribution']}=={part['version']}"
    return f"pip install {wanted}" if _INSTALLABLE.fullmatch(wanted) else f"install {_label(part)!r}"
