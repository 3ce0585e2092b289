"""Small configurations for checks, made from a component's own Config class. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, TypeVar, get_args, get_origin

from pydantic import ValidationError

from worldlab.config.resolve import NoOptions
from worldlab.registry import Registration, load_registry, with_components
from worldlab.settings import Config

ConfigT = TypeVar("ConfigT", bound=Config)


def small_config(config: type[ConfigT], **values: object) -> ConfigT:
    """Return a configuration at the smallest size of the dial. values: fields to set besides."""
    return config.sized("nano", **values)


def complete(config: ConfigT, role: str, small: bool = True) -> ConfigT:
    """Return a configuration with the installed components that its settings name, at small or at default sizes."""
    if config.is_complete:
        return config

    def options(entry: Registration) -> Config:
        inner = entry.config or NoOptions
        return small_config(inner) if small else inner()

    return with_components(config, role, load_registry(), options)


def variants(config: ConfigT) -> Iterator[tuple[str, ConfigT]]:
    """Yield ("field=choice", configuration) for every other choice of every Literal field: the modes a class has."""
    for name, info in type(config).model_fields.items():
        if get_origin(info.annotation) is not Literal:
            continue
        for choice in get_args(info.annotation):
            if choice == getattr(config, name):
                continue
            try:
                yield f"{name}={choice}", type(config)(**{**dict(config), name: choice})
            except ValidationError:
                continue  # this choice needs another field set too; the class says so itself
