"""The autoregressive dynamics: a sequence model over (z, a) with an exact density of the next z."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from worldlab import tree
from worldlab.interfaces import ActionSpec, Context, Dynamics, LatentSpec, Specs, State, Unrolled
from worldlab_autoregressive.codes import CodeDistribution
from worldlab_autoregressive.configs import AutoregressiveDynamicsConfig
from worldlab_autoregressive.lstm import LSTMMemory
from worldlab_autoregressive.mixtures import GaussianMixture
from worldlab_autoregressive.priors import PriorHead
from worldlab_autoregressive.transformer import TransformerMemory


@final
class AutoregressiveDynamics(Dynamics):
    """A prior p(z_1 .. z_T | a) = prod_t p(z_t | z_<t, a_<t), trained by the exact likelihood of the detached latents.

    memory_kind "transformer": one token per step, causal attention over a sliding window, as in STORM (Zhang et al.
    2023, arXiv:2310.09615). "lstm": the MDN-RNN of World Models (Ha & Schmidhuber 2018, arXiv:1803.10122), identical to
    the last parameter with mixture = "factorised" and head_layers = 0. Head: a mixture of Gaussians for a real z, an
    autoregressive network over the groups for a categorical z. Samples carry pathwise gradients through mean and std
    and straight-through gradients through the choice of a component or code; the latter are biased (see the
    distributions).
    """

    Config = AutoregressiveDynamicsConfig
    prior_kind = "log_prob"
    reparameterised = True

    def __init__(self, config: AutoregressiveDynamicsConfig, specs: Specs) -> None:
        super().__init__(config, specs)
        self.latent = specs.latent
        inputs = specs.latent.dim + specs.action.dim
        self.net: TransformerMemory | LSTMMemory
        if config.memory_kind == "lstm":
            self.net = LSTMMemory(inputs, config.memory)
        else:
            self.net = TransformerMemory(inputs, config.memory, config.layers, config.heads, config.window)
        self.head = PriorHead(config, specs.latent)

    @classmethod
    def memory_size(cls, config: AutoregressiveDynamicsConfig, latent: LatentSpec, action: ActionSpec) -> int:
        return config.memory

    def initial(self, n: int) -> State:
        """Return the state before the first step: an empty cache, or zeros."""
        return self.net.initial(n)

    def advance(self, state: State, z: Tensor, action: Tensor) -> State:
        return self.net.step(state, torch.cat([z, action], -1))

    def fork(self, state: State, count: int) -> State:
        return tree.repeat(state, count) if isinstance(self.net, LSTMMemory) else self.net.fork(state, count)

    def advance_sequence(self, state: State, z: Tensor, action: Tensor, is_first: Tensor) -> Unrolled:
        return self.net.sequence(state, torch.cat([z, action], -1), is_first)

    def memory(self, state: State) -> Tensor:
        return state["h"]

    def predict(self, memory: Tensor) -> GaussianMixture | CodeDistribution:
        """Return p(z | h) for memory [N, H]: log_prob is exact, for a categorical z in one teacher-forced pass."""
        return self.head(memory)

    def metrics(self, ctx: Context) -> dict[str, Tensor]:
        """Return `components`, the effective number of Gaussians (1 to K), and `std`, their mean std. Nothing for
        codes.
        """
        if not isinstance(ctx.prior, GaussianMixture):
            return {}
        return {"components": ctx.prior.components_used().mean(), "std": ctx.prior.std.mean()}
