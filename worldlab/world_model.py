"""The world model: an encoder, a dynamics, a decoder and the core's heads. Agents use no other part of the core."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from worldlab import rollout, tree
from worldlab.distributions import exact, expectation, tempered
from worldlab.errors import ConfigError
from worldlab.heads import ContinueHead, ProbeDecoder, TwoHotHead
from worldlab.interfaces import (
    Batch,
    Component,
    Context,
    Decoder,
    Dynamics,
    Encoder,
    HasLogMass,
    HasMembers,
    Obs,
    Player,
    SharesPast,
)
from worldlab.model import matching, particles
from worldlab.model.preprocess import Preprocessor
from worldlab.rollout import Carry, Observed, Policy
from worldlab.settings import ModelSettings
from worldlab.specs import Specs


@dataclass(frozen=True)
class Dream:
    """Imagined experience, aligned by arrival."""

    features: Tensor
    """[N, H+1, F]; features[:, 0] is the start."""
    action: Tensor
    """[N, H, A]; action[:, k] was taken AT features[:, k]."""
    reward: Tensor
    """[N, H]; reward[:, k] is the mean reward on ARRIVAL at features[:, k+1]."""
    cont: Tensor
    """[N, H]; cont[:, k] is the probability that the episode continues after ARRIVAL at features[:, k+1]."""


class WorldModel(nn.Module):
    """Three components, the reward and continue heads, the observation scaling and an optional probe decoder."""

    def __init__(
        self,
        specs: Specs,
        encoder: Encoder,
        dynamics: Dynamics,
        decoder: Decoder,
        settings: ModelSettings,
    ):
        super().__init__()
        self.specs = specs
        self.settings = settings
        self.encoder = encoder
        self.dynamics = dynamics
        self.decoder = decoder
        if settings.samples > 1:
            particles.check_densities(encoder, dynamics, decoder, staged=not specs.decoder_memory)
        self.rule = matching.choose(encoder, dynamics, settings.samples)
        if settings.capacity:
            matching.check_capacity(self.rule, encoder.posterior_kind, staged=not specs.decoder_memory)
        width, layers = settings.units, settings.head_layers
        self.preprocess = Preprocessor(specs.obs, settings.vector_scaling)
        self.reward = TwoHotHead(specs.feature_dim, width, layers)
        self.cont = ContinueHead(specs.feature_dim, width, layers)
        wanted = settings.probe == "yes" or (settings.probe == "auto" and not decoder.renders)
        self.probe = ProbeDecoder(specs.obs, specs.feature_dim, width) if wanted else None

    @property
    def parts(self) -> dict[str, Component]:
        """The three components by role."""
        return {"encoder": self.encoder, "dynamics": self.dynamics, "decoder": self.decoder}

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return next(self.parameters()).device

    # ---- acting and dreaming ----

    def initial(self, n: int) -> Carry:
        """Return the carry of n rows before the first observation."""
        carry = rollout.initial_carry(self.dynamics, n, self.specs.latent.dim)
        samples = self.settings.samples
        return carry if samples == 1 else replace(carry, particles=particles.spread(carry, samples))

    def filter(
        self,
        carry: Carry,
        obs: dict[str, Tensor],
        prev_action: Tensor,
        is_first: Tensor,
        generator: torch.Generator | None,
    ) -> tuple[Carry, Tensor]:
        """Update the carry with one real observation.

        obs: raw, {key: [N, ...]}. prev_action: [N, A]. is_first: [N] bool. generator: None infers the most likely
        latent, and only one. With `model.samples` above 1 the carry has all particles, and the features are their mean.
        Returns the carry and features [N, F].
        """
        scaled = self.preprocess(obs)
        if self.settings.samples > 1 and generator is not None:
            return particles.filter_step(self, carry, scaled, prev_action, is_first, generator)
        embed = self.encoder.embed(scaled)
        carry, memory, latent = rollout.posterior_step(
            self.encoder, self.dynamics, carry, embed, prev_action, is_first, generator, self.specs.use_memory
        )
        return carry, torch.cat([memory, latent.z], -1)

    def features(self, carry: Carry) -> Tensor:
        """Return the features [N, F] of a carry."""
        return rollout.carry_features(self.dynamics, carry)

    def fork(self, carry: Carry, count: int) -> Carry:
        """Return a carry for `count` futures of each row of a carry [N, ...]; those of row i start at row i * count.

        Use it with `imagine` and `step` only. With count 1 it prepares a long dream: a cache is then not moved at every
        step.
        """
        carry = replace(carry, particles=None)
        if count == 1 and (exact() or not isinstance(self.dynamics, SharesPast)):
            return carry
        if isinstance(self.dynamics, SharesPast):
            state = self.dynamics.fork(carry.state, count)
            return Carry(state, tree.repeat(carry.z, count), tree.repeat(carry.member, count))
        return tree.repeat(carry, count)

    def imagine(self, carry: Carry, policy: Policy | Tensor, horizon: int, generator: torch.Generator | None) -> Dream:
        """Imagine `horizon` steps from a carry [N, ...], with a policy or a plan of actions [N, H, A]."""
        features, action = rollout.imagine(self.dynamics, carry, policy, horizon, generator)
        reached = features[:, 1:].contiguous()  # a strided input would turn every linear layer into a bmm
        return Dream(features, action, self.reward(reached).mean, self.cont(reached).mean)

    def step(
        self, carry: Carry, action: Tensor, generator: torch.Generator | None, temperature: float = 1.0
    ) -> tuple[Carry, Tensor, Tensor, Tensor]:
        """Imagine one step with action [N, A]. Returns carry, features [N, F], and reward [N] and cont [N] on arrival.

        temperature: of the prior. Above 1, the dream is less certain than the model and harder to exploit.
        """
        carry, features = rollout.prior_step(self.dynamics, carry, action, generator, temperature)
        return carry, features, self.reward(features).mean, self.cont(features).mean

    def disagreement(self, features: Tensor) -> Tensor:
        """Return how much the members of an ensemble disagree about the latent in features [*, F]: [*].

        It is the variance over the members of the latents that they expect from the memory in the features, averaged
        over the entries of z. Sekar et al. 2020 (Plan2Explore), arXiv:2005.05960, eq. 4. It requires a dynamics of
        several members (`check_members`).
        """
        assert isinstance(self.dynamics, HasMembers)
        memory = features[..., : self.specs.memory_dim].reshape(-1, self.specs.memory_dim)
        expected = torch.stack([expectation(member.predict(memory)) for member in self.dynamics.each()])
        return expected.var(0).mean(-1).view(features.shape[:-1])

    def check_members(self) -> None:
        """Check that `disagreement` is defined. Raises: ConfigError if the dynamics has one prediction only."""
        if not isinstance(self.dynamics, HasMembers) or len(self.dynamics.each()) < 2:
            raise ConfigError(
                f"a {type(self.dynamics).__name__} has one prediction, so there is no disagreement",
                cause="the agent's settings use the disagreement of an ensemble",
                fix="choose a dynamics of two or more members: worldlab plugins --role dynamics",
            )

    @torch.no_grad()
    def check_temperature(self, temperature: float) -> None:
        """Check that `step` supports a temperature. Raises: ConfigError if the dynamics does not."""
        tempered(self.dynamics.predict(self.dynamics.memory(self.dynamics.initial(1))), temperature)

    @torch.no_grad()
    def render(self, features: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Draw observations from features [N, F], in the environment's units (uint8 [N, H, W, C], float [N, n]).

        generator: draws images as `Decoder.draws` says; None always takes modes.
        """
        features = self.decoder_features(features)
        if self.decoder.renders:
            sampled = self.specs.obs.images if self.decoder.draws == "sample" else ()
            values = {
                key: dist.sample(generator) if generator is not None and key in sampled else dist.mode
                for key, dist in self.decoder.decode(features).items()
            }
        else:
            assert self.probe is not None, "a decoder that does not render needs model.probe"
            values = self.probe(features)
        return {key: self.preprocess.restore(key, value) for key, value in values.items()}

    @property
    def drawn_by(self) -> str:
        """The source of pictures: "decoder" or "probe"."""
        return "decoder" if self.decoder.renders else "probe"

    # ---- learning ----

    def observe(
        self, batch: Batch, generator: torch.Generator | None, carry: Carry | None = None
    ) -> tuple[Context, Observed]:
        """Run the posterior along a batch. Without a carry, the first step is treated as a reset."""
        rows, length = batch.is_first.shape
        is_first = batch.is_first
        if carry is None:
            carry = self.initial(rows)
            is_first = torch.cat([torch.ones_like(is_first[:, :1]), is_first[:, 1:]], 1)
        embed = tree.unflatten_time(self.encoder.embed(tree.flatten_time(batch.obs)), rows)
        seen = rollout.observe(
            self.encoder, self.dynamics, embed, batch.prev_action, is_first, generator, self.specs.use_memory, carry
        )
        row, time = torch.meshgrid(
            torch.arange(rows, device=embed.device), torch.arange(length, device=embed.device), indexing="ij"
        )
        source = generator or torch.Generator(embed.device).manual_seed(0)
        ctx = Context(
            batch=batch,
            embed=embed,
            memory=seen.memory,
            latent=seen.latent,
            features=torch.cat([seen.memory, seen.latent.z], -1),
            prior=self.dynamics.predict(seen.memory.flatten(0, 1)),
            row=row,
            time=time,
            generator=source,
            z_trains_through_dynamics=self.encoder.posterior_kind == "deterministic",
        )
        return ctx, seen

    def observe_to_learn(self, batch: Batch, generator: torch.Generator) -> tuple[Context, Observed]:
        """Run what an update learns from along a batch: the posterior, or `model.samples` particles of it.

        With several the context has B * K rows, weighted by its mask (worldlab.model.particles).
        """
        several = self.settings.samples > 1
        return particles.observe(self, batch, generator) if several else self.observe(batch, generator)

    @property
    def has_log_mass(self) -> bool:
        """Whether the decoder computes a probability of the observation, and all of it are images."""
        declared = isinstance(self.decoder, HasLogMass) and self.decoder.likelihood != "undefined"
        return declared and not self.specs.obs.vectors

    def log_mass(self, features: Tensor, obs: Obs, generator: torch.Generator) -> Tensor:
        """Return log P(obs | features [N, F]) of the images' grey levels, [N] in nats (HasLogMass).

        Requires `has_log_mass`.
        """
        assert isinstance(self.decoder, HasLogMass)
        return self.decoder.log_mass(self.decoder_features(features), obs, generator)

    def decoder_features(self, features: Tensor) -> Tensor:
        """Return features [*, F] for the decoder: the memory is set to 0 if `specs.decoder_memory` is False."""
        if self.specs.decoder_memory:
            return features
        memory, z = torch.split(features, [self.specs.memory_dim, self.specs.latent.dim], -1)
        return torch.cat([torch.zeros_like(memory), z], -1)

    def decoder_context(self, ctx: Context) -> Context:
        """Return the context of the decoder's losses: all frames, or a random subset (an unbiased estimate)."""
        ctx = replace(ctx, features=self.decoder_features(ctx.features))
        chosen, total = self.settings.frames_per_update, ctx.row.numel()
        count = self.decoder.frames if chosen is None else chosen
        if not count or count >= total:
            return ctx
        index = torch.randperm(total, generator=ctx.generator, device=ctx.row.device)[:count]
        return ctx.frames(ctx.row.flatten()[index], ctx.time.flatten()[index])

    def players(self) -> dict[str, Player]:
        """Return the players of all parts, merged by name; "main" includes the heads.

        Raises: AssertionError if a part omits a parameter or lists one twice; ConfigError if two parts declare different
        rates or betas for players of one name.
        """
        heads = [p for head in (self.reward, self.cont, self.probe) if head is not None for p in head.parameters()]
        out: dict[str, Player] = {"main": Player([])}
        for part in self.parts.values():
            claimed = part.players()
            ids = [id(p) for group in claimed.values() for p in group.parameters]
            expected = {id(p) for p in part.parameters() if p.requires_grad}
            assert len(ids) == len(set(ids)) and expected <= set(ids), (
                f"{type(part).__name__}.players() must hold each parameter once"
            )
            for name, player in claimed.items():
                before = out.get(name, replace(player, parameters=[]))
                if (before.rate, before.betas) != (player.rate, player.betas):
                    raise ConfigError(
                        f"player '{name}' of {type(part).__name__} needs another optimiser than that of another part",
                        cause=f"rate {player.rate}, betas {player.betas}; the other part's: {before.rate}, {before.betas}",
                        fix="declare the same rate and betas, or give the player a name of its own",
                    )
                trained = [p for p in player.parameters if p.requires_grad]
                out[name] = replace(before, parameters=before.parameters + trained)
        out["main"] = replace(out["main"], parameters=out["main"].parameters + heads)
        return out
