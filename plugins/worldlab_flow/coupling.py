"""A conditional coupling flow of vectors, with one network call per coupling in both directions.

Dinh et al. 2014 (NICE), arXiv:1410.8516; 2016 (RealNVP), arXiv:1605.08803; splines: Durkan et al. 2019 (NSF),
arXiv:1906.04032. The one-dimensional maps are zuko's. The couplings are our own, because they must be normalised,
conditional and cheap in both directions.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Transform
from zuko.transforms import MonotonicAffineTransform, MonotonicRQSTransform

from worldlab.distributions import at_least_float32
from worldlab.nn import mlp

SLOPE = 0.1
"""Scales of affine maps, slopes at the knots of splines and ratios of bins lie between SLOPE and 1 / SLOPE, which keeps
densities and inverses in range. 0.01 fits sharp modes slightly better (0.05 nats on four modes of std 0.15), but its
inverses lose five times as many digits."""


class Coupling(nn.Module):
    """One coupling: half of the entries are mapped by one-dimensional maps, whose parameters depend on the other half
    and the context.

    `moved`, `kept`: indices of the two halves. With one entry nothing is kept, and the network reads the context alone.
    bins: of splines; 0: affine maps, which only shift if `additive`.
    """

    moved: Tensor
    kept: Tensor

    def __init__(self, moved: Tensor, context: int, units: int, layers: int, bins: int, additive: bool = False):
        super().__init__()
        dim, self.bins = len(moved), bins
        self.register_buffer("moved", moved.nonzero()[:, 0])
        self.register_buffer("kept", (~moved).nonzero()[:, 0])
        self.sizes = [bins, bins, bins - 1] if bins else [1] if additive else [1, 1]
        # The last layer starts at 0, so the coupling starts as the identity.
        outputs = len(self.moved) * sum(self.sizes)
        self.net = mlp(dim - len(self.moved) + context, units, layers, outputs, zero=True)

    def maps(self, kept: Tensor, context: Tensor) -> Transform:
        """Return the one-dimensional maps [N, M] from x to noise, given the kept entries."""
        out = at_least_float32(self.net(torch.cat([kept, context], -1))).to(kept.dtype)
        shape = out.unflatten(-1, (len(self.moved), sum(self.sizes))).split(self.sizes, -1)
        if self.bins:
            widths, heights, slopes = shape
            return MonotonicRQSTransform(widths, heights, slopes, slope=SLOPE)
        shift, *scale = (part[..., 0] for part in shape)
        return MonotonicAffineTransform(shift, scale[0] if scale else torch.zeros_like(shift), slope=SLOPE)

    def generate(self, noise: Tensor, context: Tensor) -> Tensor:
        inverse: Any = self.maps(noise[:, self.kept], context).inv
        return noise.index_copy(1, self.moved, inverse(noise[:, self.moved]))

    def normalise(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Map x to noise; also return the log-slopes [N, M] of the moved entries."""
        maps: Any = self.maps(x[:, self.kept], context)
        noise, slopes = maps.call_and_ladj(x[:, self.moved])
        return x.index_copy(1, self.moved, noise), slopes


class CouplingFlow(nn.Module):
    """Couplings over alternating halves of D entries; D may be odd, and 1. Implements VectorFlow.

    kind "spline": rational-quadratic splines with `bins` bins on [-5, 5]; "realnvp": affine maps; "nice": shifts, which
    leave the volume as it is.
    """

    def __init__(
        self,
        dim: int,
        context: int,
        kind: Literal["spline", "realnvp", "nice"],
        transforms: int,
        units: int,
        layers: int,
        bins: int,
    ):
        super().__init__()
        self.couplings = nn.ModuleList()
        moved = torch.ones(dim, dtype=torch.bool)
        for i in range(transforms):
            # New halves for each pair of couplings: with fixed halves, entries of one half would interact
            # only through the other half.
            if i % 2 == 0:
                moved = torch.randperm(dim) >= dim // 2
            elif dim > 1:
                moved = ~moved
            chosen = bins if kind == "spline" else 0
            self.couplings.append(Coupling(moved, context, units, layers, chosen, additive=kind == "nice"))

    def generate(self, noise: Tensor, context: Tensor) -> Tensor:
        for coupling in reversed(self.couplings):
            noise = coupling.generate(noise, context)  # type: ignore[operator]
        return noise

    def normalise(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        noise, slopes = self.normalise_with_slopes(x, context)
        return noise, torch.cat(slopes, -1).sum(-1)

    def normalise_with_slopes(self, x: Tensor, context: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the noise and, by coupling, the log-slopes [N, M], whose sum is the log-determinant."""
        slopes = []
        for coupling in self.couplings:
            x, moved = coupling.normalise(x, context)  # type: ignore[operator]
            slopes.append(moved)
        return x, slopes
