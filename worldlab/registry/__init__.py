"""Lists the installed components by role and name, and the plugins that failed to load, with the reason.

`load_registry` builds a `Registry` and imports only the light registration modules of the plugins. The module of a
component is imported by `Registration.load`, when the component is first used.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from worldlab.errors import ConfigError, PluginError, did_you_mean, one_line
from worldlab.registry.entries import BUILTIN, ROLES, BrokenPlugin, Chosen, Registration, Role, Source, normalise
from worldlab.settings import Config

__all__ = [
    "BUILTIN",
    "ROLES",
    "BrokenPlugin",
    "Chosen",
    "PluginFiles",
    "Registration",
    "Registry",
    "Role",
    "Source",
    "load_registry",
    "open_registry",
    "with_components",
]

ConfigT = TypeVar("ConfigT", bound=Config)

SIMILAR = 0.6
"""Similarity to a missing name from which on a broken plugin is named as the likely owner."""


@dataclass(frozen=True)
class PluginFiles:
    """`--plugin` files that travel with an object to another process, where unpickling loads them first."""

    paths: tuple[Path, ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return _loaded, (self.paths,)


def _loaded(paths: tuple[Path, ...]) -> PluginFiles:
    if paths:
        open_registry(paths)
    return PluginFiles(paths)


class Registry:
    """Looks up components by role and name. Build it with `load_registry`; it never changes afterwards."""

    def __init__(
        self,
        registrations: Iterable[Registration] = (),
        broken: Iterable[BrokenPlugin] = (),
        sources: Iterable[Source] = (),
        preset_folders: Iterable[Path] = (),
    ):
        self._table = {(r.role, r.name): r for r in registrations}
        self.broken: tuple[BrokenPlugin, ...] = tuple(broken)
        self.sources: tuple[Source, ...] = tuple(sources)
        self.preset_folders: tuple[Path, ...] = tuple(preset_folders)

    def names(self, role: str) -> tuple[str, ...]:
        """Return the sorted names registered for a role."""
        return tuple(sorted(name for known, name in self._table if known == _known_role(role)))

    def registrations(self, role: str | None = None) -> tuple[Registration, ...]:
        """Return the registrations of a role, or of all roles in the order of ROLES, sorted by name."""
        roles = ROLES if role is None else (_known_role(role),)
        return tuple(self._table[known, name] for known in roles for name in self.names(known))

    def get(self, role: str, name: str) -> Registration:
        """Return a component's registration.

        Raises: PluginError with a suggestion and the installed names, or with the reason why its plugin is broken.
        """
        found = self._table.get((_known_role(role), name))
        if found is not None:
            return found
        for plugin in self.broken:
            if (role, name) in plugin.claims or plugin.name == name:
                raise plugin.error(f"{role} {name!r}")
        raise self._unknown(role, name)

    def named(self, text: str) -> tuple[Registration, ...]:
        """Return the components that a text names: "role:name", a name in any role, or all of a distribution.

        Raises: PluginError with a suggestion, or with the reason why the plugin is broken.
        """
        everything = self.registrations()
        mine = tuple(e for e in everything if normalise(e.distribution) == normalise(text))
        for plugin in self.broken:  # first: never return the intact half of a broken distribution
            if normalise(plugin.distribution) == normalise(text):
                raise plugin.error()
        role, colon, name = text.partition(":")
        if colon and not mine:
            return (self.get(role, name),)
        found = tuple(entry for entry in everything if entry.name == text) or mine
        if found:
            return found
        for plugin in self.broken:
            if plugin.name == text or text in {name for _, name in plugin.claims}:
                raise plugin.error(repr(text))
        known = {name for entry in everything for name in (entry.name, entry.distribution)}
        raise PluginError(
            one_line(f"no component or plugin named {one_line(text, 30)!r}.{did_you_mean(text, known)}"),
            fix="worldlab plugins   lists what is installed",
        )

    def check_files(self) -> None:
        """Raise PluginError if a `--plugin` file is broken, because the user requested that file."""
        for plugin in self.broken:
            if plugin.path is not None:
                raise plugin.error()

    @property
    def plugin_files(self) -> tuple[Path, ...]:
        """Return the `--plugin` files in use; `load_registry` with them rebuilds this registry in another process."""
        return tuple(source.path for source in self.sources if source.path is not None)

    def plugins_record(self) -> list[dict[str, str | None]]:
        """Return the entry of run.json for the plugins in use: distribution, version, sha256 (of files, else None)."""
        records = {
            (s.distribution, s.version): {"distribution": s.distribution, "version": s.version, "sha256": s.sha256}
            for s in self.sources
        }
        return list(records.values())

    def _unknown(self, role: str, name: str) -> PluginError:
        names = self.names(role)
        message = f"no {role} named {one_line(name, 30)!r}.{did_you_mean(name, names)}"
        cause = self._suspects(name) or f"installed: {', '.join(names) or 'none'}"
        fix = f"worldlab plugins --role {role}   lists what is installed"
        if not any(source.distribution == BUILTIN for source in self.sources):
            fix = "install worldlab itself, which includes the built-in plugins: pip install -e ."
        return PluginError(one_line(message), cause=one_line(cause, 300), fix=fix)

    def _suspects(self, name: str) -> str | None:
        """Return which broken plugins may have a missing name: the likeliest with its reason, or all if none stands out."""
        if not self.broken:
            return None
        likely = max(self.broken, key=lambda plugin: plugin.likelihood(name))
        if len(self.broken) > 1 and likely.likelihood(name) < SIMILAR:
            return (
                f"it may belong to one of {len(self.broken)} broken plugins: {', '.join(p.label for p in self.broken)}"
            )
        more = f" ({len(self.broken) - 1} more are broken)" if len(self.broken) > 1 else ""
        return f"it may belong to a broken plugin: {likely.label} {likely.reason}{more}"


def load_registry(plugin_files: Sequence[Path] = ()) -> Registry:
    """Load every installed plugin, then the given files, each in isolation; faults are recorded instead of raised.

    The environment variable WORLDLAB_PLUGINS=off loads only the plugins that ship with worldlab (and the files).
    """
    from worldlab.registry.discovery import discover

    builtin_only = os.environ.get("WORLDLAB_PLUGINS", "").lower() in ("off", "0", "no")
    return Registry(*discover(plugin_files, builtin_only=builtin_only))


def open_registry(plugin_files: Sequence[Path] = ()) -> Registry:
    """Load every installed plugin and the given files. Raises: PluginError if one of the files is broken."""
    registry = load_registry(plugin_files)
    registry.check_files()
    return registry


def with_components(
    config: ConfigT, role: str, registry: Registry, options: Callable[[Registration], Config]
) -> ConfigT:
    """Return the configuration of a component of a role, with the components that its settings name.

    options: makes the configuration of such a component. Raises: PluginError if one is not installed; ConfigError if it
    is built from components itself.
    """
    chosen: dict[str, Chosen] = {}
    for field in type(config).component_fields():
        registration = registry.get(role, getattr(config, field))
        if registration.config is not None and registration.config.component_fields():
            raise ConfigError(
                one_line(f"config: {role}.{field} = '{registration.name}' is built from other components itself"),
                fix=f"choose another {role}: worldlab plugins --role {role}",
            )
        chosen[field] = Chosen(registration, options(registration))
    return config.with_chosen(chosen) if chosen else config


def _known_role(role: str) -> str:
    if role not in ROLES:
        message = one_line(f"no role named {role!r}.{did_you_mean(role, ROLES)}")
        raise PluginError(
            message, cause=f"roles: {', '.join(ROLES)}", fix="worldlab plugins   lists every role and name"
        )
    return role
