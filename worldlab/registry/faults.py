"""Describes what went wrong in a plugin: the reason in one line, the place, and the command that installs a missing module."""

from __future__ import annotations

import importlib.metadata
import os
import re
import traceback
from pathlib import Path

from worldlab.errors import PluginError, one_line

_LIBRARY = re.compile(r"[\\/](site|dist)-packages[\\/](torch|numpy|pydantic|pluggy|zuko)[\\/]")


class Fault(Exception):
    """A fault of a plugin that raised no exception itself. where: file:line, if known."""

    def __init__(self, reason: str, *, where: str = "", fix: str = ""):
        super().__init__(reason)
        self.where = where
        self.fix = fix


class OwnInterrupt(Exception):
    """A KeyboardInterrupt that a plugin raised itself. The text is the name of its class."""


def explain(exc: BaseException) -> str:
    """Describe an exception of a plugin in one line."""
    try:
        text = f"it called sys.exit({exc.code!r})" if isinstance(exc, SystemExit) else str(exc)
    except BaseException:  # a plugin's own exception may fail to describe itself
        text = ""
    if text and isinstance(exc, Fault | OwnInterrupt | ImportError | PluginError | SystemExit):
        return one_line(text, 200)
    return one_line(f"{type(exc).__name__}: {text}" if text else type(exc).__name__, 200)


def where(exc: BaseException) -> str:
    """Return file:line of a syntax error, or of the innermost frame outside worldlab and its libraries."""
    if isinstance(exc, SyntaxError) and exc.filename:
        return f"{exc.filename}:{exc.lineno or 0}"
    frames = [f for f in traceback.extract_tb(exc.__traceback__) if not f.filename.startswith("<frozen")]
    own = str(Path(__file__).parent.parent) + os.sep  # with the separator: worldlab_hello is not ours
    outside = [f for f in frames if not f.filename.startswith(own) and not _LIBRARY.search(f.filename)] or frames
    return f"{outside[-1].filename}:{outside[-1].lineno}" if outside else "an unknown place"


def plugin_of(exc: BaseException) -> tuple[str, str, str] | None:
    """Return the plugin in whose code an exception arose: its distribution, the function, and file:line; else None.

    It is the innermost frame of a `--plugin` file, or of a package that an installed distribution other than worldlab
    names in its entry points.
    """
    owners = _packages()
    found, step = None, exc.__traceback__
    while step is not None:
        names, code = step.tb_frame.f_globals, step.tb_frame.f_code
        file = names.get("__worldlab_source__")
        owner = f"file {Path(file[0]).name}" if file else owners.get(str(names.get("__name__")).partition(".")[0])
        if owner:
            found = owner, code.co_qualname, f"{code.co_filename}:{step.tb_lineno}"
        step = step.tb_next
    return found


def _packages() -> dict[str, str]:
    """Return the packages that entry points name, with their distributions; worldlab's own are left out."""
    try:
        points = list(importlib.metadata.entry_points(group="worldlab"))
    except Exception:  # unreadable metadata of any distribution
        return {}
    return {
        point.module.partition(".")[0]: point.dist.name
        for point in points
        if point.dist and point.dist.name != "worldlab"
    }


def install_fix(exc: BaseException, distribution: str, own: str = "") -> str:
    """Return what to do about a missing module; "" if none is missing. own: the module of a component's target.

    It names a package to install only if the distribution requires it: a misspelt import may be a stranger's package.
    """
    if not isinstance(exc, ModuleNotFoundError) or not exc.name:
        return ""
    name = exc.name.partition(".")[0]
    if f"{own}.".startswith(f"{exc.name}."):
        return f"correct the target {own!r} in worldlab_register: the plugin has no such module"
    if name.lower() in _requirements(distribution):
        return f"pip install {name}"
    return f"correct the import of {name!r} there, or install the package that has this module"


def _requirements(distribution: str) -> set[str]:
    """Return the names of the packages that an installed distribution requires, as modules are spelt."""
    try:
        lines = importlib.metadata.requires(distribution) or []
    except Exception:  # a file, or metadata that cannot be read
        return set()
    return {re.split(r"[^\w.-]", line.strip(), maxsplit=1)[0].replace("-", "_").lower() for line in lines}
