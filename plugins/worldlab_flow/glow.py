"""The conditional multi-scale image flow: Glow, or RealNVP in the same framework. No library has a correct conditional
version.

At each level: squeeze, then flow steps, then half of the channels leave as noise, standardised by a learned prior p(z2
| z1, condition). Kingma & Dhariwal 2018, arXiv:1807.03039, figure 2; Dinh et al. 2016, arXiv:1605.08803, section 3.6.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldlab_flow.layers import (
    ActNorm,
    ChannelCoupling,
    CheckerboardCoupling,
    ImageLayer,
    Injector,
    InvertibleConv,
    squeeze,
    sum_log_scales,
)
from worldlab_flow.location_scale import standard_normal_log_prob

Architecture = Literal["glow", "realnvp"]


@dataclass
class FlowStatistics:
    """The log-determinant [N] of a pass towards noise, and the log-scales that each layer applied."""

    log_det: Tensor
    scales: list[Tensor] = field(default_factory=list)


class Level(nn.Module):
    """One scale. x: [N, C, H, W]; cond: [N, K, H/2, W/2]. `fine` layers act before the squeeze, `coarse` layers after
    it.

    The last coarse layer is the prior, which standardises what leaves as noise: half of the channels given the other
    half or, at the last level, all channels given the condition alone.
    """

    def __init__(self, size: int, cond: int, channels: int, architecture: Architecture, depth: int, last: bool):
        super().__init__()
        self.last = last
        fine: list[ImageLayer] = []
        coarse: list[ImageLayer] = [Injector(4 * size, cond, channels)]
        if architecture == "glow":
            for _ in range(depth):
                coarse += [ActNorm(4 * size), InvertibleConv(4 * size), ChannelCoupling(4 * size, cond, channels)]
        else:
            for i in range(max(2, depth // 2)):
                fine += [ActNorm(size), CheckerboardCoupling(size, cond, channels, odd=i % 2 == 0)]
                coarse += [ActNorm(4 * size), ChannelCoupling(4 * size, cond, channels, second=i % 2 == 0)]
        self.fine = nn.ModuleList(fine)
        coarse.append(Injector(4 * size, cond, channels) if last else ChannelCoupling(4 * size, cond, channels))
        self.coarse = nn.ModuleList(coarse)

    def encode(self, x: Tensor, cond: Tensor, statistics: FlowStatistics, fit: bool = False) -> tuple[Tensor, Tensor]:
        """Map x to the next level's input (no channels after the last level) and noise. fit: set the actnorms from
        x.
        """
        x = _encode_layers(self.fine, x, self._upsample_condition(cond), statistics, fit)
        x = _encode_layers(self.coarse, squeeze(x), cond, statistics, fit)
        return (x[:, :0], x) if self.last else (x[:, : x.shape[1] // 2], x[:, x.shape[1] // 2 :])

    def decode(self, kept: Tensor, noise: Tensor, cond: Tensor) -> Tensor:
        """Invert `encode`: return the x that gives kept and noise."""
        x = F.pixel_shuffle(_decode_layers(self.coarse, torch.cat([kept, noise], 1), cond), 2)
        return _decode_layers(self.fine, x, self._upsample_condition(cond))

    def _upsample_condition(self, cond: Tensor) -> Tensor:
        return F.interpolate(cond, scale_factor=2.0) if len(self.fine) else cond


class ImageFlow(nn.Module):
    """An invertible map between images [N, C, H, W] and noise of as many entries, given a conditioning map for each
    level.

    maps: list of [N, K_l, H / 2^(l+1), W / 2^(l+1)], level 0 the finest.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        cond: Sequence[int],
        channels: int,
        architecture: Architecture,
        depth: int,
    ):
        super().__init__()
        last = len(cond) - 1
        self.levels = nn.ModuleList(
            Level(shape[0] * 2**i, width, channels, architecture, depth, i == last) for i, width in enumerate(cond)
        )
        height, side = shape[1:]
        self.noise_shapes = [
            (shape[0] * 2**i * (4 if i == last else 2), height >> (i + 1), side >> (i + 1)) for i in range(len(cond))
        ]

    def encode(self, x: Tensor, maps: Sequence[Tensor], fit: bool = False) -> tuple[list[Tensor], FlowStatistics]:
        """Map x to noise by level, with statistics that hold log|det dnoise/dx|. fit: set the actnorms from x first,
        layer by layer.
        """
        statistics = FlowStatistics(x.new_zeros(len(x)))
        noise = []
        for level, cond in zip(self.levels, maps, strict=True):
            x, left = level.encode(x, cond, statistics, fit)  # type: ignore[operator]
            noise.append(left)
        return noise, statistics

    def decode(self, noise: Sequence[Tensor], maps: Sequence[Tensor]) -> Tensor:
        """Map noise by level to x in one pass: each network is called once."""
        x = noise[-1][:, :0]
        for level, left, cond in zip(reversed(self.levels), reversed(noise), reversed(maps), strict=True):
            x = level.decode(x, left, cond)  # type: ignore[operator]
        return x

    def log_prob(self, x: Tensor, maps: Sequence[Tensor]) -> Tensor:
        """Return the log-density [N] of x in nats."""
        noise, statistics = self.encode(x, maps)
        return torch.stack([standard_normal_log_prob(left) for left in noise]).sum(0) + statistics.log_det


def count_levels(shape: tuple[int, ...], max_levels: int) -> int:
    """Return how many levels, at most `max_levels`, an image (C, H, W) allows: each halves both sides. 0 if a side is
    odd.
    """
    height, side = shape[1:]
    levels = 0
    while levels < max_levels and height % 2 == 0 and side % 2 == 0:
        height, side, levels = height // 2, side // 2, levels + 1
    return levels


def _encode_layers(layers: nn.ModuleList, x: Tensor, cond: Tensor, statistics: FlowStatistics, fit: bool) -> Tensor:
    for layer in layers:
        assert isinstance(layer, ImageLayer)
        if fit:
            layer.fit(x)
        x, log_scale = layer(x, cond)
        statistics.log_det = statistics.log_det + sum_log_scales(log_scale, x)
        statistics.scales.append(log_scale)
    return x


def _decode_layers(layers: nn.ModuleList, x: Tensor, cond: Tensor) -> Tensor:
    for layer in reversed(layers):
        assert isinstance(layer, ImageLayer)
        x = layer.inverse(x, cond)
    return x
