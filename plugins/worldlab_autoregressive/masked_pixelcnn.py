"""The first PixelCNN: one stack of masked convolutions over the pixels before, with its blind spot.

Van den Oord et al. 2016, arXiv:1601.06759, section 3.5. A convolution reads the row above and the pixels to the left;
stacked, they see a triangle that leaves out pixels above to the right, which the two stacks of the gated PixelCNN do see
(arXiv:1606.05328, figure 1). Deviations: small kernels and few layers, so that z is used; the pixel's channels are coupled
in the likelihood, a mixture of discretised logistics, instead of by masks and a softmax over 256 levels.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldlab.nn import DeconvTrunk
from worldlab_autoregressive.logistics import (
    LogisticMixture,
    from_levels,
    parameters_per_pixel,
    spread_components,
    to_levels,
)
from worldlab_autoregressive.pixelcnn import mixture_log_prob
from worldlab_autoregressive.sampling import CHUNK, pixel_noise

SKEW = 2
"""Columns by which a row follows the row above it when pixels of several rows are drawn at once."""


class MaskedConv(nn.Module):
    """A convolution of the row above, three wide, and of the pixel to the left; the pixel itself unless `first`."""

    mask: Tensor

    def __init__(self, inputs: int, outputs: int, condition: int, first: bool):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, (2, 3))
        self.bias = nn.Conv2d(condition, outputs, 1, bias=False)
        mask = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0 if first else 1.0, 0.0]])
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return [N, outputs, H, W] of x [N, inputs, H, W] and the features' map [N, S, H, W]."""
        return F.conv2d(F.pad(x, (1, 1, 1, 0)), self.conv.weight * self.mask, self.conv.bias) + self.bias(condition)


class MaskedPixelCNN(nn.Module):
    """The distribution of images [N, C, H, W] given features [N, F], by one masked stack. Built as PixelCNN is."""

    def __init__(self, features: int, shape: tuple[int, ...], channels: int, layers: int, components: int, width: int):
        super().__init__()
        self.shape, self.channels, self.components = shape, channels, components
        self.upsample = DeconvTrunk(features, shape, width, channels)
        self.layers = nn.ModuleList(
            MaskedConv(channels if i else shape[0] + 1, channels, channels, first=i == 0) for i in range(layers)
        )
        outputs = parameters_per_pixel(shape[0], components)
        self.head = nn.Sequential(
            nn.SiLU(), nn.Conv2d(channels, channels, 1), nn.SiLU(), nn.Conv2d(channels, outputs, 1)
        )
        last: Any = self.head[-1].bias
        spread_components(last, shape[0], components)

    @property
    def reach(self) -> int:
        """Return how many columns to each side and rows up a pixel can see."""
        return len(self.layers)

    def condition(self, features: Tensor) -> Tensor:
        """Upsample features [N, F] to a map [N, S, H, W]."""
        return self.upsample(features)

    def outputs(self, picture: Tensor, condition: Tensor, inside: Tensor | None = None) -> Tensor:
        """Return the parameters of every pixel given the pixels before it: [N, P, H, W]. picture [N, C, H, W] in [-0.5,
        0.5].

        inside: [N, 1, H, W], 0 beyond the edge of the image, for a picture that is a piece of one; None: all inside.
        """
        inside = torch.ones_like(picture[:, :1]) if inside is None else inside
        h = torch.cat([2 * picture, inside], 1)
        for i, layer in enumerate(self.layers):
            new = F.silu(layer(h, condition))
            h = (h + new if i else new) * inside
        return self.head(h)

    def log_prob(self, features: Tensor, picture: Tensor) -> Tensor:
        """Return log P of the 256-level image nearest to `picture`, [N] in nats, without a gradient to it."""
        return self.picture_log_prob(self.condition(features), picture)

    def picture_log_prob(self, condition: Tensor, picture: Tensor) -> Tensor:
        """Return the same, given the features' map."""
        levels = to_levels(picture)
        return mixture_log_prob(self.outputs(from_levels(levels), condition), levels)


@torch.no_grad()
def draw_masked(net: MaskedPixelCNN, features: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw images [N, C, H, W] for features [N, F]; generator None: greedy.

    One pass of the network on the surroundings of each pixel draws a slanted line of pixels, since a pixel depends on no
    more than k columns to its right in the k-th row above: W + 2 (H - 1) passes, not H W.
    """
    return torch.cat([_draw_chunk(net, part, generator) for part in features.split(CHUNK)])


def _draw_chunk(net: MaskedPixelCNN, features: Tensor, generator: torch.Generator | None) -> Tensor:
    (channels, height, side), reach, n = net.shape, net.reach, len(features)
    noise = None if generator is None else pixel_noise(net, n, features, generator)  # type: ignore[arg-type]
    picture = features.new_zeros(n, channels, height, side)
    border = (reach, reach, reach, 0)
    padded = F.pad(picture, border)
    inside, condition = (
        _surroundings(F.pad(leaf, border), reach) for leaf in (picture[:, :1] + 1, net.condition(features))
    )
    for step in range(side + SKEW * (height - 1)):
        row = torch.arange(
            max(0, -((side - 1 - step) // SKEW)), min(height - 1, step // SKEW) + 1, device=features.device
        )
        column = step - SKEW * row
        pieces = [_at(leaf, row, column) for leaf in (_surroundings(padded, reach), condition, inside)]
        out = net.outputs(*pieces)[:, :, -1, reach].unflatten(0, (n, -1))  # [N, pixels, P]
        mixture = LogisticMixture.from_outputs(out, channels)
        place = row * side + column
        drawn = (
            mixture.draw(None, None)
            if noise is None
            else mixture.draw(noise.gumbel[:, place], noise.logistic[:, place])
        )
        padded[:, :, row + reach, column + reach] = from_levels(drawn).to(padded.dtype).transpose(1, 2)
    return padded[:, :, reach:, reach:-reach].contiguous()


def _surroundings(padded: Tensor, reach: int) -> Tensor:
    """View a padded map as the piece that each pixel depends on: [N, C, H, W, reach + 1, 2 reach + 1]."""
    return padded.unfold(2, reach + 1, 1).unfold(3, 2 * reach + 1, 1)


def _at(pieces: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Return the pieces of chosen pixels, [N * pixels, C, ...]."""
    return pieces[:, :, row, column].transpose(1, 2).flatten(0, 1)
