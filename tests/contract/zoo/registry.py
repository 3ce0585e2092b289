"""The list of broken components."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

from worldlab.testing.runner import as_subject


@dataclass(frozen=True)
class BrokenComponent:
    """A component with one bug.

    check: the id of the check that must fail. message: text that the cause must contain; "|" separates alternatives.
    settings: fields of its configuration.
    """

    cls: type
    check: str
    message: str
    settings: dict

    @property
    def role(self) -> str:
        return as_subject(self.cls).role


BROKEN_COMPONENTS: list[BrokenComponent] = []


def broken(check: str, message: str, **settings: object) -> Callable[[type], type]:
    """Register a class as a broken component. settings: fields of its configuration."""

    def register(cls: type) -> type:
        BROKEN_COMPONENTS.append(BrokenComponent(cls, check, message, settings))
        return cls

    return register


for _module in ("encoders", "dynamics", "sequences", "decoders", "agents", "adapters", "launchers", "trackers"):
    importlib.import_module(f"zoo.{_module}")
