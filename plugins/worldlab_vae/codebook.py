"""The codebook of VQ-VAE: nearest codes, moving averages, a k-means start and revival of dead codes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from worldlab.distributions import one_hot
from worldlab.nn import reached

DECAY = 0.99
"""Decay of the moving averages per update: VQ-VAE's."""
DEAD = 0.1
"""A code is dead if it is used less often than this share of an even use of all codes."""
ROUNDS = 10
"""Iterations of k-means at the start."""


class Codebook(nn.Module):
    """G codebooks of K vectors of width d; one for each token of a frame.

    Van den Oord et al. 2017, arXiv:1711.00937, section 3.2 and appendix A.1: a code is the moving average of the vectors
    that are nearest to it. Dead codes restart at a random vector of the batch (Dhariwal et al. 2020, arXiv:2005.00341).
    No optimiser trains it.
    """

    vectors: Tensor
    mass: Tensor
    sums: Tensor
    started: Tensor

    def __init__(self, groups: int, codes: int, width: int):
        super().__init__()
        self.register_buffer("vectors", torch.randn(groups, codes, width))
        self.register_buffer("mass", torch.ones(groups, codes))
        self.register_buffer("sums", self.vectors.clone())
        self.register_buffer("started", torch.tensor(False))

    def nearest(self, y: Tensor) -> Tensor:
        """Return the index of the code nearest to each vector: y [N, G, d] -> [N, G] long."""
        return _nearest(y, self.vectors)

    def look_up(self, codes: Tensor) -> Tensor:
        """Return the vectors [N, G, d] of codes [N, G] long."""
        index = codes.t()[..., None].expand(-1, -1, self.vectors.shape[-1])
        return self.vectors.gather(1, index).transpose(0, 1)

    @torch.no_grad()
    def update(self, y: Tensor, spare: Tensor) -> None:
        """Move the codes towards the vectors y [N, G, d] of one batch. spare: random vectors [K, G, d] of this batch.

        The first call places the codes by k-means, which starts at `spare`.
        """
        spare = spare.transpose(0, 1)
        if not reached(self, "started", True):
            self._start(y, spare)
        counts, sums = _totals(y, self.vectors)
        self.mass.lerp_(counts, 1 - DECAY)
        self.sums.lerp_(sums, 1 - DECAY)
        share = self.mass.sum(1, keepdim=True) / self.mass.shape[1]
        dead = self.mass < DEAD * share
        mass = torch.where(dead, share, self.mass)
        self.mass.copy_(mass)
        self.sums.copy_(torch.where(dead[..., None], mass[..., None] * spare, self.sums))
        self.vectors.copy_(self.sums / mass.clamp(min=1e-6)[..., None])

    def _start(self, y: Tensor, spare: Tensor) -> None:
        vectors = spare.to(self.vectors.dtype)
        for _ in range(ROUNDS):
            counts, sums = _totals(y, vectors)
            vectors = torch.where(counts[..., None] > 0, sums / counts.clamp(min=1)[..., None], vectors)
        counts, _ = _totals(y, vectors)
        self.vectors.copy_(vectors)
        self.mass.copy_(counts)
        self.sums.copy_(counts[..., None] * vectors)
        self.started.fill_(True)


def _nearest(y: Tensor, vectors: Tensor) -> Tensor:
    """Return the nearest of vectors [G, K, d] to each of y [N, G, d]: [N, G] long."""
    y = y.to(vectors.dtype)
    with torch.autocast(y.device.type, enabled=False):
        distance = vectors.square().sum(-1) - 2 * torch.einsum("ngd,gkd->ngk", y, vectors)
    return distance.argmin(-1)


def _totals(y: Tensor, vectors: Tensor) -> Any:
    """Return how many of y [N, G, d] are nearest to each of vectors [G, K, d], and their sums: [G, K], [G, K, d]."""
    y = y.to(vectors.dtype)
    hot = one_hot(_nearest(y, vectors), vectors.shape[1], y.dtype)
    with torch.autocast(y.device.type, enabled=False):
        return hot.sum(0), torch.einsum("ngk,ngd->gkd", hot, y)
