"""Principal components of features: few coordinates of equal variance, which reduce the dimensions of a search."""

from __future__ import annotations

import torch
from torch import Tensor, nn

FIT_BATCHES = 20
"""Number of batches on which the components are computed."""


class PrincipalComponents(nn.Module):
    """A projection from x [N, F] to the k directions of most variance [N, k], each scaled to variance 1 / k, so that
    together they weigh as much as a bias of 1. Computed once, on the first FIT_BATCHES batches. Jolliffe 2002,
    Principal Component Analysis.
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
        """Add rows [N, F] to the moments; does nothing once the components are fitted."""
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
        # Bounds the scale of directions with almost no variance; if no direction varies at all, none is amplified.
        least = max(1e-6 * float(variance[-1]), 1e-8)
        scale = variance[-kept:].clamp(min=least).rsqrt() / kept**0.5
        self.basis.copy_((vectors[:, -kept:] * scale).T.flip(0))
        self.center.copy_(mean)

    def forward(self, features: Tensor) -> Tensor:
        return (features - self.center) @ self.basis.T
