"""The clockwork VAE: a latent of two levels, of which the upper one moves at the ticks of a slow clock only.

    z = (u, l)      u: upper level, changes every k-th step;  l: lower level, changes at every step

    at a tick       g' = GRU(g, u, h)           u' ~ p(u' | g')         q(u' | o', g', h')
    between ticks   g' = g                      u' = u                  u' = u
    always          h' = GRU(h, l, u, a, g')    l' ~ p(l' | h', g')     q(l' | o', g', h')

Saxena et al. 2021, arXiv:2102.09532, section 3.

Deviations. There are two levels and one clock for all rows of an episode, which ticks at its first step. Between ticks
posterior and prior of u are N(u, 0.001^2) instead of an exact copy, so that both are densities and their KL is exactly 0.
The prior of l depends on the upper level of the last step and on g', not on the u' drawn at the same step. The posterior
of u reads the frame of its tick, not all frames up to the next one.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from worldlab.distributions import Normal, OneHot
from worldlab.interfaces import ActionSpec, Dynamics, Encoder, Latent, LatentSpec, Obs, Specs, State
from worldlab.nn import GRUCell, ObsTrunk, mlp
from worldlab_vae.configs import ClockworkDynamicsConfig, ClockworkEncoderConfig
from worldlab_vae.heads import LatentHead

HELD_STD = 1e-3
"""Standard deviation of the upper level between ticks, in the prior and in the posterior."""


def hold(dist: Normal, memory: Tensor, held: int) -> Normal:
    """Return the distribution whose first `held` entries stay at their last value unless the clock ticks.

    dist over [N, D]. memory [N, H] ends with the last value [N, held] and the tick [N, 1] (Specs.held).
    """
    last, ticks = memory[:, -held - 1 : -1], memory[:, -1:] > 0.5
    mean = torch.where(ticks, dist.mean[:, :held], last)
    std = torch.where(ticks, dist.std[:, :held], HELD_STD)
    return Normal(torch.cat([mean, dist.mean[:, held:]], -1), torch.cat([std, dist.std[:, held:]], -1))


@final
class ClockworkEncoder(Encoder):
    """A Gaussian posterior over both levels. With another dynamics than the clockwork one, nothing holds the upper level."""

    Config = ClockworkEncoderConfig
    posterior_kind = "analytic"

    def __init__(self, config: ClockworkEncoderConfig, specs: Specs) -> None:
        super().__init__(config, specs)
        self.held = specs.held
        self.trunk = ObsTrunk(specs.obs, config.width, config.units, config.layers)
        inputs = self.trunk.size + (specs.memory_dim if specs.use_memory else 0)
        self.head = LatentHead(inputs, config.units, specs.latent, 0.0, config.min_std)

    @classmethod
    def latent_spec(cls, config: ClockworkEncoderConfig) -> LatentSpec:
        return LatentSpec(config.upper + config.latent_dim, "gaussian", slow=config.upper)

    def embed(self, obs: Obs) -> Tensor:
        return self.trunk(obs)

    def infer(self, embed: Tensor, memory: Tensor | None, generator: torch.Generator | None) -> Latent:
        dist = self.head(embed if memory is None else torch.cat([embed, memory], -1))
        assert isinstance(dist, Normal)
        if self.held and memory is not None:
            dist = hold(dist, memory, self.held)
        return Latent(dist.mode if generator is None else dist.sample(generator), dist=dist)


@final
class ClockworkDynamics(Dynamics):
    """Two recurrent memories, of which the upper one advances at ticks only, and a prior over both levels.

    With another encoder than the clockwork one, the latent has one level, and its prior reads both memories. Nothing is
    held where the encoder does not read the memory (staged training).
    """

    Config = ClockworkDynamicsConfig
    prior_kind = "analytic"

    def __init__(self, config: ClockworkDynamicsConfig, specs: Specs) -> None:
        super().__init__(config, specs)
        self.config = config
        self.held, self.slow = specs.held, specs.latent.slow
        dim, action, units = specs.latent.dim, specs.action.dim, config.units
        lower, upper = self._widths(config)
        self.upper_input, self.upper_cell = mlp(dim + lower, units, 1), GRUCell(units, upper)
        self.lower_input, self.lower_cell = mlp(dim + action + upper, units, 1), GRUCell(units, lower)
        self.head = LatentHead(lower + upper, units, specs.latent, config.unimix, config.min_std)
        self.upper_head: LatentHead | None = None
        if self.held:
            self.upper_head = LatentHead(upper, units, LatentSpec(self.held), 0.0, config.min_std)
            self.head = LatentHead(lower + upper, units, LatentSpec(dim - self.held), 0.0, config.min_std)

    @staticmethod
    def _widths(config: ClockworkDynamicsConfig) -> tuple[int, int]:
        """Return the widths of the lower and the upper memory."""
        upper = max(1, config.memory // 4)
        return config.memory - upper, upper

    @classmethod
    def memory_size(cls, config: ClockworkDynamicsConfig, latent: LatentSpec, action: ActionSpec) -> int:
        return config.memory + (latent.slow + 1 if latent.slow else 0)

    @classmethod
    def holds(cls, config: ClockworkDynamicsConfig, latent: LatentSpec) -> int:
        return latent.slow

    def initial(self, n: int) -> State:
        lower, upper = self._widths(self.config)
        zeros = self.upper_cell.linear.weight.new_zeros
        clock = torch.zeros(n, dtype=torch.long, device=self.device)
        state = {"h": zeros(n, lower), "g": zeros(n, upper), "clock": clock}
        return {**state, "last": zeros(n, self.slow), "tick": zeros(n, 1)} if self.slow else state

    def advance(self, state: State, z: Tensor, action: Tensor) -> State:
        tick = (state["clock"] == 0)[:, None]
        risen = self.upper_cell(self.upper_input(torch.cat([z, state["h"]], -1)), state["g"])
        g = torch.where(tick, risen, state["g"])
        h = self.lower_cell(self.lower_input(torch.cat([z, action, g], -1)), state["h"])
        after = {"h": h, "g": g, "clock": (state["clock"] + 1) % self.config.every}
        return {**after, "last": z[:, : self.slow], "tick": tick.to(h.dtype)} if self.slow else after

    def memory(self, state: State) -> Tensor:
        parts = [state["h"], state["g"]]
        return torch.cat([*parts, state["last"], state["tick"]] if self.slow else parts, -1)

    def predict(self, memory: Tensor) -> Normal | OneHot:
        lower, upper = self._widths(self.config)
        dist = self.head(memory[:, : lower + upper])
        if self.upper_head is None:
            return dist
        slow = self.upper_head(memory[:, lower : lower + upper])
        assert isinstance(dist, Normal) and isinstance(slow, Normal)
        both = Normal(torch.cat([slow.mean, dist.mean], -1), torch.cat([slow.std, dist.std], -1))
        return hold(both, memory, self.held)
