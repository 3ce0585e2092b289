"""The adversarial decoder: a generator of observations that draws sharp images and has no density."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from worldlab import tree
from worldlab.distributions import Distribution
from worldlab.interfaces import Context, Decoder, Obs, Player, Specs
from worldlab_gan.adversarial import (
    critic_metrics,
    critic_terms,
    critic_weights,
    evaluate_pair,
    game_players,
    generator_loss,
    limit_slopes,
    matching_loss,
)
from worldlab_gan.averages import RunningAverage
from worldlab_gan.configs import Game, GANDecoderConfig
from worldlab_gan.critics import Projection
from worldlab_gan.generators import Generated
from worldlab_gan.observations import ObsCritic, feature_distance, laplacian_energy, observation_generators

METRIC_FRAMES = 64
"""Frames of a batch on which `metrics` are computed."""
FALSE_NEGATIVES = 5
"""Frames of one row at most this many steps apart look too similar to serve as negatives."""


@final
class GANDecoder(Decoder):
    """A generator o = G(h, z, eps) with a projection critic D(o, h, z).

    The generator is a DCGAN (Radford et al. 2015, arXiv:1511.06434) conditioned at every level. Feature matching
    (Larsen et al. 2015, arXiv:1512.09300) ties its output to the frame and is the only term that trains the features.
    The adversarial term trains the generator only: an encoder that followed it would produce features that are easy to
    draw from, not informative.
    """

    Config = GANDecoderConfig
    score_kind = "critic"
    renders = True
    draws = "sample"

    def __init__(self, config: GANDecoderConfig, specs: Specs) -> None:
        super().__init__(config, specs)
        self.config = config
        self.obs = specs.obs
        self.frames = config.frames if specs.obs.images else 0  # vectors are cheap: all frames
        self.game = Game.of(config.loss, config.r1, config.r2)
        self.generators = observation_generators(
            specs.obs, specs.feature_dim, config.width, config.units, config.layers, config.noise
        )
        self.average = RunningAverage(self.generators, config.average)
        self.critic = ObsCritic(specs.obs, specs.feature_dim, config.width, config.units, config.critic_layers)
        limit_slopes(self.game, self.critic)
        # A separate head: at equilibrium D is constant, and this task must not prevent that.
        units = config.units
        self.loss_weights = {
            "matching": config.matching_scale,
            "adversarial": config.adversarial_scale,
            "pixels": config.pix_l1,
            "mismatch": config.mismatch_scale,
            **critic_weights(self.game),
        }
        self.match = Projection(units, specs.feature_dim, units) if config.mismatch_scale else None

    def players(self) -> dict[str, Player]:
        match = [] if self.match is None else list(self.match.parameters())
        return game_players(self.generators.parameters(), [*self.critic.parameters(), *match])

    def decode(self, features: Tensor) -> dict[str, Distribution]:
        """Return the samples of the averaged generator for each key; the mode is the sample without noise."""
        return {key: Generated(features, self.average.mean[key]) for key in self.obs.keys}  # type: ignore[index]

    def score(self, features: Tensor, obs: Obs) -> Tensor:
        """Return how well obs fits the features, [N] in nats: the mismatch head's logit or, without `mismatch_scale`,
        the critic's value. Values are comparable only under equal features.
        """
        embedding = self.critic.embed(obs)
        return self.critic.head(embedding, features) if self.match is None else self.match(embedding, features)

    def after_step(self, player: str) -> None:
        if player == "main":
            self.average.update(self.generators)
        else:
            limit_slopes(self.game, self.critic)

    def losses(self, ctx: Context, player: str = "main") -> dict[str, Tensor]:
        """Return the player's terms. main: `matching`, `adversarial` (nats of the critic's classification), `pixels`.
        critic: `critic`, `r1`, `r2`, `mismatch`.

        All have the shape of ctx.row: [B, T], or [M, 1] for chosen frames.
        """
        if player not in ("main", "critic"):
            return {}
        features, obs = ctx.features.flatten(0, 1), tree.flatten_time(ctx.batch.obs)
        noise = self._draw_noise(features, ctx.generator)
        if player == "critic":
            with torch.no_grad():
                fake = self._generate(features, noise)
            outputs = evaluate_pair(self.game, self.critic, obs, fake, features, ctx.generator)
            terms = critic_terms(self.game, outputs)
            if self.match is not None:
                terms["mismatch"] = self._mismatch_loss(ctx, self.match, outputs.real.embedding, features)
        else:
            terms = self._generator_terms(features, obs, noise)
        return {name: term.view_as(ctx.row) for name, term in terms.items()}

    def _generator_terms(self, features: Tensor, obs: Obs, noise: dict[str, Tensor]) -> dict[str, Tensor]:
        out: dict[str, Tensor] = {}
        generated = self._generate(features, noise)
        with torch.no_grad():
            real = self.critic.embed_layers(obs)
        if self.config.matching_scale:
            out["matching"] = feature_distance(self.critic.embed_layers(generated), real)
        if self.config.adversarial_scale:
            condition = features.detach()  # a second image from the same noise, without a gradient to the encoder
            fake_value = self.critic(self._generate(condition, noise), condition)
            out["adversarial"] = generator_loss(self.game, self.critic.head(real[-1], condition), fake_value)
        if self.config.pix_l1:
            errors = [(generated[key] - obs[key]).abs().flatten(1).mean(1) for key in self.obs.keys]
            out["pixels"] = torch.stack(errors).sum(0)
        return out

    def _mismatch_loss(self, ctx: Context, match: nn.Module, embedding: Tensor, features: Tensor) -> Tensor:
        """Train a head to distinguish the observation from another frame under the same features, [N]; 0 for near
        copies.

        Reed et al. 2016 (GAN-CLS), arXiv:1605.05396, on a separate head. Against a good generator the critic itself
        ends up flat, and `score` would not show to which features an observation belongs.
        """
        row, time = ctx.row.flatten(), ctx.time.flatten()
        other = torch.randperm(len(row), generator=ctx.generator, device=row.device)
        far = (row != row[other]) | ((time - time[other]).abs() > FALSE_NEGATIVES)
        return matching_loss(self.game, match(embedding, features), match(embedding[other], features)) * far

    def _draw_noise(self, features: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        return {key: net.draw(features, generator) for key, net in self.generators.items()}  # type: ignore[operator]

    def _generate(self, features: Tensor, noise: dict[str, Tensor]) -> Obs:
        return {key: net(features, noise[key]) for key, net in self.generators.items()}

    def metrics(self, ctx: Context) -> dict[str, Tensor]:
        """Return metrics on every n-th frame: the critic's gap and slope; `uses_features`, the fall of the score under
        another frame's features (0: the score ignores the features); `sharpness_KEY`, the detail of generated images
        relative to real ones (below 1: blur, above 1: noise).
        """
        # A separate generator: metrics must not advance the random stream of training.
        generator = torch.Generator(ctx.row.device).manual_seed(0)
        step = max(1, ctx.row.numel() // METRIC_FRAMES)
        features = ctx.features.flatten(0, 1)[::step]
        obs = {key: leaf.flatten(0, 1)[::step] for key, leaf in ctx.batch.obs.items()}
        drawn = {key: dist.sample(generator) for key, dist in self.decode(features).items()}
        out = critic_metrics(self.critic, obs, drawn, features)
        other = features.roll(len(features) // 2, 0)  # half the batch away, because neighbouring frames look alike
        out["uses_features"] = (self.score(features, obs) - self.score(other, obs)).mean()
        for key in self.obs.images:
            real = laplacian_energy(obs[key]).mean().clamp(min=1e-8)
            out[f"sharpness_{key}"] = laplacian_energy(drawn[key]).mean() / real
        return out
