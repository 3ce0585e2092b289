"""Principal components of features: few coordinates of equal variance, in which a search has few directions to try."""

from __future__ import annotations

import torch
from torch import Tensor, nn

FIT_BATCHES = 20
"""Batches that the components are measured on."""


class PrincipalComponents(nn.Module):
    """x [N, F] -> [N, k]: the k directions of most variance, each scaled to variance 1 / k, so that together they weigh as
    much as a bias of 1. Measured once, on the first LOOKS batches it is shown. Jolliffe 2002, Principal Component Analysis.
    """

    looks: Tensor
    count: Tensor
    total: Tensor
    outer: Tensor
    center: Tensor
    basis: Tensor

    def __init__(self, features: int, components: int):
        super().__init__()
        self.register_buffer("looks", torch.zeros((), dtype=torch.long))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("total", torch.zeros(features, dtype=torch.float64))
        self.register_buffer("outer", torch.zeros(features, features, dtype=torch.float64))
        self.register_buffer("center", torch.zeros(features))
        self.register_buffer("basis", torch.zeros(components, features))

    @property
    def fitted(self) -> bool:
        """Whether the directions are fixed."""
        return int(self.looks) >= FIT_BATCHES

    @torch.no_grad()
    def update(self, features: Tensor) -> None:
        """Count rows [N, F] in; nothing changes any more once it is settled."""
        if self.fitted:
            return
        rows = features.double()
        self.looks += 1
        self.count += len(rows)
        self.total += rows.sum(0)
        self.outer += rows.T @ rows
        if self.fitted:
            self._fit()

    def _fit(self) -> None:
        mean = self.total / self.count
        covariance = self.outer / self.count - torch.outer(mean, mean)
        variance, vectors = torch.linalg.eigh(covariance)  # ascending
        kept = len(self.basis)
        # A direction in which nothing was seen to vary would be magnified without bound; where none varies at all, none is.
        least = max(1e-6 * float(variance[-1]), 1e-8)
        scale = variance[-kept:].clamp(min=least).rsqrt() / kept**0.5
        self.basis.copy_((vectors[:, -kept:] * scale).T.flip(0))
        self.center.copy_(mean)

    def forward(self, features: Tensor) -> Tensor:
        return (features - self.center) @ self.basis.T
