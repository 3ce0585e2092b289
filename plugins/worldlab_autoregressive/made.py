"""A dynamics that predicts the entries of the next latent one after another, by a masked network."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor, nn

from worldlab.distributions import OneHot
from worldlab.interfaces import ActionSpec, Dynamics, LatentSpec, Specs, State
from worldlab.nn import RecurrentMemory, mlp
from worldlab_autoregressive.blocks import BlockNet, BlockPass
from worldlab_autoregressive.configs import MADEDynamicsConfig
from worldlab_autoregressive.mixtures import GaussianMixture, spread_means
from worldlab_autoregressive.priors import block_conditional, blocks_of

UNITS_PER_BLOCK = 8
"""Least hidden units per block: the masks divide the units among the blocks."""


class MADENet(nn.Module):
    """The conditionals p(x_i | x_<i, h) of all blocks i of a latent: mixtures for entries, categoricals for codes.

    Their parameters are A c + masked(x, c) with c = mlp(h). Without A, the first blocks would see h through few units.
    """

    def __init__(self, config: MADEDynamicsConfig, latent: LatentSpec):
        super().__init__()
        self.config, self.coded = config, latent.kind == "categorical"
        self.blocks, self.width = blocks_of(latent)
        self.outputs = self.width if self.coded else 3 * config.components
        units = max(config.units, UNITS_PER_BLOCK * self.blocks)
        self.context = mlp(config.memory, config.units, 1)
        self.direct = nn.Linear(config.units, self.outputs * self.blocks)
        self.masked = BlockNet(self.blocks, self.width, config.units, self.outputs, units, config.layers)
        if not self.coded:
            means = config.components * self.blocks
            spread_means(self.direct.bias, means, means)

    def conditionals(self, context: Tensor, x: Tensor, temperature: float) -> GaussianMixture | OneHot:
        """Return the conditionals, over rows [N, blocks], given the blocks of x [N, D] before. context: [N, units]."""
        return self.distribution(self.seen(context) + self.masked(x, context), temperature)

    def seen(self, context: Tensor) -> Tensor:
        """Return the part of the parameters that no block changes, [N, blocks, outputs]."""
        return self.direct(context).unflatten(-1, (self.outputs, self.blocks)).transpose(-1, -2)

    def distribution(self, out: Tensor, temperature: float) -> GaussianMixture | OneHot:
        """Return the conditionals of blocks from their parameters [*, outputs]."""
        dist = block_conditional(out, self.coded, self.config.unimix, self.config.min_std)
        return dist if temperature == 1 else dist.tempered(temperature)


@dataclass(frozen=True)
class MADEPrior:
    """p(z | h) = prod_i p(z_i | z_<i, h). context: [N, units], computed from h."""

    context: Tensor
    net: MADENet
    temperature: float = 1.0

    def tempered(self, temperature: float) -> MADEPrior:
        """Return the prior whose conditionals have this temperature."""
        return replace(self, temperature=self.temperature * temperature)

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log p(x), [N] in nats, exact, in one pass. x: [N, D]."""
        blocks = x.unflatten(-1, (self.net.blocks, self.net.width))
        return self.net.conditionals(self.context, x, self.temperature).log_prob(blocks).sum(-1)

    def sample(self, generator: torch.Generator) -> Tensor:
        """Draw z [N, D] block by block in one pass; gradients are pathwise, and straight-through for choices."""
        return self._draw(generator)

    @property
    def mode(self) -> Tensor:
        """Return the mode of each conditional in turn, [N, D] (greedy, not always the maximum of the density)."""
        return self._draw(None)

    def _draw(self, generator: torch.Generator | None) -> Tensor:
        drawn: list[Tensor] = []
        run = BlockPass(self.net.masked, self.context)
        for seen in self.net.seen(self.context).unbind(1):
            dist = self.net.distribution(seen + run.outputs(), self.temperature)
            drawn.append((dist.mode if generator is None else dist.sample(generator)).to(self.context.dtype))
            run.append(drawn[-1])
        return torch.cat(drawn, -1)


@final
class MADEDynamics(Dynamics):
    """The transition h' = GRU(h, mlp(z, a)) with p(z | h) = prod_i p(z_i | z_<i, h), in the order of the entries.

    Zhang et al. 2021, arXiv:2104.13877 (autoregressive dynamics models); the masks of MADE (Germain et al. 2015,
    arXiv:1502.03509) give all conditionals in one pass. It is trained by the exact likelihood of the detached latents. The
    reward is the last factor: the core's head models p(r | h, z) given the whole z. Deviations: the state is the latent,
    with a recurrent memory of the past; a real entry has a mixture of Gaussians; codes are predicted group by group.
    """

    Config = MADEDynamicsConfig
    prior_kind = "log_prob"

    def __init__(self, config: MADEDynamicsConfig, specs: Specs) -> None:
        super().__init__(config, specs)
        self.recurrence = RecurrentMemory(specs.latent.dim + specs.action.dim, config.units, config.memory)
        self.net = MADENet(config, specs.latent)

    @classmethod
    def memory_size(cls, config: MADEDynamicsConfig, latent: LatentSpec, action: ActionSpec) -> int:
        return config.memory

    def initial(self, n: int) -> State:
        return self.recurrence.initial(n)

    def advance(self, state: State, z: Tensor, action: Tensor) -> State:
        return self.recurrence.step(state, z, action)

    def memory(self, state: State) -> Tensor:
        return state["h"]

    def predict(self, memory: Tensor) -> MADEPrior:
        return MADEPrior(self.net.context(memory), self.net)
