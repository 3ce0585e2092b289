"""The decoder p(o | h, z) explains an observation. o: observation, h: memory, z: latent."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from worldlab.distributions import Distribution
from worldlab.interfaces import Decoder, Obs, Specs
from worldlab.nn import ObsHead

from worldlab_parts.configs import LaplaceConfig

HALF = 1 / 510
"""Half of the distance between two grey levels, k / 255 - 0.5."""


@dataclass(frozen=True)
class Laplace:
    """Independent Laplace variables. mean, scale: [N, *shape]. log_prob and log_mass are those of the whole array, [N]."""

    mean: Tensor
    scale: Tensor

    @property
    def mode(self) -> Tensor:
        return self.mean

    def sample(self, generator: torch.Generator) -> Tensor:
        """Draw by the inverse of the distribution function."""
        uniform = torch.empty_like(self.mean).uniform_(-0.499999, 0.499999, generator=generator)
        return self.mean - self.scale * uniform.sign() * torch.log1p(-2 * uniform.abs())

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log-density [N] in nats."""
        return (-(x - self.mean).abs() / self.scale - (2 * self.scale).log()).flatten(1).sum(1)

    def log_mass(self, x: Tensor) -> Tensor:
        """Return the log-probability [N] of grey levels: the mass between half a level below and half a level above.

        The lowest level has all that is below it, and the highest all that is above.
        """
        below, above = (x - HALF - self.mean) / self.scale, (x + HALF - self.mean) / self.scale
        below = torch.where(x < -0.5 + HALF, -torch.inf, below)
        above = torch.where(x > 0.5 - HALF, torch.inf, above)
        # By symmetry, an interval right of the mean has the mass of its mirror image on the left, where nothing cancels.
        right = below > 0
        low, high = torch.where(right, -above, below), torch.where(right, -below, above)
        left = high <= 0
        inside = -torch.exp(-high.clamp(min=0)) / 2 - torch.exp(low.clamp(max=0)) / 2
        tail = high.clamp(max=0) + torch.log(-torch.expm1(low - high)) - math.log(2)
        return torch.where(left, tail, torch.log1p(inside)).flatten(1).sum(1)


@final
class LaplaceDecoder(Decoder):
    """A Laplace variable for each number of the observation, with one learned scale for each key.

    It trains by -log p(o | h, z) of `decode`, the default of `Decoder.losses`.
    """

    Config = LaplaceConfig
    score_kind = "log_density"
    likelihood = "exact"

    def __init__(self, config: LaplaceConfig, specs: Specs) -> None:
        super().__init__(config, specs)
        self.net = ObsHead(specs.obs, specs.feature_dim, config.width, config.units, layers=2)
        self.log_scale = nn.ParameterDict({key: torch.full((), math.log(config.scale)) for key in specs.obs.keys})

    def decode(self, features: Tensor) -> dict[str, Distribution]:
        """Return one distribution per observation key. features [N, F]: memory and latent."""
        return dict(self.laplaces(features))

    def laplaces(self, features: Tensor) -> dict[str, Laplace]:
        """Return the distribution of each observation key."""
        means = self.net(features)
        return {key: Laplace(x, self.log_scale[key].clamp(-5, 5).exp().expand_as(x)) for key, x in means.items()}

    def score(self, features: Tensor, obs: Obs) -> Tensor:
        """Return log p(o | h, z) in nats, [N]. features [N, F]; obs: {key: [N, *shape]}."""
        dists = self.laplaces(features)
        return torch.stack([dists[key].log_prob(x) for key, x in obs.items()]).sum(0)

    def log_mass(self, features: Tensor, obs: Obs, generator: torch.Generator) -> Tensor:
        """Return log P of the grey levels of all images, [N] in nats: exact."""
        dists = self.laplaces(features)
        return torch.stack([dists[key].log_mass(x) for key, x in obs.items()]).sum(0)
