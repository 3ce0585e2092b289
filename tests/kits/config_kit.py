"""Configurations with other constants: for tests of what a constant does, which no user sets."""

from __future__ import annotations

from typing import Any, TypeVar

from worldlab.settings import Config

ConfigT = TypeVar("ConfigT", bound=Config)


def configured(config: type[ConfigT], **values: Any) -> ConfigT:
    """Build a configuration; values that name no field replace class constants. Raises: AssertionError for an unknown name."""
    constants = {name: value for name, value in values.items() if name not in config.model_fields}
    assert all(hasattr(config, name) for name in constants), f"{config.__name__} has no {', '.join(constants)}"
    fields = {name: value for name, value in values.items() if name in config.model_fields}
    return type(config.__name__, (config,), {"__module__": config.__module__, **constants})(**fields)
