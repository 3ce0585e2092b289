"""Imports the package of a tracker, or says how it is installed."""

from __future__ import annotations

import importlib
from typing import Any

from worldlab.errors import PluginError, one_line


def import_package(name: str) -> Any:
    """Import a package, which the extra of the same name installs. Raises: PluginError with the command that does."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise PluginError(
            f"the tracker '{name}' needs the package {name!r}, which is not installed",
            cause=one_line(error),
            fix=f'pip install "worldlab[{name}]"',
        ) from error
