"""Shows the latent of a moment as numbers, and changes one of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from worldlab.errors import ConfigError
from worldlab.rollout import Carry
from worldlab.specs import LatentSpec


@dataclass(frozen=True)
class Codes:
    """A latent as numbers: the class of each group of a categorical latent, or the value of each entry of another one."""

    spec: LatentSpec

    @property
    def is_categorical(self) -> bool:
        return self.spec.kind == "categorical"

    @property
    def count(self) -> int:
        """The number of groups or entries."""
        return self.spec.groups if self.is_categorical else self.spec.dim

    def read(self, z: Tensor) -> list[float]:
        """Return the numbers of a latent z [1, D]."""
        if self.is_categorical:
            return z.view(self.spec.groups, self.spec.classes).argmax(-1).tolist()
        return [round(value, 4) for value in z[0].tolist()]

    def change(self, z: Tensor, changes: dict[int, float]) -> Tensor:
        """Return a latent [1, D] with some of its numbers changed. Raises: ConfigError for a number that does not exist."""
        z = z.clone()
        for index, value in changes.items():
            if not 0 <= index < self.count or (self.is_categorical and value not in range(self.spec.classes)):
                raise ConfigError(
                    f"there is no code {index} with the value {value:g}",
                    cause=f"{self.count} codes" + (f" of {self.spec.classes} classes" if self.is_categorical else ""),
                    fix="reload the page",
                )
            if self.is_categorical:
                group = z.view(self.spec.groups, self.spec.classes)[index]
                group.copy_(torch.nn.functional.one_hot(torch.tensor(int(value)), self.spec.classes))
            else:
                z[0, index] = value
        return z

    def changed_carry(self, carry: Carry, changes: dict[int, float]) -> Carry:
        """Return a carry of one row with a changed latent."""
        return replace(carry, z=self.change(carry.z, changes))

    def summary(self) -> dict[str, Any]:
        """Return what the page needs to show the numbers."""
        return {"kind": self.spec.kind, "count": self.count, "classes": self.spec.classes}
