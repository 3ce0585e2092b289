"""worldlab: mix any encoder, dynamics and decoder into a world model, act inside it, compare honestly.

Names are imported when first used, so that `import worldlab` stays fast and never imports torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worldlab import errors as errors
    from worldlab.api import Run as Run
    from worldlab.api import load as load
    from worldlab.api import resume as resume
    from worldlab.api import train as train
    from worldlab.config import Config as Config
    from worldlab.config import field as field
    from worldlab.hookspecs import hookimpl as hookimpl

    __version__: str

_EXPORTS = {
    "Config": "worldlab.config:Config",
    "Run": "worldlab.api:Run",
    "field": "worldlab.config:field",
    "hookimpl": "worldlab.hookspecs:hookimpl",
    "errors": "worldlab.errors:",
    "load": "worldlab.api:load",
    "resume": "worldlab.api:resume",
    "train": "worldlab.api:train",
}

__all__ = ["Config", "Run", "errors", "field", "hookimpl", "load", "resume", "train"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value: Any = _version()
    elif name in _EXPORTS:
        module, _, attribute = _EXPORTS[name].partition(":")
        loaded = importlib.import_module(module)
        value = getattr(loaded, attribute) if attribute else loaded
    else:
        raise AttributeError(f"module 'worldlab' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS, "__version__"})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("worldlab")
    except PackageNotFoundError:
        return "0+unknown"  # run from a source tree that was never installed
