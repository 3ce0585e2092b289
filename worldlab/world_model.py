"""The world model: an encoder, a dynamics, a decoder and the core's heads behind one facade. Agents see nothing else."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from worldlab import rollout, tree
from worldlab.distributions import tempered
from worldlab.heads import ContinueHead, ProbeDecoder, TwoHotHead
from worldlab.interfaces import (
    Batch,
    Component,
    Context,
    Decoder,
    Dynamics,
    Encoder,
    HasLogMass,
    Obs,
    Player,
    SharesPast,
)
from worldlab.model import matching
from worldlab.model.preprocess import Preprocessor
from worldlab.rollout import Carry, Observed, Policy
from worldlab.settings import ModelSettings
from worldlab.specs import Specs


@dataclass(frozen=True)
class Dream:
    """Imagined experience, arrival-aligned.

    features [N, H+1, F]; action [N, H, A] taken AT features[:, k]; reward and cont [N, H] belong to ARRIVAL at
    features[:, k+1]; cont is the probability of going on.
    """

    features: Tensor
    action: Tensor
    reward: Tensor
    cont: Tensor


class WorldModel(nn.Module):
    """Three components, the reward and continue heads, the observation scaling, and a probe where nothing else renders."""

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
        self.rule = matching.choose(encoder, dynamics)
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
        return next(self.parameters()).device

    # ---- acting and dreaming ----

    def initial(self, n: int) -> Carry:
        """The carry of n rows before anything was seen."""
        return rollout.initial_carry(self.dynamics, n, self.specs.latent.dim)

    def filter(
        self,
        carry: Carry,
        obs: dict[str, Tensor],
        prev_action: Tensor,
        is_first: Tensor,
        generator: torch.Generator | None,
    ) -> tuple[Carry, Tensor]:
        """Follow real data for one step. obs: raw, {key: [N, ...]}; prev_action [N, A]; is_first [N] bool.

        generator None infers the most likely latent. Returns the carry and features [N, F].
        """
        embed = self.encoder.embed(self.preprocess(obs))
        carry, memory, latent = rollout.posterior_step(
            self.encoder, self.dynamics, carry, embed, prev_action, is_first, generator, self.specs.use_memory
        )
        return carry, torch.cat([memory, latent.z], -1)

    def features(self, carry: Carry) -> Tensor:
        """Features [N, F] of a carry."""
        return rollout.carry_features(self.dynamics, carry)

    def fork(self, carry: Carry, count: int) -> Carry:
        """`count` futures of each row of a carry [N, ...], row i's at i * count and on; for `imagine` and `step` alone."""
        if isinstance(self.dynamics, SharesPast):
            return Carry(self.dynamics.fork(carry.state, count), tree.repeat(carry.z, count))
        return tree.repeat(carry, count)

    def imagine(self, carry: Carry, policy: Policy | Tensor, horizon: int, generator: torch.Generator | None) -> Dream:
        """Dream `horizon` steps from a carry [N, ...], along a policy or a plan [N, H, A]."""
        features, action = rollout.imagine(self.dynamics, carry, policy, horizon, generator)
        reached = features[:, 1:].contiguous()  # a strided input would make every linear layer a bmm
        return Dream(features, action, self.reward(reached).mean, self.cont(reached).mean)

    def step(
        self, carry: Carry, action: Tensor, generator: torch.Generator | None, temperature: float = 1.0
    ) -> tuple[Carry, Tensor, Tensor, Tensor]:
        """One dreamed step along action [N, A]. Returns carry, features [N, F], reward [N], cont [N] on arrival.

        temperature: of the prior; above 1 a dream is less certain than the model, and harder to exploit.
        """
        carry, features = rollout.prior_step(self.dynamics, carry, action, generator, temperature)
        return carry, features, self.reward(features).mean, self.cont(features).mean

    @torch.no_grad()
    def check_temperature(self, temperature: float) -> None:
        """Raises: ConfigError where `step` could not dream at a temperature, as the dynamics lacks one."""
        tempered(self.dynamics.predict(self.dynamics.memory(self.dynamics.initial(1))), temperature)

    @torch.no_grad()
    def render(self, features: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Observations as features [N, F] describe them, in the environment's units (uint8 [N, H, W, C], float [N, n]).

        generator: pictures are drawn as the decoder draws them (`Decoder.draws`); None takes modes.
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
        """Who makes the pictures: "decoder" or "probe"."""
        return "decoder" if self.decoder.renders else "probe"

    # ---- learning ----

    def observe(
        self, batch: Batch, generator: torch.Generator | None, carry: Carry | None = None
    ) -> tuple[Context, Observed]:
        """Run the posterior along a batch. Without a carry the past is unknown, so the first step counts as a reset."""
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

    @property
    def has_log_mass(self) -> bool:
        """Whether pictures have a probability under the decoder."""
        return isinstance(self.decoder, HasLogMass) and self.decoder.likelihood != "undefined"

    def log_mass(self, features: Tensor, obs: Obs, generator: torch.Generator) -> Tensor:
        """log P(obs | features [N, F]) of pictures' grey levels, [N] in nats, as HasLogMass has it; only where `has_log_mass`."""
        assert isinstance(self.decoder, HasLogMass)
        return self.decoder.log_mass(self.decoder_features(features), obs, generator)

    def decoder_features(self, features: Tensor) -> Tensor:
        """Return features [*, F] as the decoder sees them: the memory is 0 where this mix hides it from the decoder."""
        if self.specs.decoder_memory:
            return features
        memory, z = features.split([self.specs.memory_dim, self.specs.latent.dim], -1)
        return torch.cat([torch.zeros_like(memory), z], -1)

    def decoder_context(self, ctx: Context) -> Context:
        """Return the context of the decoder's losses: all frames, or a random subset (an unbiased estimate) for costly decoders."""
        ctx = replace(ctx, features=self.decoder_features(ctx.features))
        chosen_count, total = self.settings.frames_per_update, ctx.row.numel()
        count = self.decoder.frames if chosen_count is None else chosen_count
        if not count or count >= total:
            return ctx
        chosen = torch.randperm(total, generator=ctx.generator, device=ctx.row.device)[:count]
        return ctx.frames(ctx.row.flatten()[chosen], ctx.time.flatten()[chosen])

    def players(self) -> dict[str, Player]:
        """Return the players of all parts, merged by name; "main" holds the heads too.

        Raises: AssertionError if a part forgets a parameter or lists one twice, or if parts disagree on a player.
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
                assert (before.rate, before.betas) == (player.rate, player.betas), f"player '{name}' has two optimisers"
                trained = [p for p in player.parameters if p.requires_grad]
                out[name] = replace(before, parameters=before.parameters + trained)
        out["main"] = replace(out["main"], parameters=out["main"].parameters + heads)
        return out
