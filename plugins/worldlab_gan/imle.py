"""Generators without a critic: implicit maximum likelihood, in which each real latent pulls its nearest sample, and moment
matching.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

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
    the log-ratio of the Gaussian (or the frequencies of codes) with the moments of the samples to that of all latents
    (`score_latent`); IMLE itself has no density.
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
        self.moments = LatentMoments(specs.latent.dim)
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
        if self.training and torch.is_grad_enabled():
            self.moments.update(ctx.latent.z.detach(), ctx.batch.mask)
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
        """Return log p(z | h) - log p(z), [N] in nats, with p(z | h) fitted to samples and p(z) to all latents.

        A ratio, so that shrinking z gains nothing (as in worldlab_cpc.dynamics).
        """
        count = len(self.noise)
        noise = self.noise[:, None].expand(-1, len(z), -1).flatten(0, 1)
        samples = self.generator(memory.repeat(count, 1), noise).unflatten(0, (count, -1))
        return self._fitted(samples.mean(0), samples.var(0)).log_prob(z) - self._fitted(
            self.moments.mean, self.moments.var
        ).log_prob(z)

    def _fitted(self, mean: Tensor, var: Tensor) -> Normal | OneHot:
        """Return the distribution over z with these moments, [*, D]; for codes, mean holds the frequencies."""
        if self.latent.kind == "categorical":
            shares = mean.unflatten(-1, (self.latent.groups, self.latent.classes))
            return OneHot.with_unimix(shares.clamp(min=1e-6).log(), 0.05)
        return Normal(mean, (var + self.config.min_std**2).sqrt())

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


class LatentMoments(nn.Module):
    """The running mean and variance of latents [B, T, D], each [D]; the first batch sets them."""

    RATE = 0.01
    mean: Tensor
    var: Tensor
    count: Tensor

    def __init__(self, dim: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("var", torch.ones(dim))
        self.register_buffer("count", torch.zeros(()))

    @torch.no_grad()
    def update(self, z: Tensor, mask: Tensor) -> None:
        """Move towards the moments of z [B, T, D] where mask [B, T] is 1. A batch that is not finite is left out."""
        weight = (mask / mask.sum().clamp(min=1))[..., None]
        mean = (z * weight).sum((0, 1))
        var = ((z - mean).square() * weight).sum((0, 1)).clamp(min=1e-6)
        finite = mean.isfinite().all() & var.isfinite().all()
        self.count += finite
        rate = (1 / self.count.clamp(min=1)).clamp(min=self.RATE)
        self.mean.copy_(torch.where(finite, self.mean.lerp(mean, rate), self.mean))
        self.var.copy_(torch.where(finite, self.var.lerp(var, rate), self.var))
