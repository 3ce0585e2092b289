"""Lists the installed components by role and name, and the plugins that failed to load, with the reason.

`load_registry` builds a `Registry` and imports only the light registration modules of the plugins. The module of a
component is imported by `Registration.load`, when the component is first used.
"""

from __future__ import annotations

import importlib
import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any, Literal, get_args

from worldlab.errors import PluginError, did_you_mean, one_line
from worldlab.settings import Config

log = logging.getLogger("worldlab")
Role = Literal["encoder", "dynamics", "decoder", "agent", "env", "launcher"]
ROLES: tuple[str, ...] = get_args(Role)
BUILTIN = "worldlab"
"""The distribution whose plugins load first, and load even with WORLDLAB_PLUGINS=off."""


@dataclass(frozen=True)
class Source:
    """The origin of a plugin.

    name: the entry point's name, or the file's stem. origin: how it was found, for messages. path and sha256: of a
    `--plugin` file, else None. cost: a sentence about registration that slows every start, or "".
    """

    name: str
    distribution: str
    version: str
    origin: str
    path: Path | None = None
    sha256: str | None = None
    cost: str = ""

    @property
    def label(self) -> str:
        return f"{self.distribution} {self.version}".strip()


@dataclass(frozen=True)
class Registration:
    """One component as its plugin declared it. target: "module:Attribute", imported by `load`."""

    role: str
    name: str
    target: str
    config: type[Config] | None
    summary: str
    api: int
    distribution: str
    version: str
    origin: str
    paper: str = ""
    preset: Mapping[str, Any] = field(default_factory=dict)
    variant_of: str = ""

    @property
    def file(self) -> str:
        """Return the `--plugin` file of the component; "" if it is installed."""
        return self.origin.removeprefix("--plugin ") if self.distribution.startswith("file:") else ""

    @property
    def who(self) -> str:
        """Return the component and its distribution for error messages: "plugin dist 1.0 (encoder 'foo')"."""
        return f"plugin {self.distribution} {self.version}".strip() + f" ({self.role} {self.name!r})"

    def load(self) -> Any:
        """Import the target and return it. Global state that the import changed is restored, with a warning.

        Raises: PluginError naming distribution, version and component.
        """
        from worldlab.registry.side_effects import restore_globals

        module, _, attribute = self.target.partition(":")
        try:
            with restore_globals(environment=False) as changed:
                found = reduce(getattr, attribute.split("."), importlib.import_module(module))
        except (Exception, SystemExit) as exc:
            raise self._broken(exc) from exc
        for state in changed:
            log.warning("%s changes %s when imported (restored): %s", self.who, state.name, state.fix)
        return found

    def _broken(self, exc: BaseException) -> PluginError:
        from worldlab.registry.discovery import explain, install_fix, where

        upgrade = f"repair or upgrade it: pip install -U {self.distribution}"
        return PluginError(
            one_line(f"{self.who} cannot be imported: {explain(exc)}"),
            cause=f"{explain(exc)}; {self.target}, at {where(exc)}",
            fix=install_fix(exc) or (f"repair {self.file}" if self.file else upgrade),
        )


def _whole(message: str, place: str) -> str:
    """Return the place of a fault, after the whole message if that message is too long for one line."""
    return place if one_line(message) == message else f"{message}; {place}"


@dataclass(frozen=True)
class BrokenPlugin:
    """A plugin that is installed but unusable. where: file:line of the fault. claims: (role, name) it registered."""

    name: str
    distribution: str
    version: str
    origin: str
    reason: str
    where: str
    fix: str = ""
    claims: tuple[tuple[str, str], ...] = ()
    path: Path | None = None

    def error(self, component: str = "") -> PluginError:
        """Return the error to raise when this plugin is needed. component: "encoder 'foo'", if known."""
        who = f"plugin {self.distribution} {self.version}".strip() + (f" ({component})" if component else "")
        fix = self.fix or f"repair it, or pip uninstall {self.distribution}"
        message = f"{who} {self.reason}"
        return PluginError(one_line(message), cause=_whole(message, f"{self.origin}, at {self.where}"), fix=fix)


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
        mine = tuple(e for e in everything if _normal(e.distribution) == _normal(text))
        for plugin in self.broken:  # first: never return the intact half of a broken distribution
            if _normal(plugin.distribution) == _normal(text):
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
        cause = None
        if self.broken:
            first = self.broken[0]
            more = f" (and {len(self.broken) - 1} more)" if len(self.broken) > 1 else ""
            cause = f"it may belong to a broken plugin: {first.distribution} {first.version} {first.reason}{more}"
        fix = f"worldlab plugins --role {role}   lists what is installed"
        if not any(source.distribution == BUILTIN for source in self.sources):
            fix = "install worldlab itself, which includes the built-in plugins: pip install -e ."
        return PluginError(
            one_line(f"{message} Installed: {', '.join(names) or 'none'}"),
            cause=cause and one_line(cause, 300),
            fix=fix,
        )


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


def _normal(distribution: str) -> str:
    """Normalise the name of a distribution as pip does."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _known_role(role: str) -> str:
    if role not in ROLES:
        message = one_line(f"no role named {role!r}.{did_you_mean(role, ROLES)}")
        raise PluginError(
            message, cause=f"roles: {', '.join(ROLES)}", fix="worldlab plugins   lists every role and name"
        )
    return role
