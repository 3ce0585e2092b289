"""Small configurations for checks, made from a component's own Config class. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, TypeVar, get_args, get_origin

from pydantic import ValidationError

from worldlab.settings import Config

ConfigT = TypeVar("ConfigT", bound=Config)


def small_config(config: type[ConfigT], **values: object) -> ConfigT:
    """Return a configuration at the smallest size of the dial. values: fields to set besides."""
    return config.sized("nano", **values)


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
