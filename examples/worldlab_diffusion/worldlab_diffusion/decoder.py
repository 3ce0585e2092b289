"""The rectified-flow decoder: a flow from noise to observations, one for each observation key."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn
from worldlab.distributions import Distribution
from worldlab.interfaces import Context, Decoder, Obs, Specs
from worldlab.specs import ArraySpec

from worldlab_diffusion.configs import RectifiedFlowDecoderConfig
from worldlab_diffusion.denoisers import RealDenoiser
from worldlab_diffusion.networks import PictureVelocity, VectorVelocity
from worldlab_diffusion.rectified import FlowSettings, RectifiedFlow

METRIC_FRAMES = 16
"""Frames of a batch on which `metrics` are computed."""


@final
class RectifiedFlowDecoder(Decoder):
    """A decoder p(o | h, z) by flow matching: Lipman et al. 2022, arXiv:2210.02747; Liu et al. 2022, arXiv:2209.03003.

    Given the features, keys are independent. As the observation model of a world model: Alonso et al. 2024 (DIAMOND),
    arXiv:2405.12399, which also denoises in few steps, but from past frames instead of a latent.
    """

    Config = RectifiedFlowDecoderConfig
    score_kind = "contrastive"  # a log-ratio, learned by denoising (README.md)
    renders = True
    draws = "sample"

    def __init__(self, config: RectifiedFlowDecoderConfig, specs: Specs) -> None:
        super().__init__(config, specs)
        self.config, self.obs = config, specs.obs
        guides = {f"{key}_guide": config.guide for key in specs.obs.images}
        self.loss_weights = {**dict.fromkeys(specs.obs.keys, config.scale), **guides}
        self.frames = config.frames if specs.obs.images else 0  # vectors are cheap: all frames
        self.flows = nn.ModuleDict({key: _flow(entry, specs.feature_dim, config) for key, entry in specs.obs.entries})

    def flow(self, key: str) -> RectifiedFlow:
        """Return the flow of one observation key."""
        flow = self.flows[key]
        assert isinstance(flow, RectifiedFlow)
        return flow

    def decode(self, features: Tensor) -> dict[str, Distribution]:
        """Return samples of each key by `steps` steps of its flow; the mode is the image of noise 0. features [N,
        F].
        """
        return {key: self.flow(key).condition_on(features) for key in self.obs.keys}

    def score(self, features: Tensor, obs: Obs) -> Tensor:
        """Estimate log p(o | s) / p(o), [N] in nats, from the reduction of denoising errors given the features."""
        return torch.stack([self.flow(key).information(obs[key], features) for key in self.obs.keys]).sum(0)

    def losses(self, ctx: Context, player: str = "main") -> dict[str, Tensor]:
        """Return terms by observation key, shaped as ctx.row: [B, T], or [M, 1] for chosen frames. `key`: flow
        matching, for vectors in units of each entry's std, for images in their own units; `key_guide`, for images: the
        loss at t = 0 again, half the squared error of the mean given the features. It has the same optimum and no noise
        in its gradient.
        """
        if player != "main":
            return {}
        features, mask = ctx.features.flatten(0, 1), ctx.batch.mask.flatten()
        out = {}
        for key, entry in self.obs.entries:
            flow, x = self.flow(key), ctx.batch.obs[key].flatten(0, 1)
            if self.training and torch.is_grad_enabled():
                flow.denoiser.record_moments(x, mask)
            weight = flow.denoiser.units.std.square() if entry.kind == "image" else 1.0
            out[key] = weight * flow.loss(x, features, ctx.generator)
            if entry.kind == "image" and self.config.guide:
                out[f"{key}_guide"] = weight * flow.guide_loss(x, features)
        return {name: term.view_as(ctx.row) for name, term in out.items()}

    def after_step(self, player: str) -> None:
        if player == "main":
            for key in self.obs.keys:
                self.flow(key).denoiser.units.update()

    def metrics(self, ctx: Context) -> dict[str, Tensor]:
        """Return on a few frames, by key, `bend_KEY`: the curvature of the flow's trajectories (0: one step is
        enough).
        """
        step = max(1, ctx.row.numel() // METRIC_FRAMES)
        features = ctx.features.flatten(0, 1)[::step][:METRIC_FRAMES]
        # A separate generator: metrics must not advance the random stream of training.
        generator = torch.Generator(ctx.row.device).manual_seed(0)
        return {f"bend_{key}": self.flow(key).bend(features, generator) for key in self.obs.keys}


def _flow(entry: ArraySpec, features: int, config: RectifiedFlowDecoderConfig) -> RectifiedFlow:
    settings = FlowSettings(config.steps, config.solver, config.unconditional, config.draws, config.nodes)
    if entry.kind == "image":
        settings = settings._replace(draws=1, shift=config.shift)
        net = PictureVelocity(entry.shape, features, config.width, config.units)
    else:
        net = VectorVelocity(entry.shape[0], 2 * entry.shape[0], features, config.units, config.layers)
    return RectifiedFlow(RealDenoiser(net, entry.shape), features, settings)
