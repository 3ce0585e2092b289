"""Cached sampling of a PixelCNN, several rows at a time.

Naive sampling runs the whole network for each of H W pixels. Here each layer's output is computed once per position and
cached (Ramachandran et al. 2017, arXiv:1704.06001). Since a pixel depends on `reach` columns to its right in the rows
above, row i + 1 can follow row i at a distance of reach + 1 columns: one step draws a slanted line of pixels, and an
image takes W + (reach + 1)(H - 1) + reach - 1 steps, not H W. From the same noise the result equals naive sampling.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from worldlab_autoregressive.logistics import LogisticMixture, from_levels
from worldlab_autoregressive.pixelcnn import GatedLayer, PixelCNN, gate

CHUNK = 64
"""Images drawn together: the cache of one image of 64 x 64 takes 3 MB at 32 channels."""


@dataclass(frozen=True)
class PixelNoise:
    """All noise of N images, drawn before the first pixel: gumbel [N, H * W, K], logistic [N, H * W, C]."""

    gumbel: Tensor
    logistic: Tensor


def pixel_noise(net: PixelCNN, n: int, reference: Tensor, generator: torch.Generator) -> PixelNoise:
    """Draw standard noise for n images, of the reference's dtype and device."""
    channels, height, side = net.shape
    return PixelNoise(*standard_noise((n, height * side), net.components, channels, reference, generator))


def standard_noise(
    shape: tuple[int, ...], components: int, channels: int, reference: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw standard Gumbel noise [*shape, components] and logistic noise [*shape, channels]."""
    uniform = torch.empty(*shape, components + channels, dtype=reference.dtype, device=reference.device)
    uniform = uniform.uniform_(generator=generator).clamp(1e-7, 1 - 1e-7)
    choice, value = uniform.split([components, channels], -1)
    return -torch.log(-torch.log(choice)), torch.log(value) - torch.log1p(-value)


def draw_with_cache(net: PixelCNN, features: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw images [N, C, H, W] for features [N, F] with fresh noise; generator None: greedy."""
    noise = None if generator is None else pixel_noise(net, len(features), features, generator)
    return draw_pictures(net, features, noise)


@torch.no_grad()
def draw_pictures(net: PixelCNN, features: Tensor, noise: PixelNoise | None) -> Tensor:
    """Draw images [N, C, H, W] for features [N, F]. noise None: greedy, each pixel the mean of its most likely
    component.
    """
    parts = []
    for first in range(0, len(features), CHUNK):
        rows = slice(first, first + CHUNK)
        chunk_noise = None if noise is None else PixelNoise(noise.gumbel[rows], noise.logistic[rows])
        parts.append(_PictureBuffer(net, features[rows]).fill(chunk_noise))
    return torch.cat(parts)


class _PictureBuffer:
    """The state of one batch of images while they are drawn.

    Maps are stored with positions flattened and channels last, [N, positions, channels], inside a border of zeros two
    rows high and one column wide, which is the padding of the convolutions.
    """

    def __init__(self, net: PixelCNN, features: Tensor):
        channels, self.height, self.side = net.shape
        self.net, self.pitch, self.skew = net, self.side + 2, net.reach + 1
        self.condition = self._pad_border(net.condition(features))
        self.picture = self._pad_border(features.new_zeros(len(features), channels, self.height, self.side), ones=True)
        width = net.channels
        places = self.picture.shape[1]
        self.above = [features.new_zeros(len(features), places, width) for _ in net.layers]
        # The horizontal stack reads only the previous column, so the last column of each row is enough.
        self.left = [features.new_zeros(len(features), self.height, width) for _ in net.layers[1:]]
        self.weights = [_LayerWeights(layer) for layer in net.layers]  # type: ignore[arg-type]
        self.patch = torch.tensor([-self.pitch - 1, -self.pitch, -self.pitch + 1, -1, 0, 1], device=features.device)

    def fill(self, noise: PixelNoise | None) -> Tensor:
        """Draw all pixels; return the images [N, C, H, W]."""
        depth = len(self.weights)
        for step in range(1 - depth, self.side + self.skew * (self.height - 1)):
            for i in range(depth):
                self._vertical_step(i, step + depth - 1 - i)
            self._draw_line(step, noise)
        inner = self.picture.unflatten(1, (self.height + 2, self.pitch))[:, 2:, 1:-1, :-1]
        return inner.permute(0, 3, 1, 2).contiguous() / 2

    def _pad_border(self, image: Tensor, ones: bool = False) -> Tensor:
        """Pad [N, C, H, W] to [N, (H + 2) (W + 2), C], or C + 1 with a channel of ones inside the border."""
        if ones:
            image = torch.cat([image, torch.ones_like(image[:, :1])], 1)
        return F.pad(image, (1, 1, 2, 0)).permute(0, 2, 3, 1).flatten(1, 2).contiguous()

    def _line(self, step: int) -> tuple[int, int, Tensor]:
        """Return the rows first .. last that have a pixel (i, step - skew i), and the flat positions of these
        pixels.
        """
        first = max(0, -((self.side - 1 - step) // self.skew))
        last = min(self.height - 1, step // self.skew)
        row = torch.arange(first, last + 1, device=self.picture.device)
        return first, last, (row + 2) * self.pitch + 1 + step - self.skew * row

    def _vertical_step(self, i: int, step: int) -> None:
        """Compute layer i of the vertical stack along a line."""
        first, last, place = self._line(step)
        if first > last:
            return
        source, centre = (self.picture, place - self.pitch) if i == 0 else (self.above[i - 1], place)
        seen = (
            source.index_select(1, (centre[:, None] + self.patch).flatten()).unflatten(1, (len(place), -1)).flatten(2)
        )
        bias = self.condition.index_select(1, place)
        out = gate(F.linear(torch.cat([seen, bias], -1), *self.weights[i].vertical), -1)
        self.above[i].index_copy_(1, place, out.to(self.picture.dtype))

    def _draw_line(self, step: int, noise: PixelNoise | None) -> None:
        """Compute the horizontal stack along a line, and draw its pixels."""
        first, last, place = self._line(step)
        if first > last:
            return
        rows = slice(first, last + 1)
        bias = self.condition.index_select(1, place)
        h = self.picture.index_select(1, place - 1)
        for i, weights in enumerate(self.weights):
            seen = [h] if i == 0 else [self.left[i - 1][:, rows], h]
            above = self.above[i].index_select(1, place)
            out = F.linear(gate(F.linear(torch.cat([*seen, above, bias], -1), *weights.horizontal), -1), *weights.out)
            if i:
                self.left[i - 1][:, rows] = h
            h = out if i == 0 else h + out
        outputs = self.net.head(h.transpose(1, 2)[..., None])[..., 0].transpose(1, 2)
        mixture = LogisticMixture.from_outputs(outputs, self.net.shape[0])
        if noise is None:
            levels = mixture.draw(None, None)
        else:
            raster = place - 2 * self.pitch - 1
            raster = raster // self.pitch * self.side + raster % self.pitch
            levels = mixture.draw(noise.gumbel.index_select(1, raster), noise.logistic.index_select(1, raster))
        colours = (2 * from_levels(levels)).to(self.picture.dtype)
        self.picture.index_copy_(1, place, torch.cat([colours, torch.ones_like(colours[..., :1])], -1))


class _LayerWeights:
    """The convolutions of a layer as one matrix for each stack, acting on the concatenated inputs."""

    def __init__(self, layer: GatedLayer):
        def flat(*convolutions: torch.nn.Conv2d) -> Tensor:  # [out, C, rows, columns] -> [out, rows * columns * C]
            return torch.cat([conv.weight.permute(0, 2, 3, 1).flatten(1) for conv in convolutions], 1)

        self.vertical = flat(layer.vertical, layer.vertical_bias), layer.vertical.bias
        self.horizontal = flat(layer.horizontal, layer.link, layer.horizontal_bias), layer.horizontal.bias
        self.out = flat(layer.out), layer.out.bias
