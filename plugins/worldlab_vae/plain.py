"""World Models' convolutions: no padding, no normalisation. Ha & Schmidhuber 2018, arXiv:1803.10122, appendix A.1.

With the default width of 32, images of 64 x 64 and a z of 32, encoder and decoder have the paper's 4,348,547
parameters.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from worldlab.errors import ConfigError

STAGES = 4
KERNELS = (5, 5, 6, 6)
"""Kernel sizes of the decoder's transposed convolutions: sides 1 -> 5 -> 13 -> 30 -> 64."""
SIDE = 64
BOTTLENECK = 32
"""Output size of the decoder's first layer, in units of `width`."""


class PlainConvTrunk(nn.Module):
    """Up to four convolutions (kernel 4, stride 2, width doubling) with ReLU; small images get fewer. [N, C, H, W] ->
    [N, size].
    """

    def __init__(self, shape: tuple[int, ...], width: int):
        super().__init__()
        channels, height, side = shape
        blocks: list[nn.Module] = []
        for stage in range(STAGES):
            if min(height, side) < 4:
                break
            blocks += [nn.Conv2d(channels, width * 2**stage, 4, 2), nn.ReLU()]
            channels, height, side = width * 2**stage, (height - 4) // 2 + 1, (side - 4) // 2 + 1
        self.net = nn.Sequential(*blocks)
        self.size = channels * height * side

    def forward(self, image: Tensor) -> Tensor:
        return self.net(image.contiguous(memory_format=torch.channels_last)).flatten(1)


class PlainDeconvTrunk(nn.Module):
    """A linear layer, then four transposed convolutions from one pixel to 64 x 64; smaller images are the central crop.

    [N, inputs] -> [N, C, H, W] in [-0.5, 0.5]. Raises: ConfigError for images larger than 64 x 64.
    """

    def __init__(self, inputs: int, shape: tuple[int, ...], width: int):
        super().__init__()
        if max(shape[1:]) > SIDE:
            raise ConfigError(
                f"the plain decoder supports images up to {SIDE} x {SIDE}; here they are {shape[1]} x {shape[2]}",
                fix=f"--env.size {SIDE}, or --decoder.network normed",
            )
        self.shape = shape
        self.first = nn.Linear(inputs, BOTTLENECK * width)
        channels = [BOTTLENECK * width, 4 * width, 2 * width, width, shape[0]]
        blocks: list[nn.Module] = []
        for (before, after), kernel in zip(pairwise(channels), KERNELS, strict=True):
            blocks += [nn.ConvTranspose2d(before, after, kernel, 2), nn.ReLU()]
        self.net = nn.Sequential(*blocks[:-1])

    def forward(self, features: Tensor) -> Tensor:
        x = self.net(self.first(features)[..., None, None])
        top, left = ((SIDE - side) // 2 for side in self.shape[1:])
        return torch.sigmoid(x[:, :, top : top + self.shape[1], left : left + self.shape[2]]) - 0.5
