"""The rectified-flow dynamics: a recurrent memory, and a flow from noise to the next latent."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor
from worldlab.interfaces import ActionSpec, Context, Dynamics, LatentSpec, Specs, State
from worldlab.nn import RecurrentMemory

from worldlab_diffusion.configs import RectifiedFlowDynamicsConfig
from worldlab_diffusion.denoisers import CodeDenoiser, RealDenoiser
from worldlab_diffusion.networks import VectorVelocity
from worldlab_diffusion.rectified import FlowSamples, FlowSettings, RectifiedFlow

METRIC_FRAMES = 128
"""Frames of a batch on which `metrics` are computed."""


@final
class RectifiedFlowDynamics(Dynamics):
    """A transition h' = GRU(h, mlp(z, a)) with p(z | h) by flow matching: Lipman et al. 2022, arXiv:2210.02747; Liu et
    al. 2022, arXiv:2209.03003; codes: Eijkelboom et al. 2024, arXiv:2406.04843.

    The target latents are always detached: no term here trains an encoder.
    """

    Config = RectifiedFlowDynamicsConfig
    prior_kind = "sampler"
    reparameterised = True

    def __init__(self, config: RectifiedFlowDynamicsConfig, specs: Specs) -> None:
        super().__init__(config, specs)
        self.config = config
        self.loss_weights = {"flow": config.scale}
        latent, units = specs.latent, config.units
        self.recurrence = RecurrentMemory(latent.dim + specs.action.dim, units, config.memory)
        settings = FlowSettings(config.steps, config.solver, config.unconditional, config.draws, config.nodes)
        codes = latent.kind == "categorical"
        net = VectorVelocity(latent.dim, (1 if codes else 2) * latent.dim, config.memory, units, config.layers)
        denoiser = CodeDenoiser(net, latent) if codes else RealDenoiser(net, (latent.dim,))
        self.flow = RectifiedFlow(denoiser, config.memory, settings)

    @classmethod
    def memory_size(cls, config: RectifiedFlowDynamicsConfig, latent: LatentSpec, action: ActionSpec) -> int:
        return config.memory

    def initial(self, n: int) -> State:
        return self.recurrence.initial(n)

    def advance(self, state: State, z: Tensor, action: Tensor) -> State:
        return self.recurrence.step(state, z, action)

    def memory(self, state: State) -> Tensor:
        return state["h"]

    def predict(self, memory: Tensor) -> FlowSamples:
        """Return samples of z [N, D] for memory [N, H], by `steps` steps of the flow, pathwise; codes
        straight-through.
        """
        return self.flow.condition_on(memory)

    def score_latent(self, memory: Tensor, z: Tensor) -> Tensor:
        """Estimate log p(z | h) / p(z), [N] in nats, from the reduction of denoising errors given h.

        memory [N, H], z [N, D]. It is a ratio to the latent's own marginal, so a collapsing z gains nothing
        (README.md).
        """
        return self.flow.information(z, memory)

    def losses(self, ctx: Context, player: str = "main") -> dict[str, Tensor]:
        """Return `flow` [B, T]: the flow-matching loss of the detached latent, in units of its own std; for codes in
        nats.
        """
        if player != "main":
            return {}
        z, memory = ctx.latent.z.detach().flatten(0, 1), ctx.memory.flatten(0, 1)
        if self.training and torch.is_grad_enabled():
            self.flow.denoiser.record_moments(z, ctx.batch.mask.flatten())
        return {"flow": self.flow.loss(z, memory, ctx.generator).view_as(ctx.row)}

    def after_step(self, player: str) -> None:
        if player == "main":
            self.flow.denoiser.units.update()

    def metrics(self, ctx: Context) -> dict[str, Tensor]:
        """Return, on every n-th frame, `information`: nats that h contains about z; `action_gap`: their loss under
        another row's action (near 0: the predictions ignore the action); `bend`: 0 if one step is enough.
        """
        z, memory = ctx.latent.z[:, 1:].flatten(0, 1), ctx.memory[:, 1:].flatten(0, 1)
        continues = (ctx.batch.mask[:, 1:] * ~ctx.batch.is_first[:, 1:]).flatten()
        before = {"h": ctx.memory[:, :-1].flatten(0, 1)}
        action = ctx.batch.prev_action[:, 1:].roll(1, 0).flatten(0, 1)
        other = self.advance(before, ctx.latent.z[:, :-1].flatten(0, 1), action)["h"]
        chosen = slice(None, None, max(1, len(z) // METRIC_FRAMES))
        z, memory, other, weight = z[chosen], memory[chosen], other[chosen], continues[chosen]
        information = self.flow.information(z, memory)
        gap = information - self.flow.information(z, other)
        total = weight.sum().clamp(min=1)
        # A separate generator: metrics must not advance the random stream of training.
        generator = torch.Generator(z.device).manual_seed(0)
        return {
            "information": (information * weight).sum() / total,
            "action_gap": (gap * weight).sum() / total,
            "bend": self.flow.bend(memory, generator),
        }
