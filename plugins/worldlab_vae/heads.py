"""The network head shared by posterior and prior, so that their KL has a closed form."""

from __future__ import annotations

from torch import Tensor, nn

from worldlab.distributions import Normal, OneHot, unit_softplus
from worldlab.nn import mlp
from worldlab.specs import LatentSpec


class LatentHead(nn.Module):
    """A head that maps inputs [N, I] to a Normal over D or a OneHot over groups x classes, by the kind of the latent.

    A "point" latent gets a Normal: the prior of a deterministic code is a density over it.
    """

    def __init__(self, inputs: int, units: int, latent: LatentSpec, unimix: float, min_std: float, layers: int = 1):
        super().__init__()
        self.latent = latent
        self.unimix = unimix
        self.min_std = min_std
        outputs = latent.dim if latent.kind == "categorical" else 2 * latent.dim
        self.net = mlp(inputs, units, layers, outputs)

    def forward(self, inputs: Tensor) -> Normal | OneHot:
        out = self.net(inputs)
        if self.latent.kind == "categorical":
            return OneHot.with_unimix(out.unflatten(-1, (self.latent.groups, self.latent.classes)), self.unimix)
        mean, raw = out.chunk(2, -1)
        return Normal(mean, unit_softplus(raw) + self.min_std)
