"""Generators and critics of observations: transposed convolutions for pictures, small networks for vectors."""

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
"""Bound of a generated pixel. A bound at 0.5 is reached only where tanh no longer learns: pictures that are mostly
black or white then turned all black for the first hundred updates and more."""
NOISE_GAIN = 0.3
"""The noise starts quieter than the features: it is there for what they leave open."""
KNEE = 1.0
"""Feature matching is quadratic below this relative difference and linear above. Squares alone seek the mean, which
blurs; absolute values alone pull as hard at a difference of nothing, which drowns all other losses where there is
little to see."""


class Film(nn.Module):
    """x (1 + scale) + shift per channel, from an embedded condition [N, U] and this level's share of the noise [N, K].

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
    """features [N, F], noise -> picture [N, C, H, W] within +-LIMIT. Sizes no power of two divides are cropped
    centrally.

    The body of DCGAN (Radford et al. 2015, arXiv:1511.06434): transposed convolutions to a tanh, nothing pooled; with
    both inputs at every level, and ChannelNorm where it has BatchNorm.
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
    """A generator for each key; given the features, keys do not know of each other."""
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

    Convolutions and LeakyReLU for each picture, a small network for all vectors, one layer that joins them: unlike the
    generators it sees whether the entries fit each other.
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
        """What the critic sees at each of its layers, before any condition: [N, ...] each; the last is [N, P]."""
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
    """How far generated observations are from their real ones in the critic's eyes, averaged over its levels: [N].

    Feature matching: Larsen et al. 2015 (VAE-GAN), arXiv:1512.09300; over all levels as in Wang et al. 2017
    (pix2pixHD), arXiv:1711.11585; with a pseudo-Huber distance. made, real: from `ObsCritic.levels`. Differences count
    relative to the level's mean size in the real batch, because a critic's features have no scale of their own.
    """
    parts = []
    for a, b in zip(generated, real, strict=True):
        difference = (a - b) / b.detach().abs().mean().clamp(min=1e-8)
        parts.append(KNEE * (torch.sqrt(1 + (difference / KNEE).square()) - 1).flatten(1).mean(1))
    return torch.stack(parts).mean(0)


def laplacian_energy(picture: Tensor) -> Tensor:
    """Mean squared response of the 4-neighbour Laplacian: how much fine detail there is. [N, C, H, W] -> [N]."""
    kernel = picture.new_tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])
    response = F.conv2d(picture.flatten(0, 1)[:, None], kernel[None, None])
    return response.square().mean((1, 2, 3)).view(picture.shape[:2]).mean(1)
