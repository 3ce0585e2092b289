"""What the decoders of this family share: a likelihood of each observation key, given features.

Images have a network of the decoder's own, vectors a masked network; keys are independent of each other given features.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from worldlab import tree
from worldlab.errors import ConfigError
from worldlab.interfaces import Context, Obs, Specs
from worldlab_autoregressive.configs import AutoregressiveDecoderConfig, ParallelPixelCNNDecoderConfig
from worldlab_autoregressive.logistics import parameters_per_pixel, spread_components, to_levels
from worldlab_autoregressive.pixelcnn import mixture_log_prob
from worldlab_autoregressive.vectors import EntryNet, VectorDistribution

METRIC_FRAMES = 8
"""Frames of a batch on which `metrics` are computed."""


DecoderConfig = AutoregressiveDecoderConfig | ParallelPixelCNNDecoderConfig
Draw = Callable[[Any, Tensor, torch.Generator | None], Tensor]
"""Draws images [N, C, H, W] from a network and features [N, F]. generator None: without noise."""


@dataclass(frozen=True)
class PictureDistribution:
    """A distribution p(image | features) over 256 levels per channel. features [N, F]. It is computed lazily."""

    features: Tensor
    net: Any
    draw: Draw

    @property
    def mode(self) -> Tensor:
        """Return images [N, C, H, W] without noise: in the order of the network, the mean of each pixel's most likely
        component. This is greedy, not the most likely image, which is intractable. It costs as much as a sample.
        """
        return self.draw(self.net, self.features, None)

    def sample(self, generator: torch.Generator) -> Tensor:
        """Draw images [N, C, H, W] of exact levels k / 255 - 0.5, without a gradient."""
        return self.draw(self.net, self.features, generator)

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log P of the nearest 256-level image, [N] in nats; exact."""
        return self.net.log_prob(self.features, x)


class ObservationModel(nn.Module):
    """The likelihoods of all keys, with a second likelihood of each image from the features alone.

    build: makes the network of an image from its shape; it has `condition(features)`, a map [N, channels, H, W],
    `log_prob(features, picture)` and `picture_log_prob(condition, picture)`.
    """

    def __init__(self, config: DecoderConfig, specs: Specs, build: Callable[[tuple[int, ...]], nn.Module], draw: Draw):
        super().__init__()
        self.obs, self.draw, self.weight = specs.obs, draw, config.auxiliary
        self.pictures = nn.ModuleDict({key: build(spec.shape) for key, spec in specs.obs.images.items()})
        masked = (config.units, config.vector_layers, config.vector_components, config.min_std)
        self.vectors = nn.ModuleDict(
            {key: EntryNet(specs.feature_dim, spec.shape[0], *masked) for key, spec in specs.obs.vectors.items()}
        )
        auxiliary = specs.obs.images if config.auxiliary else {}
        self.auxiliary = nn.ModuleDict(
            {key: auxiliary_head(config.channels, spec.shape[0]) for key, spec in auxiliary.items()}
        )

    def loss_weights(self, scale: float) -> dict[str, float]:
        """Return the weight of every term of `losses`: `scale` for the likelihoods."""
        auxiliary = {f"{key}_auxiliary": self.weight for key in self.obs.images}
        return {**dict.fromkeys(self.obs.keys, scale), **auxiliary}

    def decode(self, features: Tensor) -> dict[str, Any]:
        """Return a distribution for each key. features [N, F]. Nothing is computed until a distribution is used."""
        return {
            key: PictureDistribution(features, self.pictures[key], self.draw)
            if key in self.pictures
            else VectorDistribution(features, self.vectors[key])  # type: ignore[arg-type]
            for key in self.obs.keys
        }

    def log_prob(self, features: Tensor, obs: Obs) -> Tensor:
        """Return log p(o | features), [N] in nats."""
        return torch.stack([dist.log_prob(obs[key]) for key, dist in self.decode(features).items()]).sum(0)

    def log_mass(self, features: Tensor, obs: Obs) -> Tensor:
        """Return log P of the images' grey levels, [N] in nats. Raises: ConfigError if there are vectors."""
        if self.vectors:
            raise ConfigError(
                "vectors have densities, not probabilities", fix="observe images only for bits per dimension"
            )
        return self.log_prob(features, obs)

    def losses(self, ctx: Context) -> dict[str, Tensor]:
        """Return -log p of each key, shaped as ctx.row; with `auxiliary` also a second term for each image.

        The auxiliary decoder is that of De Fauw et al. 2019, arXiv:1903.04933, section 3: it reads no pixels, so it can
        only learn from z. z then learns what the network would first predict from neighbouring pixels. README.md has
        the measurements.
        """
        features, obs, out = ctx.features.flatten(0, 1), tree.flatten_time(ctx.batch.obs), {}
        for key, net in self.pictures.items():
            condition = net.condition(features)  # type: ignore[operator]
            out[key] = -net.picture_log_prob(condition, obs[key])  # type: ignore[operator]
            if self.weight:
                auxiliary = mixture_log_prob(self.auxiliary[key](condition), to_levels(obs[key]))
                out[f"{key}_auxiliary"] = -auxiliary
        for key, net in self.vectors.items():
            dist = VectorDistribution(features, net)  # type: ignore[arg-type]
            out[key] = -dist.log_prob(obs[key])
        return {key: term.view_as(ctx.row) for key, term in out.items()}

    def metrics(self, ctx: Context) -> dict[str, Tensor]:
        """Return `bits_per_dim`: -log2 P(image | features) per pixel and channel, on a few frames; a uniform model has
        8.
        """
        if not self.pictures:
            return {}
        step = -(-ctx.row.numel() // METRIC_FRAMES)
        parts = self.decode(ctx.features.flatten(0, 1)[::step])
        obs = {key: leaf.flatten(0, 1)[::step] for key, leaf in ctx.batch.obs.items()}
        nats = torch.stack([parts[key].log_prob(obs[key]) for key in self.pictures]).sum(0)
        entries = sum(math.prod(spec.shape) for spec in self.obs.images.values())
        return {"bits_per_dim": -nats.mean() / (math.log(2) * entries)}


def auxiliary_head(inputs: int, channels: int) -> nn.Sequential:
    """Build a head that maps the features' map to one logistic per pixel and reads no other pixel."""
    last = nn.Conv2d(inputs, parameters_per_pixel(channels, 1), 1)
    spread_components(last.bias, channels, 1)  # type: ignore[arg-type]
    return nn.Sequential(nn.SiLU(), last)
