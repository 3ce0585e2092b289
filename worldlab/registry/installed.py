"""Lists the entry points of the installed distributions, one distribution at a time.

`importlib.metadata.entry_points` fails as a whole if one distribution has metadata that cannot be read. Here such a
distribution is a plugin that fails to load, with its folder in the message, if it may contain one.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from worldlab.registry.entries import BUILTIN, Source, normalise
from worldlab.registry.faults import Fault, explain

Load = Callable[[], ModuleType]


def find_installed(group: str, builtin_only: bool) -> list[tuple[Source, Load]]:
    """Return the plugins of an entry-point group: those of worldlab first, then by distribution and name.

    builtin_only: leave out all other distributions. A plugin that cannot be read raises Fault when it is loaded.
    """
    found: list[tuple[Source, Load]] = []
    seen: set[str] = set()
    for distribution in importlib.metadata.distributions():
        # Of two distributions with one name, the first on the path is the one that is imported.
        name = normalise(_folder(distribution).stem.partition("-")[0])
        if not name or name not in seen:
            seen.add(name)
            found += _plugins(distribution, group)
    found = [(source, load) for source, load in found if source.distribution == BUILTIN or not builtin_only]
    return sorted(found, key=lambda item: (item[0].distribution != BUILTIN, item[0].distribution.lower(), item[0].name))


def _plugins(distribution: importlib.metadata.Distribution, group: str) -> Iterator[tuple[Source, Load]]:
    folder = _folder(distribution)
    try:
        points = list(distribution.entry_points.select(group=group))
    except Exception as error:
        yield _unreadable(folder, "entry_points.txt", error)
        return
    if not points:
        return
    try:
        name, version = distribution.metadata["Name"], distribution.version
        if not name:
            raise ValueError("it has no entry Name")
    except Exception as error:
        yield _unreadable(folder, "METADATA", error)
        return
    for point in points:
        source = Source(point.name, name, version, f"entry point {point.name} = {point.value}")
        yield source, partial(_load, point, folder)


def _load(point: importlib.metadata.EntryPoint, folder: Path) -> ModuleType:
    try:
        return point.load()
    except ModuleNotFoundError as error:
        if not error.name or not f"{point.module}.".startswith(f"{error.name}."):
            raise
        # Installing a package of that name would run the code of whoever owns the name on the index.
        raise Fault(
            f"has no module {error.name!r}, which its entry point {point.name!r} names",
            where=str(folder / "entry_points.txt"),
            fix="correct [project.entry-points.worldlab] in its pyproject.toml and install it again",
        ) from error


def _unreadable(folder: Path, file: str, error: Exception) -> tuple[Source, Load]:
    name, _, version = folder.stem.partition("-")
    name = normalise(name) or "unknown"
    if name == BUILTIN:
        name = f"{BUILTIN}-unreadable"  # it must not get the rights of worldlab's own plugins
    source = Source(name, name, version, f"metadata in {folder}")
    return source, partial(_raise, f"has metadata that cannot be read: {file}: {explain(error)}", folder / file, name)


def _raise(reason: str, file: Path, name: str) -> NoReturn:
    raise Fault(reason, where=str(file), fix=f"reinstall it: pip install --force-reinstall {name}")


def _folder(distribution: Any) -> Path:
    """Return the folder of a distribution's metadata, whose name is that of the distribution; an empty path if unknown."""
    return Path(str(getattr(distribution, "_path", "")))


__all__ = ["Load", "find_installed"]
