"""Generators without a critic: implicit maximum likelihood, in which each real latent pulls its nearest sample, and moment
matching.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from worldlab.distributions import Normal, OneHot
from worldlab.interfaces import ActionSpec, Context, Dynamics, LatentSpec, Specs, State
from worldlab.nn import RecurrentMemory
from worldlab_gan.configs import IMLEDynamicsConfig
from worldlab_gan.energy import distance, energy_score, kernel_score, spread
from worldlab_gan.generators import Generated, LatentGenerator


@final
class IMLEDynamics(Dynamics):
    """An implicit dynamics h' = GRU(h, z, a), z' = G(h', eps), trained by conditional implicit maximum likelihood:

        loss = 1/2 min_j |z' - G(h', eps_j)|^2,  eps_1 .. eps_m drawn anew          (loss "nearest")

    or by moment matching, the kernel score of the same samples (loss "moments": Li et al. 2015, GMMN, arXiv:1502.02761,
    given the memory; worldlab_gan.energy).

    Every real latent has a sample near it, so no mode is dropped: the opposite of a critic, which only asks that every
    sample is near a real latent. Li & Malik 2018 (IMLE), arXiv:1809.09087, algorithm 1; conditional: Li et al. 2020,
    arXiv:2004.03590; as a world model: Aghabozorgi et al. 2026 (WIMLE), arXiv:2602.14351, whose ensemble and weights of
    imagined steps are `--dynamics ensemble --dynamics.member imle --agent.confidence 1`.

    Deviations. The m samples are drawn for each target at each update instead of from a pool that is kept for an epoch;
    the memory is recurrent, where WIMLE predicts the next state from the last one. An encoder with a density is trained by
    the likelihood of its latents around the mean of the samples (`score_latent`); IMLE itself has none.
    """

    Config = IMLEDynamicsConfig
    prior_kind = "sampler"
    reparameterised = True
    noise: Tensor

    def __init__(self, config: IMLEDynamicsConfig, specs: Specs) -> None:
        super().__init__(config, specs)
        self.config = config
        self.latent = specs.latent
        self.recurrence = RecurrentMemory(specs.latent.dim + specs.action.dim, config.units, config.memory)
        self.generator = LatentGenerator(
            config.memory, config.noise, config.units, config.layers, specs.latent, config.unimix
        )
        # The same noise at every call, so that a score depends on nothing but its arguments.
        fixed = torch.Generator().manual_seed(0)
        self.register_buffer("noise", self.generator.draw(torch.zeros(config.scored, config.memory), fixed))

    @classmethod
    def memory_size(cls, config: IMLEDynamicsConfig, latent: LatentSpec, action: ActionSpec) -> int:
        return config.memory

    def initial(self, n: int) -> State:
        return self.recurrence.initial(n)

    def advance(self, state: State, z: Tensor, action: Tensor) -> State:
        return self.recurrence.step(state, z, action)

    def memory(self, state: State) -> Tensor:
        return state["h"]

    def predict(self, memory: Tensor) -> Generated:
        """Return the samples of the generator for memory [N, H]; they have no density."""
        return Generated(memory, self.generator)

    def losses(self, ctx: Context, player: str = "main") -> dict[str, Tensor]:
        """Return `nearest`, [B, T]: half the squared distance of each detached latent to its nearest sample; or `moments`,
        [B, T]: the kernel score of the samples.
        """
        if player != "main":
            return {}
        z, memory = ctx.latent.z.detach().flatten(0, 1), ctx.memory.flatten(0, 1)
        if self.config.loss == "moments":
            repeated = memory.repeat(self.config.samples, 1)
            samples = self.generator(repeated, self.generator.draw(repeated, ctx.generator))
            return {"moments": kernel_score(samples.unflatten(0, (-1, len(z))), z).view_as(ctx.row)}
        sample = self.generator(memory, self.nearest_noise(z, memory, ctx.generator))
        return {"nearest": 0.5 * (z - sample).square().sum(-1).view_as(ctx.row)}

    @torch.no_grad()
    def nearest_noise(self, z: Tensor, memory: Tensor, generator: torch.Generator) -> Tensor:
        """Draw m noises for each row and return that of the sample nearest to z: z [N, D], memory [N, H] -> [N, *]."""
        repeated = memory.repeat(self.config.samples, 1)
        noise = self.generator.draw(repeated, generator)
        away = distance(self.generator(repeated, noise).unflatten(0, (-1, len(z))), z)  # [m, N]
        return noise.unflatten(0, (-1, len(z)))[away.argmin(0), torch.arange(len(z), device=z.device)]

    def score_latent(self, memory: Tensor, z: Tensor) -> Tensor:
        """Return log p(z | h), [N] in nats, of the density that fits these N rows best around the mean of the samples.

        For a real z it is a Gaussian whose variance is that of the rows around this mean (as sigma-VAE's decoder: Rybkin et
        al. 2020, arXiv:2006.13202), for codes the frequencies among the samples. Alone it would shrink z; the decoder, which
        needs z, and the anchor (worldlab.model.matching) hold its scale. A ratio to running moments of z is no score: an
        encoder that moves all latents leaves the moments behind and gains without end.
        """
        count = len(self.noise)
        noise = self.noise[:, None].expand(-1, len(z), -1).flatten(0, 1)
        mean = self.generator(memory.repeat(count, 1), noise).unflatten(0, (count, -1)).mean(0)
        if self.latent.kind == "categorical":
            return self._codes(mean).log_prob(z)
        var = (z - mean).square().mean(0) + self.config.min_std**2
        return Normal(mean, var.sqrt().expand_as(z)).log_prob(z)

    def _codes(self, shares: Tensor) -> OneHot:
        """Return the distribution of codes with these frequencies [*, D]."""
        shares = shares.unflatten(-1, (self.latent.groups, self.latent.classes))
        return OneHot.with_unimix(shares.clamp(min=1e-6).log(), 0.05)

    def metrics(self, ctx: Context) -> dict[str, Tensor]:
        """Return `energy_score` of the samples, and `spread`, their mean distance relative to that from the true latent.

        A spread of 1 is calibrated; IMLE tends to exceed it, because nothing keeps samples away from where no latent is.
        """
        generator = torch.Generator(ctx.row.device).manual_seed(0)  # training's stream must not move
        z, memory = ctx.latent.z.flatten(0, 1), ctx.memory.flatten(0, 1)
        repeated = memory.repeat(4, 1)
        samples = self.generator(repeated, self.generator.draw(repeated, generator)).unflatten(0, (4, -1))
        away = distance(samples, z).mean().clamp(min=1e-8)
        return {"energy_score": energy_score(samples, z).mean(), "spread": spread(samples).mean() / away}
