"""Describes what went wrong in a plugin: the reason in one line, the place, and the command that installs a missing module."""

from __future__ import annotations

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


def install_fix(exc: BaseException) -> str:
    """Return the command that installs a missing module, or an empty string."""
    return f"pip install {exc.name.partition('.')[0]}" if isinstance(exc, ModuleNotFoundError) and exc.name else ""
