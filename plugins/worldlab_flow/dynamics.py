"""The flow dynamics: a recurrent memory whose prediction of the next latent is a conditional flow."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from worldlab.interfaces import ActionSpec, Context, Dynamics, LatentSpec, Specs, State
from worldlab.nn import RecurrentMemory, mlp
from worldlab_flow.argmax import ArgmaxFlow, CodeDensity
from worldlab_flow.configs import FlowDynamicsConfig
from worldlab_flow.coupling import CouplingFlow
from worldlab_flow.inverse_autoregressive import MaskedAutoregressiveFlow
from worldlab_flow.location_scale import FlowDensity, FlowHead


@final
class FlowDynamics(Dynamics):
    """A transition h' = GRU(h, mlp(z, a)) with z = mean(h) + std(h) * f(noise; h), f a coupling flow, which can be
    multimodal.

    Imagination needs fast samples; training needs the density of latents from the encoder. Coupling flows provide both
    at one network call per coupling (Dinh et al. 2016, arXiv:1605.08803; splines: Durkan et al. 2019,
    arXiv:1906.04032). coupling "maf" is the counterexample: masked autoregressive transforms (Papamakarios et al. 2017,
    arXiv:1705.07057), whose densities are as fast but whose samples take a call for each entry. Codes use an argmax flow
    with exact probabilities instead of f (worldlab_flow.argmax). The dynamics has no loss of its own: the core's matching
    rule maximises log_prob of the detached latent.
    """

    Config = FlowDynamicsConfig
    prior_kind = "log_prob"
    reparameterised = True

    def __init__(self, config: FlowDynamicsConfig, specs: Specs) -> None:
        super().__init__(config, specs)
        latent, units, layers = specs.latent, config.units, config.layers
        self.recurrence = RecurrentMemory(latent.dim + specs.action.dim, units, config.memory, layers)
        self.context = mlp(config.memory, units, layers)
        if latent.kind == "categorical":
            self.head = None
            self.flow = ArgmaxFlow(
                latent.groups, latent.classes, units, config.transforms, units, layers, config.unimix
            )
        else:
            self.head = FlowHead(units, latent.dim, config.min_std)
            if config.coupling == "maf":
                self.flow = MaskedAutoregressiveFlow(latent.dim, units, config.transforms, units, layers)
            else:
                sizes = (config.transforms, units, layers, config.bins)
                self.flow = CouplingFlow(latent.dim, units, config.coupling, *sizes)

    @classmethod
    def memory_size(cls, config: FlowDynamicsConfig, latent: LatentSpec, action: ActionSpec) -> int:
        return config.memory

    def initial(self, n: int) -> State:
        return self.recurrence.initial(n)

    def advance(self, state: State, z: Tensor, action: Tensor) -> State:
        return self.recurrence.step(state, z, action)

    def memory(self, state: State) -> Tensor:
        return state["h"]

    def predict(self, memory: Tensor) -> FlowDensity | CodeDensity:
        """Return p(z | h) for memory [N, H]: a FlowDensity for real latents, a CodeDensity for codes. Both are
        exact.
        """
        context = self.context(memory)
        if isinstance(self.flow, ArgmaxFlow):
            return CodeDensity(context, self.flow)
        assert self.head is not None
        return self.head(context, self.flow)

    def metrics(self, ctx: Context) -> dict[str, Tensor]:
        """Return the signs of an unstable flow on the batch's latents: log|det dnoise/dz| and the largest |log slope|.
        Nothing for codes.
        """
        if isinstance(self.flow, ArgmaxFlow):
            return {}
        density = self.predict(ctx.memory.flatten(0, 1))
        assert isinstance(density, FlowDensity)
        standard = (ctx.latent.z.flatten(0, 1) - density.mean) / density.std
        slopes = torch.cat(self.flow.normalise_with_slopes(standard, density.context)[1], -1)
        return {
            "log_det_mean": (slopes.sum(-1) - density.std.log().sum(-1)).mean(),
            "log_scale_max": slopes.abs().max(),
            "std_min": density.std.min(),
        }
