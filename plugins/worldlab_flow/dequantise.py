"""From 256 grey levels to real numbers and back, and the noise that fills the gaps.

A picture's level k becomes y = (k + u) / 256 - 0.5 with u in [0, 1). Then for any q(u | x) (Theis et al. 2015,
arXiv:1511.01844, section 3.1; Ho et al. 2019 (Flow++), arXiv:1902.00275, eq. 12):

    log P(levels) >= E_q[ log p(y) - D log 256 - log q(u | x) ]          D log 256: the volume of a bin in y
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldlab_flow.glow import FlowStatistics
from worldlab_flow.layers import ChannelCoupling, squeeze, sum_log_scales

LEVELS = 256
LOG_LEVELS = math.log(LEVELS)
MARGIN = 1e-6
"""Uniform noise keeps this distance from 0 and 1, where its logit ends."""


def grey_levels(image: Tensor) -> Tensor:
    """The core's pictures, k / 255 - 0.5, as whole levels k. What is no level goes to the nearest; no gradient passes."""
    return ((image + 0.5) * (LEVELS - 1)).round()


def to_unit(levels: Tensor, noise: Tensor | float) -> Tensor:
    """Levels and their noise in [0, 1) -> the flow's unit y; 0.5 is the centre of a bin."""
    return (levels + noise) / LEVELS - 0.5


def from_unit(y: Tensor) -> Tensor:
    """The flow's unit -> the core's, without rounding: the centre of bin k becomes k / 255 - 0.5."""
    return ((y + 0.5) * LEVELS - 0.5) / (LEVELS - 1) - 0.5


class UniformNoise(nn.Module):
    """u uniform on [0, 1): log q = 0."""

    def forward(self, levels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """levels [N, C, H, W] -> u of that shape, log q(u | x) [N]."""
        return uniform_like(levels, generator), levels.new_zeros(len(levels))


class VariationalNoise(nn.Module):
    """u = sigmoid(g(e; x)), e logistic noise, g couplings that see the picture. Flow++, section 3.1.

    With g the identity, as at first, u is uniform. The couplings live on squeezed pictures, [N, 4 C, H/2, W/2].
    """

    def __init__(self, colours: int, channels: int, depth: int):
        super().__init__()
        size = 4 * colours
        self.look = nn.Sequential(nn.Conv2d(2 * size, channels, 3, padding=1), nn.SiLU())
        self.steps = nn.ModuleList(ChannelCoupling(size, channels, channels, second=i % 2 == 0) for i in range(depth))

    def forward(self, levels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """levels [N, C, H, W] -> u of that shape, log q(u | x) [N]."""
        cond = self.look(squeeze(torch.cat([to_unit(levels, 0.5), _local_contrast(levels)], 1)))
        noise = torch.logit(squeeze(uniform_like(levels, generator)))
        statistics = FlowStatistics(_logistic_log_prob(noise))
        x = noise
        for step in self.steps:
            x, log_scale = step(x, cond)
            statistics.log_det = statistics.log_det - sum_log_scales(log_scale, x)
        u = torch.sigmoid(x).clamp(max=1 - MARGIN)
        # log q(u) = log q(e) - log|det dg/de| - log sigmoid'(g), and log sigmoid' is the logistic's log-density.
        return F.pixel_shuffle(u, 2), statistics.log_det - _logistic_log_prob(x)


def _local_contrast(levels: Tensor) -> Tensor:
    """How each level differs from its neighbourhood, in units in which one level counts: in y it is only 1 / 256."""
    return torch.tanh((levels - F.avg_pool2d(levels, 3, 1, 1, count_include_pad=False)) / 2)


def uniform_like(x: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform noise of x's shape in [MARGIN, 1 - MARGIN)."""
    return torch.empty_like(x, memory_format=torch.contiguous_format).uniform_(MARGIN, 1 - MARGIN, generator=generator)


def _logistic_log_prob(x: Tensor) -> Tensor:
    return (F.logsigmoid(x) + F.logsigmoid(-x)).flatten(1).sum(1)
