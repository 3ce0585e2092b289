"""The implicit posterior: a network with injected noise whose samples a critic matches to the prior's."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from worldlab import tree
from worldlab.distributions import normal_like
from worldlab.interfaces import Alarm, Context, Encoder, Latent, LatentSpec, Obs, Player, Specs
from worldlab.nn import ObsTrunk
from worldlab_gan.adversarial import (
    critic_metrics,
    critic_terms,
    critic_weights,
    evaluate_pair,
    game_players,
    generator_loss,
    limit_slopes,
)
from worldlab_gan.configs import Game, GANEncoderConfig
from worldlab_gan.critics import VectorCritic
from worldlab_gan.generators import NoisyMLP

NOISE_GAIN = 0.1
"""Initial scale of the noise relative to the frame. Loud noise leaves the decoder nothing to decode, and z collapses.
"""


@final
class GANEncoder(Encoder):
    """An implicit posterior z = limit tanh(E(x, h, eps) / limit) + channel noise, with eps inside the network.

    It is the conditional form of the adversarial autoencoder: Makhzani et al. 2015, arXiv:1511.05644; as a penalised
    transport cost (WAE-GAN): Tolstikhin et al. 2017, arXiv:1711.01558. The encoder is stochastic because a
    deterministic map cannot fill a latent space wider than the data: Rubenstein et al. 2018, arXiv:1802.03761.
    """

    Config = GANEncoderConfig
    posterior_kind = "implicit"

    def __init__(self, config: GANEncoderConfig, specs: Specs) -> None:
        super().__init__(config, specs)
        self.config = config
        self.game = Game.of(config.loss, config.r1, config.r2)
        self.reads_memory = specs.use_memory
        memory = specs.memory_dim if specs.use_memory else 0
        self.trunk = ObsTrunk(specs.obs, config.width, config.units, config.layers)
        self.net = NoisyMLP(
            self.trunk.size + memory, config.noise, config.units, config.layers, config.latent_dim, NOISE_GAIN
        )
        self.critic = VectorCritic(config.latent_dim, memory, config.units, config.critic_layers)
        limit_slopes(self.game, self.critic)
        self.loss_weights = {"fool": config.fool_scale, "gauge": config.gauge_scale, **critic_weights(self.game)}

    @classmethod
    def latent_spec(cls, config: GANEncoderConfig) -> LatentSpec:
        return LatentSpec(config.latent_dim, "gaussian")

    def players(self) -> dict[str, Player]:
        return game_players([*self.trunk.parameters(), *self.net.parameters()], self.critic.parameters())

    def after_step(self, player: str) -> None:
        if player == "critic":
            limit_slopes(self.game, self.critic)

    def embed(self, obs: Obs) -> Tensor:
        return self.trunk(obs)

    def infer(self, embed: Tensor, memory: Tensor | None, generator: torch.Generator | None) -> Latent:
        """Return z [N, D]: a sample, or without a generator the z of no noise. embed [N, E], memory [N, H] or None."""
        x = embed if memory is None else torch.cat([embed, memory], -1)
        if generator is None:
            return Latent(self._squash(x, None))
        z = self._squash(x, self.net.draw(x, generator))
        return Latent(z + self.config.channel_noise * normal_like(z, generator))

    def _squash(self, x: Tensor, noise: Tensor | None) -> Tensor:
        """Return limit tanh(E(x, eps) / limit): the identity near 0, never beyond the limit."""
        limit = self.config.limit
        return limit * torch.tanh(self.net(x, noise) / limit)

    def losses(self, ctx: Context, player: str = "main") -> dict[str, Tensor]:
        """Return the player's terms, [B, T] each. main: `fool` (nats of the critic's classification) and `gauge`, whose
        gradients reach z only. critic: the game and its penalties, with prior samples as real and the encoder's z as
        generated.

        Decoder and reward alone make z informative about the frame.
        """
        if player not in ("main", "critic"):
            return {}
        z, condition = ctx.latent.z.flatten(0, 1), self._condition(ctx)
        prior = self._sample_prior(ctx, ctx.generator)
        if player == "critic":
            terms = critic_terms(self.game, evaluate_pair(self.game, self.critic, prior, z, condition, ctx.generator))
            return tree.unflatten_time(terms, len(ctx.row))
        fool = generator_loss(self.game, self.critic(prior, condition), self.critic(z, condition))
        out = {"fool": fool.view_as(ctx.row)}
        if self.config.gauge_scale:
            out["gauge"] = self._gauge_loss(ctx).expand(ctx.row.shape)
        return out

    def _gauge_loss(self, ctx: Context) -> Tensor:
        """Return KL( N(m, s^2) || N(0, 1) ) of the moments of z over the batch, in nats, summed over entries: a scalar.

        A learned prior follows z, so the adversarial term fixes no scale. Without this term z shrank to a tenth in 20
        updates, below its own channel noise, and did not recover.
        """
        z = ctx.latent.z
        weight = ctx.batch.mask[..., None] / ctx.batch.mask.sum().clamp(min=1)
        mean = (weight * z).sum((0, 1))
        var = (weight * (z - mean).square()).sum((0, 1)) + 1e-4
        return 0.5 * (mean.square() + var - 1 - var.log()).sum()

    def metrics(self, ctx: Context) -> dict[str, Tensor]:
        """Return the critic's gap and slope, and noise_share: the share of z's variance that is noise (1: z ignores the
        frame).
        """
        # A separate generator: metrics must not advance the random stream of training.
        generator = torch.Generator(ctx.row.device).manual_seed(0)
        z, condition = ctx.latent.z.flatten(0, 1), self._condition(ctx)
        out = critic_metrics(self.critic, self._sample_prior(ctx, generator), z, condition)
        memory = ctx.memory.flatten(0, 1) if self.reads_memory else None
        resampled = self.infer(ctx.embed.flatten(0, 1), memory, generator).z
        return {
            **out,
            "noise_share": 0.5 * (resampled - z).square().mean() / z.var(0, correction=0).mean().clamp(min=1e-8),
        }

    def alarms(self, values: dict[str, float]) -> dict[str, Alarm]:
        if values.get("noise_share", 0.0) < 0.9:
            return {}
        message = "the implicit encoder outputs noise: the latent hardly depends on the frame"
        return {"latent_is_noise": Alarm(message, "lower --encoder.fool-scale")}

    def _condition(self, ctx: Context) -> Tensor:
        """Return the critic's condition: the detached memory [N, H] if the encoder reads the memory, else nothing, [N,
        0].

        An encoder that does not read h is compared with the prior marginalised over h: given h, only one prior could
        match it.
        """
        memory = ctx.memory.flatten(0, 1).detach()
        return memory if self.reads_memory else memory[:, :0]

    @torch.no_grad()
    def _sample_prior(self, ctx: Context, generator: torch.Generator) -> Tensor:
        assert ctx.prior is not None
        return ctx.prior.sample(generator).detach()
