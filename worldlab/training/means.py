"""Averages the metrics of updates between two log lines. A checkpoint holds the sums, so a resumed run logs the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class Means:
    """The means of named scalars since the last `take`; a name may be absent from some updates."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Add the scalars of one update. They stay on their device, because reading one waits for the device."""
        for name, value in values.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1

    def take(self) -> dict[str, float]:
        """Return the means, and begin anew."""
        means = {name: float(total) / self._counts[name] for name, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        return means

    def state(self) -> dict[str, list[Any]]:
        """Return JSON data for `restore`: sum (hexadecimal: exact, and NaN is allowed), type and count of each name."""
        kinds = {name: str(torch.as_tensor(total).dtype).removeprefix("torch.") for name, total in self._sums.items()}
        return {name: [float(total).hex(), kinds[name], self._counts[name]] for name, total in self._sums.items()}

    def restore(self, state: Mapping[str, list[Any]], device: torch.device) -> None:
        """Continue from what `state` returned."""
        for name, (total, kind, count) in state.items():
            self._sums[name] = torch.tensor(float.fromhex(total), dtype=getattr(torch, kind), device=device)
            self._counts[name] = count
