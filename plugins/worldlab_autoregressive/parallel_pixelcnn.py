"""A decoder that draws an image in O(log N) passes: groups of pixels, each group in one pass."""

from __future__ import annotations

from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldlab.interfaces import Context, Decoder, Obs, Specs
from worldlab.nn import ChannelNorm, DeconvTrunk, conv_stages
from worldlab_autoregressive.configs import ParallelPixelCNNDecoderConfig
from worldlab_autoregressive.logistics import (
    LogisticMixture,
    from_levels,
    parameters_per_pixel,
    spread_components,
    to_levels,
)
from worldlab_autoregressive.observations import ObservationModel
from worldlab_autoregressive.pixelcnn import PixelCNN, mixture_log_prob
from worldlab_autoregressive.sampling import draw_with_cache, standard_noise

GROUPS = ((0, 0), (0, 1), (1, 0), (1, 1))
"""Rows and columns of the corners of each block of 2 x 2 pixels, in the order in which they are drawn."""
BASE_LAYERS = 2
"""Layers of the PixelCNN that draws the smallest image, of about 4 x 4 pixels."""


class GroupNet(nn.Module):
    """The parameters of one group of pixels at one resolution, given the pixels drawn before, by residual convolutions."""

    def __init__(self, inputs: int, channels: int, layers: int, shape: tuple[int, ...], components: int):
        super().__init__()
        self.first = nn.Conv2d(inputs, channels, 3, padding=1)
        self.layers = nn.ModuleList(
            nn.Sequential(
                ChannelNorm(channels), nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1), nn.SiLU(),
                nn.Conv2d(channels, channels, 1),
            )
            for _ in range(layers)
        )  # fmt: skip
        self.biases = nn.ModuleList(nn.Conv2d(channels, channels, 1) for _ in range(layers))
        self.head = nn.Sequential(nn.SiLU(), nn.Conv2d(channels, parameters_per_pixel(shape[0], components), 1))
        spread_components(self.head[-1].bias, shape[0], components)  # type: ignore[arg-type]

    def forward(self, known: Tensor, condition: Tensor) -> Tensor:
        """Map known pixels [N, inputs, h, w] and the features' map [N, S, h, w] to parameters [N, P, h, w]."""
        x = self.first(known)
        for layer, bias in zip(self.layers, self.biases, strict=True):
            x = x + layer(x + bias(condition))
        return self.head(x)


class ParallelPixelCNN(nn.Module):
    """The distribution of images [N, C, H, W] given features [N, F].

    The pixels at a distance of 2^L form the smallest image. Each of L doublings then draws the other three corners of
    all blocks, one corner after another: p(x | s) = p(base | s) prod_l prod_g p(x_lg | all pixels before, s), and the
    pixels of one group x_lg are independent of each other given those before.
    """

    def __init__(self, features: int, shape: tuple[int, ...], config: ParallelPixelCNNDecoderConfig):
        super().__init__()
        self.shape, self.components = shape, config.components
        self.strides = [2**i for i in reversed(range(conv_stages(shape)))]
        self.upsample = DeconvTrunk(features, shape, config.width, config.channels)
        base = self.corner(torch.empty(0, *shape), 2 * self.strides[0], (0, 0)).shape[1:]
        self.base = PixelCNN(0, tuple(base), config.channels, BASE_LAYERS, config.components, config.width)
        sizes = (config.channels, config.layers, shape, config.components)
        self.nets = nn.ModuleList(
            nn.ModuleList(GroupNet(g * (shape[0] + 1), *sizes) for g in (1, 2, 3)) for _ in self.strides
        )

    def condition(self, features: Tensor) -> Tensor:
        """Upsample features [N, F] to a map [N, S, H, W]."""
        return self.upsample(features)

    def corner(self, x: Tensor, stride: int, group: tuple[int, int]) -> Tensor:
        """Return the pixels of a group: every second of those at a distance of stride / 2, from the given corner on."""
        half = stride // 2
        return x[:, :, group[0] * half :: stride, group[1] * half :: stride]

    def outputs(self, level: int, group: int, picture: Tensor, condition: Tensor) -> Tensor:
        """Return the parameters of a group (1, 2 or 3) at a level, [N, P, h, w], from a picture in [-0.5, 0.5].

        Only pixels of the groups before are read.
        """
        stride = 2 * self.strides[level]
        size = self.corner(picture, stride, GROUPS[0]).shape[2:]
        # A channel of ones distinguishes the padding, at odd sides, from grey.
        marked = torch.cat([2 * picture, torch.ones_like(picture[:, :1])], 1)
        parts = [_pad(self.corner(marked, stride, corner), size) for corner in GROUPS[:group]]
        local = _pad(self.corner(condition, stride, GROUPS[group]), size)
        height, side = self.corner(picture, stride, GROUPS[group]).shape[2:]
        net: Any = self.nets[level]
        return net[group - 1](torch.cat(parts, 1), local)[:, :, :height, :side]

    def log_prob(self, features: Tensor, picture: Tensor) -> Tensor:
        """Return log P of the 256-level image nearest to `picture`, [N] in nats, without a gradient to it."""
        return self.picture_log_prob(self.condition(features), picture)

    def picture_log_prob(self, condition: Tensor, picture: Tensor) -> Tensor:
        """Return the same, given the features' map."""
        levels = to_levels(picture)
        picture = from_levels(levels)
        first, start = (self.corner(x, 2 * self.strides[0], GROUPS[0]) for x in (condition, picture))
        total = self.base.log_prob(first, start)
        for level, stride in enumerate(self.strides):
            for group in (1, 2, 3):
                out = self.outputs(level, group, picture, condition)
                total = total + mixture_log_prob(out, self.corner(levels, 2 * stride, GROUPS[group]))
        return total


def _pad(x: Tensor, size: torch.Size) -> Tensor:
    return F.pad(x, (0, size[1] - x.shape[3], 0, size[0] - x.shape[2]))


@torch.no_grad()
def draw_in_groups(net: ParallelPixelCNN, features: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw images [N, C, H, W]: the base by a PixelCNN, then three passes for each doubling. generator None: greedy."""
    condition = net.condition(features)
    picture = features.new_zeros(len(features), *net.shape)
    first = net.corner(condition, 2 * net.strides[0], GROUPS[0])
    net.corner(picture, 2 * net.strides[0], GROUPS[0]).copy_(draw_with_cache(net.base, first, generator))
    for level, stride in enumerate(net.strides):
        for group in (1, 2, 3):
            out = net.outputs(level, group, picture, condition).permute(0, 2, 3, 1)
            mixture = LogisticMixture.from_outputs(out, net.shape[0])
            gumbel, logistic = None, None
            if generator is not None:
                gumbel, logistic = standard_noise(out.shape[:3], net.components, net.shape[0], features, generator)
            pixels = from_levels(mixture.draw(gumbel, logistic)).permute(0, 3, 1, 2)
            net.corner(picture, 2 * stride, GROUPS[group]).copy_(pixels)
    return picture


@final
class ParallelPixelCNNDecoder(Decoder):
    """A decoder p(o | h, z) whose images take O(log N) passes: 12 and a base of 4 x 4 for 64 x 64, not 4,096 pixels.

    Reed et al. 2017, arXiv:1703.03664 (Parallel Multiscale Autoregressive Density Estimation). Deviations: the groups are
    the four corners of blocks of 2 x 2, so that one smaller image is the first group of the next; the base is a small
    PixelCNN, conditioned on the features; pixels are mixtures of logistics; vectors are modelled entry by entry, as by
    `autoregressive`. Likelihoods of images are log-probabilities of their 256 levels, exact.
    """

    Config = ParallelPixelCNNDecoderConfig
    score_kind = "log_density"
    renders = True
    draws = "sample"

    def __init__(self, config: ParallelPixelCNNDecoderConfig, specs: Specs) -> None:
        super().__init__(config, specs)
        self.likelihood = "undefined" if specs.obs.vectors else "exact"
        self.frames = config.frames if specs.obs.images else 0

        def build(shape: tuple[int, ...]) -> ParallelPixelCNN:
            return ParallelPixelCNN(specs.feature_dim, shape, config)

        self.model = ObservationModel(config, specs, build, draw_in_groups)
        self.loss_weights = self.model.loss_weights(1.0)

    def decode(self, features: Tensor) -> dict[str, Any]:
        """Return a distribution for each key. features [N, F]. Nothing is computed until a distribution is used."""
        return self.model.decode(features)

    def score(self, features: Tensor, obs: Obs) -> Tensor:
        """Return log p(o | features), [N] in nats: exact."""
        return self.model.log_prob(features, obs)

    def log_mass(self, features: Tensor, obs: Obs, generator: torch.Generator) -> Tensor:
        """Return log P of the images' grey levels, [N] in nats: exact. Raises: ConfigError if there are vectors."""
        return self.model.log_mass(features, obs)

    def losses(self, ctx: Context, player: str = "main") -> dict[str, Tensor]:
        """Return the terms of `ObservationModel.losses`."""
        return self.model.losses(ctx) if player == "main" else {}

    def metrics(self, ctx: Context) -> dict[str, Tensor]:
        """Return `bits_per_dim` (see `ObservationModel.metrics`)."""
        return self.model.metrics(ctx)
