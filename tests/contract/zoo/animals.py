"""The list of broken components."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

from worldlab.interfaces import Decoder, Dynamics, Encoder


@dataclass(frozen=True)
class Animal:
    """A broken component. check: the id of the check that must fail. says: words its sentence must contain."""

    cls: type
    check: str
    says: str
    use: dict

    @property
    def role(self) -> str:
        return next(r for r, base in _ROLES.items() if issubclass(self.cls, base))


_ROLES = {"encoder": Encoder, "dynamics": Dynamics, "decoder": Decoder}
ANIMALS: list[Animal] = []


def broken(check: str, says: str, **use: object) -> Callable[[type], type]:
    """Put a class into the zoo. use: settings of its configuration."""

    def put(cls: type) -> type:
        ANIMALS.append(Animal(cls, check, says, use))
        return cls

    return put


for _module in ("encoders", "dynamics", "sequences", "decoders"):
    importlib.import_module(f"zoo.{_module}")
