"""The world model: an encoder, a dynamics, a decoder and the core's heads behind one facade. Agents see nothing else."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from worldlab import rollout, tree
from worldlab.distributions import tempered
from worldlab.heads import ContinueHead, ProbeDecoder, TwoHotHead
from worldlab.interfaces import (
    Alarm,
    Batch,
    Component,
    Context,
    Decoder,
    Dynamics,
    Encoder,
    HasLogMass,
    Obs,
    SharesPast,
)
from worldlab.model import health, matching
from worldlab.model.preprocess import Preprocessor
from worldlab.model.schedule import JOINT, Stage
from worldlab.nn import check_shape
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
        width, layers = settings.head_units, settings.head_layers
        self.preprocess = Preprocessor(specs.obs, settings.vector_scaling)
        self.reward = TwoHotHead(specs.feature_dim, width, layers)
        self.cont = ContinueHead(specs.feature_dim, width, layers)
        wanted = settings.probe == "yes" or (settings.probe == "auto" and not decoder.renders)
        self.probe = ProbeDecoder(specs.obs, specs.feature_dim, width) if wanted else None
        # What an untrained encoder tells is the least a trained one must; in a list, so that it is no part of the model.
        self._untrained = [copy.deepcopy(encoder)]

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
            return {"state": self.dynamics.fork(carry["state"], count), "z": tree.repeat(carry["z"], count)}
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
        features = self._for_decoder(features)
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

    def losses(self, ctx: Context, player: str = "main", stage: Stage = JOINT) -> dict[str, Tensor]:
        """Named, unreduced, weighted terms of one player: [B, T], or [M, 1] for the decoder's chosen frames.

        stage: which parts and heads learn; the others have no terms.
        """
        if stage.standard_prior:
            ctx = replace(ctx, prior=matching.standard_prior(self.specs.latent, ctx.memory.flatten(0, 1)))
        decoded = self.decoder_context(ctx)
        out: dict[str, Tensor] = {}
        for role in sorted(stage.parts):
            part = self.parts[role]
            terms = part.losses(decoded if role == "decoder" else ctx, player)
            for name, term in terms.items():
                check_shape(term, (None, None), f"loss '{name}' of {type(part).__name__}")
                out[f"{role}/{name}"] = term
        if player == "main":
            out.update(self._matching_losses(ctx, stage))
            if stage.heads:
                out.update(self._head_losses(ctx))
            if self.probe is not None and "decoder" in stage.parts:
                error = self.probe.losses(decoded.features.flatten(0, 1), tree.flatten_time(decoded.batch.obs))
                out["probe"] = error.unflatten(0, decoded.features.shape[:2])
        return out

    def _matching_losses(self, ctx: Context, stage: Stage) -> dict[str, Tensor]:
        if stage.standard_prior:
            return matching.standard_terms(ctx, self.settings)
        trains = {"dyn": "dynamics", "rep": "encoder"}
        terms = matching.terms(self.rule, ctx, self.dynamics, self.settings)
        return {name: term for name, term in terms.items() if trains[name] in stage.parts}

    def _head_losses(self, ctx: Context) -> dict[str, Tensor]:
        features = ctx.features if self.settings.reward_grad else ctx.features.detach()
        # Nothing arrives at a reset: its reward of 0 is a convention, not something to predict.
        arrived = (~ctx.batch.is_first).to(ctx.batch.reward.dtype)
        return {
            "reward": -self.settings.reward_scale * self.reward(features).log_prob(ctx.batch.reward) * arrived,
            "cont": -self.cont(features).log_prob(ctx.batch.cont) * arrived,
        }

    @property
    def has_log_mass(self) -> bool:
        """Whether pictures have a probability under the decoder."""
        return isinstance(self.decoder, HasLogMass) and self.decoder.likelihood != "undefined"

    def log_mass(self, features: Tensor, obs: Obs, generator: torch.Generator) -> Tensor:
        """log P(obs | features [N, F]) of pictures' grey levels, [N] in nats, as HasLogMass has it; only where `has_log_mass`."""
        assert isinstance(self.decoder, HasLogMass)
        return self.decoder.log_mass(self._for_decoder(features), obs, generator)

    def _for_decoder(self, features: Tensor) -> Tensor:
        """Features [*, F] as the decoder sees them: the memory is 0 where the mix keeps it out."""
        if self.specs.decoder_memory:
            return features
        memory, z = features.split([self.specs.memory_dim, self.specs.latent.dim], -1)
        return torch.cat([torch.zeros_like(memory), z], -1)

    def decoder_context(self, ctx: Context) -> Context:
        """What the decoder's losses read: all frames, or random ones, an unbiased estimate for decoders that are dear."""
        ctx = replace(ctx, features=self._for_decoder(ctx.features))
        wish, total = self.settings.frames_per_update, ctx.row.numel()
        count = self.decoder.frames if wish is None else wish
        if not count or count >= total:
            return ctx
        chosen = torch.randperm(total, generator=ctx.generator, device=ctx.row.device)[:count]
        return ctx.frames(ctx.row.flatten()[chosen], ctx.time.flatten()[chosen])

    @torch.no_grad()
    def metrics(self, ctx: Context) -> dict[str, Tensor]:
        """Scalars worth watching: the latent's health and what the parts report."""
        ctx = ctx.detach()
        out = {f"latent/{name}": value for name, value in self._latent_metrics(ctx).items()}
        obs = tree.flatten_time(ctx.batch.obs)
        gap = health.features_gap(self.decoder, self._for_decoder(ctx.features).flatten(0, 1), obs)
        out.update({f"decoder/{name}": value for name, value in gap.items()})
        for role, part in self.parts.items():
            seen = replace(ctx, features=self._for_decoder(ctx.features)) if role == "decoder" else ctx
            out.update({f"{role}/{name}": value for name, value in part.metrics(seen).items()})
        return {**out, **self._bits_per_dim(ctx)}

    def _bits_per_dim(self, ctx: Context) -> dict[str, Tensor]:
        """The whole model's bound on -log2 P(pictures | actions) per pixel and channel, where all three parts have a
        density: one draw of E[log P(o | h, z)] - KL(q || p), on every n-th frame."""
        kl = matching.divergence(ctx)
        if kl is None or not self.has_log_mass:
            return {}
        step = max(1, len(kl) // health.FRAMES)
        features = ctx.features.flatten(0, 1)[::step]
        obs = tree.select(tree.flatten_time(ctx.batch.obs), slice(None, None, step))
        # Its own noise: watching must not move the random stream that training draws from.
        mass = self.log_mass(features, obs, torch.Generator(features.device).manual_seed(0))
        entries = sum(math.prod(spec.shape) for spec in self.specs.obs.images.values())
        return {"bits_per_dim": (kl[::step] - mass).mean() / (entries * math.log(2))}

    def _latent_metrics(self, ctx: Context) -> dict[str, Tensor]:
        """The latent without its sampling noise, which would hide a collapse; judged beside an untrained encoder's."""
        memory = ctx.memory.flatten(0, 1) if self.specs.use_memory else None
        signal = self.encoder.infer(ctx.embed.flatten(0, 1), memory, None).z
        untrained = self._untrained[0].to(self.device)
        obs = tree.flatten_time(ctx.batch.obs)
        blank = None if memory is None else torch.zeros_like(memory)
        baseline = untrained.infer(untrained.embed(obs), blank, None).z
        out = health.latent_health(signal)
        target = health.thumbnail(obs)
        out["probe_r2"] = health.probe_r2(signal, target)
        out["probe_r2_untrained"] = health.probe_r2(baseline, target)
        kl = matching.divergence(ctx)
        return out if kl is None else {**out, "kl": kl.mean()}

    def alarms(self, values: dict[str, float]) -> dict[str, Alarm]:
        """What the parts themselves see going wrong in the values that `metrics` gave, by role/failure."""
        found = {}
        for role, part in self.parts.items():
            own = {name.removeprefix(f"{role}/"): v for name, v in values.items() if name.startswith(f"{role}/")}
            found.update({f"{role}/{name}": alarm for name, alarm in part.alarms(own).items()})
        return found

    def players(self) -> dict[str, list[nn.Parameter]]:
        """Parameters by player; "main" holds the heads too. Raises AssertionError if a part forgets or doubles one."""
        out: dict[str, list[nn.Parameter]] = {"main": []}
        for part in self.parts.values():
            claimed = part.players()
            ids = [id(p) for group in claimed.values() for p in group]
            expected = {id(p) for p in part.parameters() if p.requires_grad}
            assert len(ids) == len(set(ids)) and expected <= set(ids), (
                f"{type(part).__name__}.players() must hold each parameter once"
            )
            for player, group in claimed.items():
                out.setdefault(player, []).extend(p for p in group if p.requires_grad)
        for head in (self.reward, self.cont, self.probe):
            if head is not None:
                out["main"].extend(head.parameters())
        return out
