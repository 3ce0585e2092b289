"""What a plugin declared: its origin, its components, and the reason why it cannot be used."""

from __future__ import annotations

import difflib
import importlib
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any, Literal, get_args

from worldlab.errors import PluginError, one_line
from worldlab.registry.faults import explain, install_fix, where
from worldlab.registry.side_effects import restore_globals
from worldlab.settings import Config

log = logging.getLogger("worldlab")
Role = Literal["encoder", "dynamics", "decoder", "agent", "env", "launcher", "dataset", "tracker", "store"]
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
        return f"plugin {self.label} ({self.role} {self.name!r})" if self.label else f"{self.role} {self.name!r}"

    @property
    def label(self) -> str:
        """Return the distribution and its version; of a file only its name, as its version is a hash."""
        return self.distribution if self.file else f"{self.distribution} {self.version}".strip()

    def load(self) -> Any:
        """Import the target and return it. Global state that the import changed is restored, with a warning.

        Raises: PluginError naming distribution, version and component.
        """
        import rich.style  # noqa: F401  # draws a number when imported: a library that shows progress with it is not at fault

        module, _, attribute = self.target.partition(":")
        try:
            with restore_globals(environment=False) as changed:
                found = reduce(getattr, attribute.split("."), importlib.import_module(module))
        except KeyboardInterrupt:
            raise
        except BaseException as exc:
            raise self._broken(exc, module) from exc
        for state in changed:
            log.warning("%s changes %s when imported (restored): %s", self.who, state.name, state.fix)
        return found

    def _broken(self, exc: BaseException, module: str) -> PluginError:
        upgrade = f"repair or upgrade it: pip install -U {self.distribution}"
        return PluginError(
            one_line(f"{self.who} cannot be imported: {explain(exc)}"),
            cause=f"{explain(exc)}; {self.target}, at {where(exc)}",
            fix=install_fix(exc, self.distribution, module) or (f"repair {self.file}" if self.file else upgrade),
        )


@dataclass(frozen=True)
class Chosen:
    """A component and its settings: what a setting that names a component stands for (worldlab.settings.component)."""

    registration: Registration
    options: Config


def normalise(distribution: str) -> str:
    """Normalise the name of a distribution as pip does."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


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

    @property
    def label(self) -> str:
        return self.distribution if self.path else f"{self.distribution} {self.version}".strip()

    def likelihood(self, name: str) -> float:
        """Return how much suggests that this plugin would have registered a name: 2 if its source contains it as a text.

        Else it is the similarity, 0 to 1, of the name to that of the entry point or the distribution.
        """
        if self._mentions(name):
            return 2.0
        names = {self.name.lower(), *re.split(r"[-_.:]+", self.distribution.lower())} - {BUILTIN}
        return max(difflib.SequenceMatcher(None, name.lower(), own).ratio() for own in names)

    def _mentions(self, name: str) -> bool:
        """Return whether the file in which the fault is has the name in quotes."""
        try:
            source = Path(self.where.rpartition(":")[0])
            text = source.read_text("utf-8") if source.is_file() and source.stat().st_size < 2**20 else ""
        except (OSError, ValueError):
            return False
        return f'"{name}"' in text or f"'{name}'" in text

    def error(self, component: str = "") -> PluginError:
        """Return the error to raise when this plugin is needed. component: "encoder 'foo'", if known."""
        who = f"plugin {self.label}" + (f" ({component})" if component else "")
        fix = self.fix or f"repair it, or pip uninstall {self.distribution}"
        message = f"{who} {self.reason}"
        place = f"at {self.where}" if self.path and self.where else f"{self.origin}, at {self.where}"
        return PluginError(one_line(message), cause=_whole(message, place), fix=fix)
