"""The flow decoder: exact densities of images and vectors given the features, and samples in one pass."""

from __future__ import annotations

import math
from typing import Any, final

import torch
from torch import Tensor, nn

from worldlab import tree
from worldlab.distributions import normal_like
from worldlab.errors import ConfigError
from worldlab.interfaces import Alarm, Context, Decoder, Obs, Specs
from worldlab.nn import mlp
from worldlab_flow.configs import FlowDecoderConfig
from worldlab_flow.coupling import CouplingFlow
from worldlab_flow.location_scale import FlowDensity, FlowHead
from worldlab_flow.pictures import FlowPicture, PictureModel

METRIC_FRAMES = 32
"""Frames of a batch on which `metrics` are computed."""
LOG_SCALE_ALARM = 7.0
"""Largest |log scale| of a stable flow: networks are bounded by 2, an initial actnorm on a constant channel by 4.6."""


class VectorModel(nn.Module):
    """A density p(x | features) of a vector [N, n]: the dynamics' spline coupling flow, given features instead of the
    memory.
    """

    def __init__(self, dim: int, features: int, config: FlowDecoderConfig):
        super().__init__()
        self.context = mlp(features, config.units, config.layers)
        self.flow = CouplingFlow(
            dim, config.units, "spline", config.transforms, config.units, config.layers, config.bins
        )
        self.head = FlowHead(config.units, dim, config.min_std)

    def forward(self, features: Tensor) -> FlowDensity:
        return self.head(self.context(features), self.flow)


@final
class FlowDecoder(Decoder):
    """A conditional multi-scale Glow (or RealNVP) for each image, a conditional spline flow for each vector.

    Kingma & Dhariwal 2018, arXiv:1807.03039; Dinh et al. 2016, arXiv:1605.08803; Durkan et al. 2019, arXiv:1906.04032.
    """

    Config = FlowDecoderConfig
    score_kind = "log_density"
    renders = True
    draws = "sample"

    def __init__(self, config: FlowDecoderConfig, specs: Specs) -> None:
        super().__init__(config, specs)
        entries = {key: math.prod(spec.shape) if config.weight == "entry" else 1 for key, spec in specs.obs.entries}
        guides = {f"{key}_guide": config.guide for key in specs.obs.keys}
        self.loss_weights = {**{key: config.scale / count for key, count in entries.items()}, **guides}
        self.guide = config.guide
        self.vector_noise = config.vector_noise
        features = specs.feature_dim
        self.pictures = nn.ModuleDict(
            {key: PictureModel(key, spec.shape, features, config) for key, spec in specs.obs.images.items()}
        )
        self.vectors = nn.ModuleDict(
            {key: VectorModel(spec.shape[0], features, config) for key, spec in specs.obs.vectors.items()}
        )
        self.frames = config.frames if self.pictures else 0  # vectors are cheap: all frames
        if not self.vectors:
            self.likelihood = "bound"

    def decode(self, features: Tensor) -> dict[str, Any]:
        """Return a FlowPicture for each image and a FlowDensity for each vector. features: [N, F]."""
        pictures = {key: FlowPicture(features, self.picture(key)) for key in self.pictures}
        return pictures | {key: model(features) for key, model in self.vectors.items()}

    def picture(self, key: str) -> PictureModel:
        """Return the density model of the image `key`."""
        model = self.pictures[key]
        assert isinstance(model, PictureModel)
        return model

    def score(self, features: Tensor, obs: Obs) -> Tensor:
        """Return log p(obs | features) [N] in nats, deterministic: images at the centre of their bins, vectors
        exactly.
        """
        return torch.stack([dist.log_prob(obs[key]) for key, dist in self.decode(features).items()]).sum(0)

    def log_mass(self, features: Tensor, obs: Obs, generator: torch.Generator) -> Tensor:
        """Draw one sample, [N] in nats, of the dequantisation bound on log P(grey levels | features). The mean of its
        exponential is at most that probability. Raises: ConfigError if there are vectors, which have no levels.
        """
        if self.likelihood == "undefined":
            raise ConfigError("log_mass needs images only: vectors have a density, not a probability")
        return self._picture_bound(features, obs, generator)

    def bits_per_dim(self, features: Tensor, obs: Obs, generator: torch.Generator, samples: int = 1) -> Tensor:
        """Return an upper bound [N] on -log2 P(grey levels | features) per pixel and channel, over all images.

        It averages `samples` importance weights over the dequantisation noise, inside the log; more samples make it
        tighter (Burda et al. 2015, arXiv:1509.00519, theorem 1). Raises: ConfigError if no image is observed.
        """
        if not self.pictures:
            raise ConfigError("bits per dimension are defined for images only; no image is observed")
        weights = torch.stack([self._picture_bound(features, obs, generator) for _ in range(samples)])
        log_mass = torch.logsumexp(weights, 0) - math.log(samples)
        entries = sum(math.prod(self.picture(key).shape) for key in self.pictures)
        return -log_mass / (entries * math.log(2))

    def _picture_bound(self, features: Tensor, obs: Obs, generator: torch.Generator) -> Tensor:
        return torch.stack([self.picture(key).bound(features, obs[key], generator) for key in self.pictures]).sum(0)

    def losses(self, ctx: Context, player: str = "main") -> dict[str, Tensor]:
        """Return terms by observation key, [B, T] or [M, 1]: `key`, -log p (for images, one sample of the
        dequantisation bound), and `key_guide`, half the squared error of a prediction that depends on the features
        alone.
        """
        if player != "main":
            return {}
        features, obs = ctx.features.flatten(0, 1), tree.flatten_time(ctx.batch.obs)
        out: dict[str, Tensor] = {}
        for key in self.pictures:
            out |= self._picture_losses(key, features, obs[key], ctx.generator)
        for key in self.vectors:
            out |= self._vector_losses(key, features, obs[key], ctx.generator)
        return {name: term.view_as(ctx.row) for name, term in out.items()}

    def _picture_losses(
        self, key: str, features: Tensor, image: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        model = self.picture(key)
        maps = model.maps(features)
        fit = self.training and torch.is_grad_enabled()
        out = {key: -model.bound_from_maps(maps, image, generator, fit)}
        if self.guide:
            out[f"{key}_guide"] = model.sketch_error(maps, image)
        return out

    def _vector_losses(
        self, key: str, features: Tensor, vector: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        density = self.vectors[key](features)
        noisy = vector + self.vector_noise * normal_like(vector, generator)
        out = {key: -density.log_prob(noisy)}
        if self.guide:
            out[f"{key}_guide"] = 0.5 * (density.mean - vector).square().sum(-1)
        return out

    def metrics(self, ctx: Context) -> dict[str, Tensor]:
        """Return, on a few frames, bits per dimension, and the signs of an unstable flow: log|det| and the largest |log
        scale|.
        """
        if not self.pictures:
            return {}
        step = max(1, ctx.row.numel() // METRIC_FRAMES)
        features = ctx.features.flatten(0, 1)[::step][:METRIC_FRAMES]
        obs = {key: leaf.flatten(0, 1)[::step][:METRIC_FRAMES] for key, leaf in ctx.batch.obs.items()}
        # A separate generator: metrics must not advance the random stream of training.
        generator = torch.Generator(ctx.row.device).manual_seed(0)
        all_statistics = [self.picture(key).flow_statistics(features, obs[key]) for key in self.pictures]
        peaks = [scale.abs().max() for statistics in all_statistics for scale in statistics.scales]
        return {
            "bits_per_dim": self.bits_per_dim(features, obs, generator).mean(),
            "log_det_mean": torch.stack([statistics.log_det for statistics in all_statistics]).sum(0).mean(),
            "log_scale_max": torch.stack(peaks).max(),
        }

    def alarms(self, values: dict[str, float]) -> dict[str, Alarm]:
        if values.get("log_scale_max", 0.0) < LOG_SCALE_ALARM:
            return {}
        message = "a layer of the image flow scales by more than a thousand: its images will diverge on new features"
        return {
            "flow_explodes": Alarm(message, "lower --train.learning-rate, or start again with --decoder.depth smaller")
        }
