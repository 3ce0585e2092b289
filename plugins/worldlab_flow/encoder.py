"""The flow encoder (cell 4): an inverse autoregressive posterior, which knows log q of what it samples."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from worldlab.distributions import normal_like
from worldlab.interfaces import Context, Encoder, Latent, LatentSpec, Obs, Specs
from worldlab.nn import ObsTrunk, mlp
from worldlab_flow.configs import FlowEncoderConfig
from worldlab_flow.inverse_autoregressive import InverseAutoregressiveFlow, sample_with_log_prob
from worldlab_flow.location_scale import FlowDensity, FlowHead

MAX_GAIN = 10.0
"""Most by which the means of the first batch are stretched."""
MIN_SPREAD = 0.02
"""Std below which the means of the first batch are left alone: frames so alike say nothing about scale."""
UNSEEN, MEASURED, STARTED = 0, 1, 2
"""Values of `start`: before the first training batch, after its losses, after its step."""


@final
class FlowEncoder(Encoder):
    """z = mean(c) + std(c) * f(noise; c), with f an inverse autoregressive flow and c read off observation and memory.

    Kingma et al. 2016, arXiv:1606.04934. One pass gives z and its exact log q; z may be far smaller than the
    observation, because the flow acts in the latent space only.
    """

    Config = FlowEncoderConfig
    posterior_kind = "own_logq"
    start: Tensor
    mean_of_means: Tensor
    std_of_means: Tensor

    def __init__(self, config: FlowEncoderConfig, specs: Specs) -> None:
        super().__init__(config, specs)
        self.trunk = ObsTrunk(specs.obs, config.width, config.units, config.layers)
        inputs = self.trunk.size + (specs.memory_dim if specs.use_memory else 0)
        self.context = mlp(inputs, config.units, 1)
        self.reads_memory = specs.use_memory
        dim = specs.latent.dim
        self.flow = InverseAutoregressiveFlow(dim, config.units, config.transforms, config.flow_units, config.layers)
        self.head = FlowHead(config.units, dim, config.min_std)
        self.register_buffer("start", torch.tensor(UNSEEN))
        self.register_buffer("mean_of_means", torch.zeros(dim))
        self.register_buffer("std_of_means", torch.ones(dim))

    @classmethod
    def latent_spec(cls, config: FlowEncoderConfig) -> LatentSpec:
        return LatentSpec(config.latent_dim, "gaussian")

    def embed(self, obs: Obs) -> Tensor:
        return self.trunk(obs)

    def infer(self, embed: Tensor, memory: Tensor | None, generator: torch.Generator | None) -> Latent:
        """z [N, D] and log q of this very z. Without a generator: the image of the noise's mode."""
        density = self.density(embed, memory)
        mean = density.mean
        noise = torch.zeros_like(mean) if generator is None else normal_like(mean, generator)
        z, log_q = sample_with_log_prob(density, noise)
        return Latent(z, log_q=log_q)

    def density(self, embed: Tensor, memory: Tensor | None) -> FlowDensity:
        """q(z | o, h) as a distribution. Its log_prob scores any z, at D network calls a transform: for diagnostics."""
        return self.head(self.context(embed if memory is None else torch.cat([embed, memory], -1)), self.flow)

    def losses(self, ctx: Context, player: str = "main") -> dict[str, Tensor]:
        """None: the matching rule trains q. The first training batch is measured, for `after_step`."""
        if player == "main" and self.training and torch.is_grad_enabled() and self.start == UNSEEN:
            with torch.no_grad():
                # What frames do to the means, not what the memory does: z feeds the memory, and would feed on itself.
                memory = ctx.memory.mean((0, 1)).expand(ctx.row.numel(), -1) if self.reads_memory else None
                mean = self.density(ctx.embed.flatten(0, 1), memory).mean
                std = mean.std(0, correction=0)
            self.mean_of_means.copy_(mean.mean(0))
            self.std_of_means.copy_(torch.where(std > MIN_SPREAD, std.clamp(min=1 / MAX_GAIN), 1.0))
            self.start.fill_(MEASURED)
        return {}

    def after_step(self, player: str) -> None:
        """After the first step, make the means of z vary over frames as much as a prior does (std 1), around 0.

        Data-dependent initialisation: Salimans & Kingma 2016, arXiv:1602.07868, section 3. Fresh networks map all
        frames to almost the same mean, which drowns in the posterior's noise: on the moving dot of worldlab.testing
        4 of 8 seeds had found the dot after 240 updates, with this 7 of 8.
        """
        if player == "main" and self.start == MEASURED:
            self.head.standardise(self.mean_of_means, self.std_of_means)
            self.start.fill_(STARTED)

    def metrics(self, ctx: Context) -> dict[str, Tensor]:
        """The posterior's entropy in nats, and the signs of an exploding flow: its log|det| and its largest |log scale|."""
        density = self._batch_density(ctx)
        # Its own noise: watching must not move the random stream that training draws from.
        noise = normal_like(density.mean, torch.Generator(ctx.row.device).manual_seed(0))
        scales = torch.stack(self.flow.log_scales(noise, density.context))  # [transforms, N, D]
        _, log_q = sample_with_log_prob(density, noise)
        return {
            "entropy": -log_q.mean(),
            "log_det_mean": scales.sum((0, 2)).mean(),
            "log_scale_max": scales.abs().max(),
        }

    def _batch_density(self, ctx: Context) -> FlowDensity:
        return self.density(ctx.embed.flatten(0, 1), ctx.memory.flatten(0, 1) if self.reads_memory else None)
