"""The autoregressive decoder: every pixel is modelled given the features and a few preceding pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from worldlab import tree
from worldlab.errors import ConfigError
from worldlab.interfaces import Alarm, Context, Decoder, Obs, Specs
from worldlab_autoregressive.configs import AutoregressiveDecoderConfig
from worldlab_autoregressive.logistics import parameters_per_pixel, spread_components, to_levels
from worldlab_autoregressive.pixelcnn import PixelCNN, mixture_log_prob
from worldlab_autoregressive.sampling import draw_pictures, pixel_noise
from worldlab_autoregressive.vectors import EntryNet, VectorDistribution

METRIC_FRAMES = 8
"""Frames of a batch on which `metrics` are computed."""


@dataclass(frozen=True)
class PictureDistribution:
    """A distribution p(image | features) over 256 levels per channel. features [N, F]. It is computed lazily."""

    features: Tensor
    net: PixelCNN

    @property
    def mode(self) -> Tensor:
        """Return images [N, C, H, W] without noise: sequentially, the mean of each pixel's most likely component.

        This is greedy, not the most likely image, which is intractable. It costs as much as a sample.
        """
        return draw_pictures(self.net, self.features, None)

    def sample(self, generator: torch.Generator) -> Tensor:
        """Draw images [N, C, H, W] of exact levels k / 255 - 0.5, without a gradient."""
        return draw_pictures(
            self.net, self.features, pixel_noise(self.net, len(self.features), self.features, generator)
        )

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log P of the nearest 256-level image, [N] in nats; exact, in one pass."""
        return self.net.log_prob(self.features, x)


@final
class AutoregressiveDecoder(Decoder):
    """A decoder p(o | h, z): for images a conditional gated PixelCNN with mixtures of discretised logistics, for
    vectors a masked network with mixtures of Gaussians. Keys are independent of each other given features.

    Van den Oord et al. 2016, arXiv:1606.05328; Salimans et al. 2017, arXiv:1701.05517. Likelihoods of images are
    log-probabilities of their 256 levels; those of vectors are densities.
    """

    Config = AutoregressiveDecoderConfig
    score_kind = "log_density"
    renders = True
    draws = "sample"

    def __init__(self, config: AutoregressiveDecoderConfig, specs: Specs) -> None:
        super().__init__(config, specs)
        self.config, self.obs = config, specs.obs
        self.likelihood = "undefined" if specs.obs.vectors else "exact"
        auxiliary = {f"{key}_auxiliary": config.auxiliary for key in specs.obs.images}
        self.loss_weights = {**dict.fromkeys(specs.obs.keys, config.scale), **auxiliary}
        self.frames = config.frames if specs.obs.images else 0  # vectors are cheap: all frames
        width, channels, images = specs.feature_dim, config.channels, specs.obs.images
        self.pictures = nn.ModuleDict(
            {
                key: PixelCNN(width, spec.shape, channels, config.layers, config.components, config.width)
                for key, spec in images.items()
            }
        )
        masked = (config.units, config.vector_layers, config.vector_components, config.min_std)
        self.vectors = nn.ModuleDict(
            {key: EntryNet(width, spec.shape[0], *masked) for key, spec in specs.obs.vectors.items()}
        )
        auxiliary_keys = images if config.auxiliary else {}
        self.auxiliary = nn.ModuleDict(
            {key: auxiliary_head(channels, spec.shape[0]) for key, spec in auxiliary_keys.items()}
        )

    def decode(self, features: Tensor) -> dict[str, PictureDistribution | VectorDistribution]:  # type: ignore[override]
        """Return a distribution for each key. features [N, F]. Nothing is computed until a distribution is used."""
        out: dict[str, PictureDistribution | VectorDistribution] = {}
        for key in self.obs.keys:
            if key in self.pictures:
                out[key] = PictureDistribution(features, self.pictures[key])  # type: ignore[arg-type]
            else:
                out[key] = VectorDistribution(features, self.vectors[key])  # type: ignore[arg-type]
        return out

    def score(self, features: Tensor, obs: Obs) -> Tensor:
        """Return log p(o | features), [N] in nats: exact."""
        return torch.stack([dist.log_prob(obs[key]) for key, dist in self.decode(features).items()]).sum(0)

    def log_mass(self, features: Tensor, obs: Obs, generator: torch.Generator) -> Tensor:
        """Return log P of the images' grey levels, [N] in nats: exact. Raises: ConfigError if there are vectors."""
        if self.vectors:
            raise ConfigError(
                "vectors have densities, not probabilities", fix="observe images only for bits per dimension"
            )
        return self.score(features, obs)

    def losses(self, ctx: Context, player: str = "main") -> dict[str, Tensor]:
        """Return -log p of each key, shaped as ctx.row; with `auxiliary` also a second term for each image.

        The auxiliary decoder is that of De Fauw et al. 2019, arXiv:1903.04933, section 3: it reads no pixels, so it can
        only learn from z. z then learns what the PixelCNN would first predict from neighbouring pixels. README.md has
        the measurements.
        """
        if player != "main":
            return {}
        features, obs, out = ctx.features.flatten(0, 1), tree.flatten_time(ctx.batch.obs), {}
        for key, net in self.pictures.items():
            condition = net.condition(features)  # type: ignore[operator]
            out[key] = -net.picture_log_prob(condition, obs[key])  # type: ignore[operator]
            if self.config.auxiliary:
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

    def alarms(self, values: dict[str, float]) -> dict[str, Alarm]:
        """Return `latent_ignored` if another frame's features explain frames equally well and `auxiliary` is 0."""
        ignored = values.get("features_gap", 1.0) <= 2 * values.get("features_gap_se", 0.0)
        if not ignored or not self.pictures or self.config.auxiliary:
            return {}
        message = "the PixelCNN predicts images from neighbouring pixels and ignores the latent"
        return {"latent_ignored": Alarm(message, "set --decoder.auxiliary 1, or use fewer --decoder.layers")}


def auxiliary_head(inputs: int, channels: int) -> nn.Sequential:
    """Build a head that maps the features' map to one logistic per pixel and reads no other pixel."""
    last = nn.Conv2d(inputs, parameters_per_pixel(channels, 1), 1)
    spread_components(last.bias, channels, 1)  # type: ignore[arg-type]
    return nn.Sequential(nn.SiLU(), last)
