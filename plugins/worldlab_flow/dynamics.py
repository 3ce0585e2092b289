"""The flow dynamics (cell 5): a recurrent memory whose prediction of the next latent is a conditional flow."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from worldlab.interfaces import ActionSpec, Context, Dynamics, LatentSpec, Specs, State
from worldlab.nn import RecurrentMemory, mlp
from worldlab_flow.argmax import ArgmaxFlow, CodeDensity
from worldlab_flow.configs import FlowDynamicsConfig
from worldlab_flow.coupling import CouplingFlow
from worldlab_flow.location_scale import FlowDensity, FlowHead


@final
class FlowDynamics(Dynamics):
    """h' = GRU(h, mlp(z, a)); z = mean(h) + std(h) * f(noise; h), f a coupling flow: several futures, each sharp.

    Imagination needs cheap samples and training the density of latents that something else made: coupling flows give
    both for one network call a coupling (Dinh et al. 2016, arXiv:1605.08803; splines: Durkan et al. 2019,
    arXiv:1906.04032). Codes get an argmax flow of exact mass instead of f (worldlab_flow.argmax). It has no loss of its
    own: the core's matching rule maximises log_prob of the stopped latent.
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
            self.flow = CouplingFlow(latent.dim, units, config.coupling, config.transforms, units, layers, config.bins)

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
        """memory [N, H] -> p(z | h): a FlowDensity for real latents, a CodeDensity for codes. Both are exact."""
        context = self.context(memory)
        if isinstance(self.flow, ArgmaxFlow):
            return CodeDensity(context, self.flow)
        assert self.head is not None
        return self.head(context, self.flow)

    def metrics(self, ctx: Context) -> dict[str, Tensor]:
        """Signs of an exploding flow on the batch's latents: log|det dnoise/dz| and the largest |log slope|. Codes: none."""
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
