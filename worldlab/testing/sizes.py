"""Small configurations for checks, made from a component's own Config class. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import ValidationError

from worldlab.settings import Config

ConfigT = TypeVar("ConfigT", bound=Config)

SMALL: dict[str, int] = {
    "width": 4,
    "channels": 4,
    "units": 16,
    "hidden": 16,
    "layers": 1,
    "depth": 1,
    "blocks": 1,
    "heads": 2,
    "memory": 16,
    "latent_dim": 8,
    "groups": 2,
    "classes": 4,
    "embed_dim": 16,
    "projection": 16,
    "context": 8,
    "window": 8,
}
"""Sizes by field name, or by the last word of it ("critic_units"). A size is only ever shrunk, never grown."""


def small_config(config: type[ConfigT], **values: Any) -> ConfigT:
    """A valid configuration with small sizes: `config.small()` if the class offers that, else by field name.

    values: fields to set besides. A shrunken size that the class's own validation refuses keeps its default.
    """
    offered = getattr(config, "small", None)
    if callable(offered):
        small = offered()
        assert isinstance(small, config), f"{config.__name__}.small() returns a {type(small).__name__}"
        return config(**{**dict(small), **values})
    chosen = dict(values)
    for name, size in _sizes(config, values):
        try:
            config(**chosen, **{name: size})
        except ValidationError:
            continue
        chosen[name] = size
    return config(**chosen)


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


def _sizes(config: type[Config], taken: dict[str, Any]) -> Iterator[tuple[str, int]]:
    for name, info in config.model_fields.items():
        size = SMALL.get(name, SMALL.get(name.rpartition("_")[2]))
        default = info.default
        if size is None or name in taken or not isinstance(default, int) or isinstance(default, bool):
            continue
        if default > size:
            yield name, size
