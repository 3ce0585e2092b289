"""The rectified-flow decoder: a flow from noise to what would be seen, one for each observation key."""

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
    """p(o | h, z) by flow matching: Lipman et al. 2022, arXiv:2210.02747; Liu et al. 2022, arXiv:2209.03003.

    Given the features, keys do not know of each other. As the observation model of a world model: Alonso et al. 2024
    (DIAMOND), arXiv:2405.12399, which denoises with few steps too, but from past frames instead of a latent.
    """

    Config = RectifiedFlowDecoderConfig
    score_kind = "contrastive"  # a log-ratio; it is learned by denoising (README.md)
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
        """The flow of one observation key."""
        flow = self.flows[key]
        assert isinstance(flow, RectifiedFlow)
        return flow

    def decode(self, features: Tensor) -> dict[str, Distribution]:
        """Samples of each key by `steps` steps of its flow; the mode is where noise 0 is carried. features [N, F]."""
        return {key: self.flow(key).condition_on(features) for key in self.obs.keys}

    def score(self, features: Tensor, obs: Obs) -> Tensor:
        """log p(o | s) / p(o), [N] in nats, as the denoising errors estimate it that knowing the features saves."""
        return torch.stack([self.flow(key).information(obs[key], features) for key in self.obs.keys]).sum(0)

    def losses(self, ctx: Context, player: str = "main") -> dict[str, Tensor]:
        """By observation key, shaped as ctx.row: [B, T], or [M, 1] for chosen frames. `key`: flow matching, of vectors in
        the units of each entry's std, of pictures in their own; `key_guide`, of pictures: the loss at t = 0 once more, half
        the squared error of the mean under the features. It has the same optimum and no noise in its gradient."""
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
        """On a few frames, by key: `bend_KEY`, how far the flow's trajectories are from straight (0: one step would do)."""
        step = max(1, ctx.row.numel() // METRIC_FRAMES)
        features = ctx.features.flatten(0, 1)[::step][:METRIC_FRAMES]
        # Its own noise: watching must not move the random stream that training draws from.
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
