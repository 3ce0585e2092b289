"""A conditional gated PixelCNN: p(image | features) = prod over pixels, in raster order, each given the preceding
pixels.

Van den Oord et al. 2016, arXiv:1606.05328. The receptive field is small by design: with a large one the network would
model images by itself and ignore z (Chen et al. 2016, arXiv:1611.02731; PixelVAE, Gulrajani et al. 2016,
arXiv:1611.05013).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldlab.nn import DeconvTrunk, tanh
from worldlab_autoregressive.logistics import (
    LogisticMixture,
    from_levels,
    parameters_per_pixel,
    spread_components,
    to_levels,
)


def gate(x: Tensor, dim: int) -> Tensor:
    """Return tanh of one half of the channels, times the sigmoid of the other. arXiv:1606.05328, eq. 2."""
    value, opening = x.chunk(2, dim)
    return tanh(value) * torch.sigmoid(opening)


class GatedLayer(nn.Module):
    """One layer of both stacks, each with the features' map as a bias (arXiv:1606.05328, eq. 5 and figure 2).

    The vertical stack at (i, j) depends on the rows above i only: its first layer reads rows i - 2 and i - 1 of the
    image, later layers rows i - 1 and i of the stack. The horizontal stack reads itself at j - 1 (and at j, except in
    the first layer), and the vertical stack at (i, j). Together they cover a full rectangle above and a full row to the
    left, without a blind spot.
    """

    def __init__(self, inputs: int, channels: int, condition: int, first: bool):
        super().__init__()
        self.first = first
        self.vertical = nn.Conv2d(inputs, 2 * channels, (2, 3))
        self.vertical_bias = nn.Conv2d(condition, 2 * channels, 1, bias=False)
        self.horizontal = nn.Conv2d(inputs, 2 * channels, (1, 1 if first else 2))
        self.horizontal_bias = nn.Conv2d(condition, 2 * channels, 1, bias=False)
        # Reads the vertical stack's output, as in PixelCNN++; the paper's figure reads it before the gate.
        self.link = nn.Conv2d(channels, 2 * channels, 1, bias=False)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, v: Tensor, h: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Apply both stacks. v, h: [N, inputs, H, W] (the image, in the first layer); condition [N, S, H, W]."""
        above = F.pad(v, (1, 1, 2, 0))[:, :, :-1] if self.first else F.pad(v, (1, 1, 1, 0))
        v = gate(self.vertical(above) + self.vertical_bias(condition), 1)
        left = F.pad(h, (1, 0))[..., :-1] if self.first else F.pad(h, (1, 0))
        new = gate(self.horizontal(left) + self.link(v) + self.horizontal_bias(condition), 1)
        return v, self.out(new) if self.first else h + self.out(new)


class PixelCNN(nn.Module):
    """The distribution of images [N, C, H, W] given features [N, F]. `sampling` draws from it.

    features: their width F; 0 if the features are given as a map [N, channels, H, W].
    """

    def __init__(self, features: int, shape: tuple[int, ...], channels: int, layers: int, components: int, width: int):
        super().__init__()
        self.shape, self.channels, self.components = shape, channels, components
        self.upsample = DeconvTrunk(features, shape, width, channels) if features else nn.Identity()
        # A channel of ones besides the image distinguishes the padding from grey.
        self.layers = nn.ModuleList(
            GatedLayer(channels if i else shape[0] + 1, channels, channels, first=i == 0) for i in range(layers)
        )
        outputs = parameters_per_pixel(shape[0], components)
        self.head = nn.Sequential(
            nn.SiLU(), nn.Conv2d(channels, channels, 1), nn.SiLU(), nn.Conv2d(channels, outputs, 1)
        )
        spread_components(self.head[-1].bias, shape[0], components)  # type: ignore[arg-type]

    @property
    def reach(self) -> int:
        """Return the range of the receptive field: `reach` columns to each side, and reach + 1 rows up."""
        return len(self.layers)

    def condition(self, features: Tensor) -> Tensor:
        """Upsample features [N, F] to a map [N, S, H, W]."""
        return self.upsample(features)

    def outputs(self, picture: Tensor, condition: Tensor) -> Tensor:
        """Return the parameters of every pixel given the pixels before it: [N, P, H, W]. picture [N, C, H, W] in [-0.5,
        0.5].
        """
        v = h = torch.cat([2 * picture, torch.ones_like(picture[:, :1])], 1)
        for layer in self.layers:
            v, h = layer(v, h, condition)
        return self.head(h)

    def log_prob(self, features: Tensor, picture: Tensor) -> Tensor:
        """Return log P of the 256-level image nearest to `picture`, [N] in nats, in one pass, without a gradient to
        it.
        """
        return self.picture_log_prob(self.condition(features), picture)

    def picture_log_prob(self, condition: Tensor, picture: Tensor) -> Tensor:
        """Return the same, given the features' map."""
        levels = to_levels(picture)
        return mixture_log_prob(self.outputs(from_levels(levels), condition), levels)


def mixture_log_prob(outputs: Tensor, levels: Tensor) -> Tensor:
    """Return log P of levels [N, C, H, W] under each pixel's parameters [N, P, H, W], summed over pixels: [N]."""
    mixture = LogisticMixture.from_outputs(outputs.permute(0, 2, 3, 1), levels.shape[1])
    return mixture.log_prob(levels.permute(0, 2, 3, 1)).flatten(1).sum(1)
