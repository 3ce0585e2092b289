"""Factorised observation likelihoods. Every entry is independent given features, which is why VAEs blur."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from worldlab.distributions import HALF_LOG_2PI, normal_like

LEVELS = 255


@dataclass(frozen=True)
class FixedNormal:
    """A Gaussian of one fixed std around mean [N, *shape]. std: scalar tensor."""

    mean: Tensor
    std: Tensor

    @property
    def mode(self) -> Tensor:
        return self.mean

    def sample(self, generator: torch.Generator) -> Tensor:
        return self.mean + self.std * normal_like(self.mean, generator)

    def distortion(self, x: Tensor) -> Tensor:
        """Return -log p(x) without its constant, [N]: half the squared error in units of std."""
        return 0.5 * ((x - self.mean) / self.std).square().flatten(1).sum(1)

    def log_prob(self, x: Tensor) -> Tensor:
        entries = self.mean[0].numel()
        return -self.distortion(x) - entries * (self.std.log() + HALF_LOG_2PI)


@dataclass(frozen=True)
class DiscretizedLogistic:
    """A logistic integrated over each of 256 grey levels. The edge bins extend to +-infinity, so it sums to 1.

    mean [N, C, H, W] in [-0.5, 0.5]; scale [C, 1, 1]. Salimans et al. 2017, arXiv:1701.05517, eq. 2, with one component
    and one scale per channel.
    """

    mean: Tensor
    scale: Tensor

    @property
    def mode(self) -> Tensor:
        return self.mean

    def sample(self, generator: torch.Generator) -> Tensor:
        uniform = torch.empty_like(self.mean).uniform_(1e-5, 1 - 1e-5, generator=generator)
        value = self.mean + self.scale * (uniform.log() - torch.log1p(-uniform))
        return ((value + 0.5) * LEVELS).round().clamp(0, LEVELS) / LEVELS - 0.5

    def pixel_log_prob(self, x: Tensor) -> Tensor:
        """Return log P of the level nearest to each pixel: x, mean [N, C, H, W] -> [N, C, H, W]. No gradient reaches
        x.
        """
        # Adjacent bins must share one rounded edge, or narrow scales lose mass: edges are computed from whole levels.
        level = ((x + 0.5) * LEVELS).round()
        upper = ((level + 0.5) / LEVELS - 0.5 - self.mean) / self.scale
        lower = ((level - 0.5) / LEVELS - 0.5 - self.mean) / self.scale
        # log(sigmoid(u) - sigmoid(l)) = logsig(u) + logsig(-l) + log(1 - exp(l - u)), stable in both tails
        inside = F.logsigmoid(upper) + F.logsigmoid(-lower) + torch.log(-torch.expm1(lower - upper))
        inside = torch.where(level <= 0, F.logsigmoid(upper), inside)
        return torch.where(level >= LEVELS, F.logsigmoid(-lower), inside)

    def log_prob(self, x: Tensor) -> Tensor:
        return self.pixel_log_prob(x).flatten(1).sum(1)
