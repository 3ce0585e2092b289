"""Standardisation of data to mean 0 and variance 1, the units of the noise that a flow starts from."""

from __future__ import annotations

import torch
from torch import Tensor, nn

FLOOR = 0.1
"""Smallest std; a nearly constant entry would otherwise be amplified to the largest when it changes."""
RATE = 0.01
"""Rate of the running moments after the first hundred batches."""


class Standardiser(nn.Module):
    """The map (x - mean) / std with running moments of `shape`: one for each entry, or () for all entries, as for an
    image.

    `record_moments` only records a batch's moments; `update`, called between updates, applies them. So nothing changes
    within an update, and the same batch gives the same loss twice.
    """

    mean: Tensor
    variance: Tensor
    noted_mean: Tensor
    noted_variance: Tensor
    noted: Tensor
    count: Tensor

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        for name, value in (("mean", 0.0), ("variance", 1.0), ("noted_mean", 0.0), ("noted_variance", 1.0)):
            self.register_buffer(name, torch.full(shape, value))
        self.register_buffer("noted", torch.tensor(False))
        self.register_buffer("count", torch.zeros(()))

    @property
    def std(self) -> Tensor:
        return self.variance.sqrt().clamp(min=FLOOR)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std

    def inverse(self, x: Tensor) -> Tensor:
        return self.mean + self.std * x

    @torch.no_grad()
    def record_moments(self, x: Tensor, mask: Tensor) -> None:
        """Record the moments of x [N, *shape] where mask [N] is not 0."""
        x = x.float()
        dims = tuple(range(x.dim() - self.mean.dim()))
        weight = mask.float().reshape(-1, *[1] * (x.dim() - 1)).expand_as(x)
        total = weight.sum(dims).clamp(min=1)
        mean = (weight * x).sum(dims) / total
        self.noted_mean.copy_(mean)
        self.noted_variance.copy_((weight * (x - mean).square()).sum(dims) / total)
        self.noted.fill_(bool(mask.any()))

    @torch.no_grad()
    def update(self) -> None:
        """Move the moments towards those recorded since the last call, if any. The first batch sets them."""
        if not self.noted:
            return
        self.count.add_(1)
        rate = max(RATE, 1 / float(self.count))
        shift = self.noted_mean - self.mean
        # The spread of the batch means contributes to the variance: two narrow halves can form a wide whole.
        spread = rate * (1 - rate) * shift.square()
        self.variance.lerp_(self.noted_variance, rate).add_(spread)
        self.mean.add_(rate * shift)
        self.noted.fill_(False)


def for_codes(classes: int, dim: int) -> Standardiser:
    """Return fixed units for flat one-hots [N, dim] of `classes` classes: mean 0 and variance 1 under uniform codes."""
    units = Standardiser((dim,))
    units.mean.fill_(1 / classes)
    units.variance.fill_((classes - 1) / classes**2)
    return units
