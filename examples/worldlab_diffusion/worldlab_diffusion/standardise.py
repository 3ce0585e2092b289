"""Units in which data has mean 0 and variance 1: those of the noise a flow starts from."""

from __future__ import annotations

import torch
from torch import Tensor, nn

FLOOR = 0.1
"""Smallest std: an entry that hardly ever moves would otherwise be blown up to the loudest when it does."""
RATE = 0.01
"""Rate at which the moments follow the data, once a hundred batches were seen."""


class Standardiser(nn.Module):
    """(x - mean) / std by running moments of `shape`: one for each entry, or () for one of everything, as of a picture.

    `watch` only notes a batch's moments; `follow`, called between updates, takes them over. So nothing changes within an
    update, and the same batch gives the same loss twice.
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
        """Note the moments of x [N, *shape] where mask [N] is not 0."""
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
        """Move towards what was noted since the last call, if anything was. The first batch sets the moments."""
        if not self.noted:
            return
        self.count.add_(1)
        rate = max(RATE, 1 / float(self.count))
        shift = self.noted_mean - self.mean
        # The spread of the means counts as variance too: of two halves, each narrow, the whole is wide.
        spread = rate * (1 - rate) * shift.square()
        self.variance.lerp_(self.noted_variance, rate).add_(spread)
        self.mean.add_(rate * shift)
        self.noted.fill_(False)


def for_codes(classes: int, dim: int) -> Standardiser:
    """Fixed units for flat one-hots [N, dim] of so many classes: mean 0 and variance 1 where all are equally likely."""
    units = Standardiser((dim,))
    units.mean.fill_(1 / classes)
    units.variance.fill_((classes - 1) / classes**2)
    return units
