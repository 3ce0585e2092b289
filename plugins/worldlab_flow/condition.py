"""A network that maps features to a conditioning map for each level of an image flow."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldlab.nn import ChannelNorm, conv_stages


class ConditionMaps(nn.Module):
    """Upsampling from features [N, F] to maps [N, K_l, H / 2^(l+1), W / 2^(l+1)], level 0 the finest.

    The network is the core's DeconvTrunk without its last layer: transposed convolutions enlarge a map of about 4
    pixels, and each level uses the map of its size, cropped centrally if no power of two divides the sides. Smaller
    maps are averages.
    """

    def __init__(self, features: int, shape: tuple[int, ...], levels: int, width: int):
        super().__init__()
        self.sizes = [(shape[1] >> (i + 1), shape[2] >> (i + 1)) for i in range(levels)]
        stages = conv_stages(shape)
        self.start = tuple(-(-side // 2**stages) for side in shape[1:])
        channels = [width * 2**i for i in range(stages)]  # finest first
        self.channels = [channels[min(i, stages - 1)] for i in range(levels)]
        self.first = nn.Linear(features, channels[-1] * self.start[0] * self.start[1])
        self.norm = nn.Sequential(ChannelNorm(channels[-1]), nn.SiLU())
        self.grow = nn.ModuleList(
            nn.Sequential(nn.ConvTranspose2d(2 * width, width, 4, 2, 1), ChannelNorm(width), nn.SiLU())
            for width in reversed(channels[:-1])
        )

    def forward(self, features: Tensor) -> list[Tensor]:
        x = self.first(features).unflatten(1, (-1, *self.start))
        maps = [self.norm(x.contiguous(memory_format=torch.channels_last))]
        for grow in self.grow:
            maps.append(grow(maps[-1]))
        maps = [_crop(x, size) for x, size in zip(reversed(maps), self.sizes, strict=False)]
        while len(maps) < len(self.sizes):
            maps.append(F.avg_pool2d(maps[-1], 2))
        return maps


def _crop(x: Tensor, size: tuple[int, int]) -> Tensor:
    top, left = (x.shape[2] - size[0]) // 2, (x.shape[3] - size[1]) // 2
    return x[:, :, top : top + size[0], left : left + size[1]]
