"""Generators and critics of observations: transposed convolutions for images, small networks for vectors."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldlab.interfaces import Obs
from worldlab.nn import ChannelNorm, conv_stages, mlp
from worldlab.specs import ObsSpec
from worldlab_gan.critics import Projection, leaky_mlp
from worldlab_gan.generators import NoisyMLP, normal_noise

LIMIT = 0.55
"""Bound of a generated pixel. With a bound of 0.5 black and white lie where tanh saturates: mostly black or white
images turned all black for the first hundred updates and more."""
NOISE_GAIN = 0.3
"""Initial scale of the noise relative to the features; noise should only model what the features leave open."""
KNEE = 1.0
"""Feature matching is quadratic below this relative difference and linear above. Squares alone seek the mean, which
blurs. Absolute values have the same gradient at a tiny difference, which dominates all other losses in images with
little content."""


class Film(nn.Module):
    """Feature-wise modulation, x (1 + scale) + shift per channel, from an embedded condition [N, U] and noise [N, K].

    Perez et al. 2017, arXiv:1709.07871; a share of the noise for each level: Brock et al. 2018, arXiv:1809.11096.
    """

    def __init__(self, channels: int, condition: int, noise: int):
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.condition = nn.Linear(condition, 2 * channels)
        self.inject = nn.Linear(noise, 2 * channels, bias=False)
        with torch.no_grad():
            self.inject.weight.mul_(NOISE_GAIN)

    def forward(self, x: Tensor, condition: Tensor, noise: Tensor | None) -> Tensor:
        style = self.condition(condition)
        if noise is not None:
            style = style + self.inject(noise)
        scale, shift = style[..., None, None].chunk(2, 1)
        return F.silu(self.norm(x) * (1 + scale) + shift)


class PictureGenerator(nn.Module):
    """A generator of images: features [N, F] and noise -> [N, C, H, W] within +-LIMIT. Sizes that no power of two
    divides are cropped centrally.

    The network is DCGAN's (Radford et al. 2015, arXiv:1511.06434): transposed convolutions to a tanh, without pooling.
    Both inputs enter at every level, and ChannelNorm replaces BatchNorm.
    """

    def __init__(self, features: int, shape: tuple[int, ...], width: int, units: int, noise: int):
        super().__init__()
        stages = conv_stages(shape)
        channels = [width * 2**i for i in reversed(range(stages))]
        self.shape, self.noise = shape, noise
        self.start = tuple(-(-side // 2**stages) for side in shape[1:])
        self.embed = mlp(features, units, 1)
        self.first = nn.Linear(units, channels[0] * self.start[0] * self.start[1])
        self.films = nn.ModuleList(Film(width, units, noise) for width in channels)
        self.ups = nn.ModuleList(
            nn.ConvTranspose2d(before, after, 4, 2, 1) for before, after in pairwise([*channels, shape[0]])
        )

    def draw(self, condition: Tensor, generator: torch.Generator, temperature: float = 1.0) -> Tensor:
        return normal_noise(condition, len(self.films) * self.noise, generator, temperature)

    def forward(self, condition: Tensor, noise: Tensor | None) -> Tensor:
        condition = self.embed(condition)
        parts = [None] * len(self.films) if noise is None else noise.split(self.noise, -1)
        x = self.first(condition).unflatten(1, (-1, *self.start)).contiguous(memory_format=torch.channels_last)
        for film, up, part in zip(self.films, self.ups, parts):
            x = up(film(x, condition, part))
        top, left = (x.shape[2] - self.shape[1]) // 2, (x.shape[3] - self.shape[2]) // 2
        return LIMIT * torch.tanh(x[:, :, top : top + self.shape[1], left : left + self.shape[2]])


def observation_generators(
    obs: ObsSpec, features: int, width: int, units: int, layers: int, noise: int
) -> nn.ModuleDict:
    """Build a generator for each key; given the features, keys are generated independently."""
    return nn.ModuleDict(
        {
            key: PictureGenerator(features, spec.shape, width, units, noise)
            if spec.kind == "image"
            else NoisyMLP(features, noise, units, layers, spec.shape[0], NOISE_GAIN)
            for key, spec in obs.entries
        }
    )


class ObsCritic(nn.Module):
    """A projection critic of a whole observation under features [N, F] -> [N].

    It has convolutions and LeakyReLU for each image, a small network for all vectors, and a layer that joins them.
    Unlike the generators it sees whether the keys are consistent with each other.
    """

    def __init__(self, obs: ObsSpec, features: int, width: int, units: int, layers: int):
        super().__init__()
        self.vector_keys = tuple(obs.vectors)
        self.pictures = nn.ModuleDict({key: self._trunk(spec.shape, width) for key, spec in obs.images.items()})
        size = sum(self._size(spec.shape, width) for spec in obs.images.values())
        self.vectors: nn.Sequential | None = None
        if self.vector_keys:
            self.vectors = leaky_mlp(sum(spec.shape[0] for spec in obs.vectors.values()), units, layers)
            size += units
        self.join = leaky_mlp(size, units, 1)
        self.head = Projection(units, features, units)

    @staticmethod
    def _trunk(shape: tuple[int, ...], width: int) -> nn.Sequential:
        blocks: list[nn.Module] = []
        channels = [shape[0], *(width * 2**i for i in range(conv_stages(shape)))]
        for before, after in pairwise(channels):
            blocks += [nn.Conv2d(before, after, 4, 2, 1), nn.LeakyReLU(0.2)]
        return nn.Sequential(*blocks)

    @staticmethod
    def _size(shape: tuple[int, ...], width: int) -> int:
        stages = conv_stages(shape)
        height, side = (length // 2**stages for length in shape[1:])
        return width * 2 ** (stages - 1) * height * side

    def embed_layers(self, obs: Obs) -> list[Tensor]:
        """Return the output of each layer, before any condition: [N, ...] each; the last is the embedding [N, P]."""
        out: list[Tensor] = []
        ends: list[Tensor] = []
        inputs = [
            (trunk, obs[key].contiguous(memory_format=torch.channels_last)) for key, trunk in self.pictures.items()
        ]
        if self.vectors is not None:
            inputs.append((self.vectors, torch.cat([obs[key] for key in self.vector_keys], -1)))
        for trunk, x in inputs:
            for layer in trunk:  # type: ignore[attr-defined]
                x = layer(x)
                if isinstance(layer, nn.LeakyReLU):
                    out.append(x)
            ends.append(x.flatten(1))
        return [*out, self.join(torch.cat(ends, -1))]

    def embed(self, obs: Obs) -> Tensor:
        return self.embed_layers(obs)[-1]

    def forward(self, obs: Obs, features: Tensor) -> Tensor:
        return self.head(self.embed(obs), features)


def feature_distance(generated: list[Tensor], real: list[Tensor]) -> Tensor:
    """Return the distance of generated from real observations in the critic's feature space, averaged over its layers:
    [N].

    Feature matching: Larsen et al. 2015 (VAE-GAN), arXiv:1512.09300; over all layers as in Wang et al. 2017
    (pix2pixHD), arXiv:1711.11585; with a pseudo-Huber distance. generated, real: from `ObsCritic.embed_layers`.
    Differences are relative to the layer's mean magnitude on the real batch, because a critic's features have no fixed
    scale.
    """
    parts = []
    for a, b in zip(generated, real, strict=True):
        difference = (a - b) / b.detach().abs().mean().clamp(min=1e-8)
        parts.append(KNEE * (torch.sqrt(1 + (difference / KNEE).square()) - 1).flatten(1).mean(1))
    return torch.stack(parts).mean(0)


def laplacian_energy(picture: Tensor) -> Tensor:
    """Return the mean squared response of the 4-neighbour Laplacian, a measure of fine detail. [N, C, H, W] -> [N]."""
    kernel = picture.new_tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])
    response = F.conv2d(picture.flatten(0, 1)[:, None], kernel[None, None])
    return response.square().mean((1, 2, 3)).view(picture.shape[:2]).mean(1)
