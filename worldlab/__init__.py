"""worldlab: mix any encoder, dynamics and decoder into a world model, act inside it, compare honestly.

Names are imported when first used, so that `import worldlab` stays fast and never imports torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worldlab import errors as errors
    from worldlab.registry.hookspecs import hookimpl as hookimpl
    from worldlab.settings import Config as Config
    from worldlab.settings import component as component
    from worldlab.settings import field as field
    from worldlab.settings import sized as sized
    from worldlab.training.api import Run as Run
    from worldlab.training.api import load as load
    from worldlab.training.api import resume as resume
    from worldlab.training.api import train as train

    __version__: str

_EXPORTS = {
    "Config": "worldlab.settings:Config",
    "Run": "worldlab.training.api:Run",
    "component": "worldlab.settings:component",
    "field": "worldlab.settings:field",
    "hookimpl": "worldlab.registry.hookspecs:hookimpl",
    "errors": "worldlab.errors:",
    "load": "worldlab.training.api:load",
    "sized": "worldlab.settings:sized",
    "resume": "worldlab.training.api:resume",
    "train": "worldlab.training.api:train",
}

__all__ = ["Config", "Run", "component", "errors", "field", "hookimpl", "load", "resume", "sized", "train"]


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
