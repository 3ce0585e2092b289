"""Velocity networks: a residual MLP for vectors, a small U-Net for images.

Both have `embed(condition)`, which is computed once for all steps, and `forward(x, t, embedded)`. Their last layer
starts at 0, so that an untrained flow is exact for standard normal data (`rectified.RectifiedFlow`).
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from worldlab.nn import ChannelNorm, DeconvTrunk, conv_stages, mlp

WAVES = 4
"""Number of frequencies of the time embedding, from half a period over [0, 1] up to eight half periods."""
STAGES = 3
"""Maximum number of halvings inside the U-Net; the sketch, not x, provides long-range structure."""


class TimeEmbedding(nn.Module):
    """A time embedding, t [N] in [0, 1] -> [N, U]: Fourier features and a linear layer."""

    def __init__(self, units: int):
        super().__init__()
        self.linear = nn.Linear(2 * WAVES, units)

    def forward(self, t: Tensor) -> Tensor:
        angles = t[:, None] * math.pi * 2.0 ** torch.arange(WAVES, device=t.device)
        return self.linear(torch.cat([angles.sin(), angles.cos()], -1))


class StyledNorm(nn.Module):
    """A conditional norm, silu(norm(x) (1 + scale) + shift), with scale and shift from a style [N, U]: FiLM,
    arXiv:1709.07871. x [N, C, ...].
    """

    def __init__(self, norm: nn.Module, channels: int, units: int):
        super().__init__()
        self.norm = norm
        self.style = nn.Linear(units, 2 * channels)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        scale, shift = self.style(style).unflatten(-1, (-1, *[1] * (x.dim() - 2))).chunk(2, 1)
        return F.silu(self.norm(x) * (1 + scale) + shift)


class VectorVelocity(nn.Module):
    """A residual MLP of x [N, D], t [N] and a condition [N, C]; returns [N, outputs]."""

    def __init__(self, dim: int, outputs: int, condition: int, units: int, layers: int):
        super().__init__()
        self.condition = mlp(condition, units, 1, units)
        self.time = TimeEmbedding(units)
        self.first = nn.Linear(dim, units)
        self.norms = nn.ModuleList(StyledNorm(nn.LayerNorm(units), units, units) for _ in range(layers))
        self.linears = nn.ModuleList(nn.Linear(units, units) for _ in range(layers))
        self.last = zero_init(nn.Linear(units, outputs))

    def embed(self, condition: Tensor) -> tuple[Tensor, ...]:
        return (self.condition(condition),)

    def forward(self, x: Tensor, t: Tensor, embedded: tuple[Tensor, ...]) -> Tensor:
        style = F.silu(embedded[0] + self.time(t))
        y = self.first(x)
        for norm, linear in zip(self.norms, self.linears):
            y = y + linear(norm(y, style))
        return self.last(y)


class PictureVelocity(nn.Module):
    """A U-Net of x [N, C, H, W], t [N] and a condition [N, F]; returns [N, 2 C, H, W]. Ronneberger et al. 2015,
    arXiv:1505.04597.

    A sketch, a map [N, W, H, W] upsampled from the condition once and concatenated with x, provides spatial structure:
    the style of a convolution is equal at all pixels, so it cannot.
    """

    def __init__(self, shape: tuple[int, ...], condition: int, width: int, units: int):
        super().__init__()
        stages = min(STAGES, conv_stages(shape))
        self.shape, self.grain = shape, 2**stages
        self.sketch = DeconvTrunk(condition, shape, width, width)
        self.condition = mlp(condition, units, 1, units)
        self.time = TimeEmbedding(units)
        channels = [shape[0] + width, *(width * 2**i for i in range(stages))]
        self.downs = nn.ModuleList(nn.Conv2d(before, after, 4, 2, 1) for before, after in pairwise(channels))
        self.down_norms = nn.ModuleList(StyledNorm(ChannelNorm(c), c, units) for c in channels[1:])
        back = channels[:0:-1]  # coarsest first
        self.ups = nn.ModuleList(
            nn.ConvTranspose2d(before if i == 0 else 2 * before, after, 4, 2, 1)
            for i, (before, after) in enumerate(pairwise([*back, width]))
        )
        self.up_norms = nn.ModuleList(StyledNorm(ChannelNorm(c), c, units) for c in [*back[1:], width])
        self.last = zero_init(nn.Conv2d(width + channels[0], 2 * shape[0], 3, 1, 1))

    def embed(self, condition: Tensor) -> tuple[Tensor, ...]:
        return self.condition(condition), self.sketch(condition)

    def forward(self, x: Tensor, t: Tensor, embedded: tuple[Tensor, ...]) -> Tensor:
        style = F.silu(embedded[0] + self.time(t))
        top = self._pad(torch.cat([x, embedded[1].to(x.dtype)], 1))
        y, skips = top, []
        for down, norm in zip(self.downs, self.down_norms):
            y = norm(down(y), style)
            skips.append(y)
        y = skips.pop()
        for up, norm in zip(self.ups, self.up_norms):
            y = norm(up(y), style)
            y = torch.cat([y, skips.pop() if skips else top.to(y.dtype)], 1)
        return self.last(y)[..., : self.shape[1], : self.shape[2]]

    def _pad(self, x: Tensor) -> Tensor:
        """Pad the sides with 0 at the bottom and on the right to multiples that the halvings divide."""
        below, right = (-side % self.grain for side in self.shape[1:])
        return F.pad(x, (0, right, 0, below)).contiguous(memory_format=torch.channels_last)


def zero_init(layer: nn.Linear | nn.Conv2d) -> nn.Linear | nn.Conv2d:
    """Set all weights of the layer to 0 and return it."""
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer
