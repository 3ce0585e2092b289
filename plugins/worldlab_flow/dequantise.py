"""Dequantisation: conversion between 256 grey levels and real numbers, and the noise within a level.

An image's level k becomes y = (k + u) / 256 - 0.5 with u in [0, 1). Then for any q(u | x) (Theis et al. 2015,
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
"""Uniform noise keeps this distance from 0 and 1, where its logit is infinite."""


def grey_levels(image: Tensor) -> Tensor:
    """Return the whole levels k of the core's images, k / 255 - 0.5, rounded to the nearest level. No gradient
    passes.
    """
    return ((image + 0.5) * (LEVELS - 1)).round()


def to_unit(levels: Tensor, noise: Tensor | float) -> Tensor:
    """Convert levels and their noise in [0, 1) to the flow's unit y; 0.5 is the centre of a bin."""
    return (levels + noise) / LEVELS - 0.5


def from_unit(y: Tensor) -> Tensor:
    """Convert the flow's unit to the core's, without rounding: the centre of bin k becomes k / 255 - 0.5."""
    return ((y + 0.5) * LEVELS - 0.5) / (LEVELS - 1) - 0.5


class UniformNoise(nn.Module):
    """Uniform noise u on [0, 1): log q = 0."""

    def forward(self, levels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw u for levels [N, C, H, W], of the same shape, with log q(u | x) [N]."""
        return uniform_like(levels, generator), levels.new_zeros(len(levels))


class VariationalNoise(nn.Module):
    """Learned noise u = sigmoid(g(e; x)): e is logistic noise, g couplings that depend on the image. Flow++, section
    3.1.

    Initially g is the identity and u uniform. The couplings act on squeezed images, [N, 4 C, H/2, W/2].
    """

    def __init__(self, colours: int, channels: int, depth: int):
        super().__init__()
        size = 4 * colours
        self.look = nn.Sequential(nn.Conv2d(2 * size, channels, 3, padding=1), nn.SiLU())
        self.steps = nn.ModuleList(ChannelCoupling(size, channels, channels, second=i % 2 == 0) for i in range(depth))

    def forward(self, levels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw u for levels [N, C, H, W], of the same shape, with log q(u | x) [N]."""
        cond = self.look(squeeze(torch.cat([to_unit(levels, 0.5), _local_contrast(levels)], 1)))
        noise = torch.logit(squeeze(uniform_like(levels, generator)))
        statistics = FlowStatistics(_logistic_log_prob(noise))
        x = noise
        for step in self.steps:
            x, log_scale = step(x, cond)
            statistics.log_det = statistics.log_det - sum_log_scales(log_scale, x)
        u = torch.sigmoid(x).clamp(max=1 - MARGIN)
        # log q(u) = log q(e) - log|det dg/de| - log sigmoid'(g), and log sigmoid' is the log-density of the logistic.
        return F.pixel_shuffle(u, 2), statistics.log_det - _logistic_log_prob(x)


def _local_contrast(levels: Tensor) -> Tensor:
    """Return the difference of each level from its neighbourhood, scaled so that one level matters: in y it is only 1 /
    256.
    """
    return torch.tanh((levels - F.avg_pool2d(levels, 3, 1, 1, count_include_pad=False)) / 2)


def uniform_like(x: Tensor, generator: torch.Generator) -> Tensor:
    """Draw uniform noise of x's shape in [MARGIN, 1 - MARGIN)."""
    return torch.empty_like(x, memory_format=torch.contiguous_format).uniform_(MARGIN, 1 - MARGIN, generator=generator)


def _logistic_log_prob(x: Tensor) -> Tensor:
    return (F.logsigmoid(x) + F.logsigmoid(-x)).flatten(1).sum(1)
