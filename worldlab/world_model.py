"""The world model: an encoder, a dynamics, a decoder and the core's heads behind one facade. Agents see nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worldlab import matching, rollout, tree
from worldlab.heads import ContinueHead, ProbeDecoder, TwoHotHead
from worldlab.interfaces import Batch, Component, Context, Decoder, Dynamics, Encoder
from worldlab.nn import check_shape
from worldlab.preprocess import Preprocessor
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

    def imagine(self, carry: Carry, policy: Policy | Tensor, horizon: int, generator: torch.Generator | None) -> Dream:
        """Dream `horizon` steps from a carry [N, ...], along a policy or a plan [N, H, A]."""
        features, action = rollout.imagine(self.dynamics, carry, policy, horizon, generator)
        reached = features[:, 1:].contiguous()  # a strided input would make every linear layer a bmm
        return Dream(features, action, self.reward(reached).mean, self.cont(reached).mean)

    def step(
        self, carry: Carry, action: Tensor, generator: torch.Generator | None
    ) -> tuple[Carry, Tensor, Tensor, Tensor]:
        """One dreamed step along action [N, A]. Returns carry, features [N, F], reward [N], cont [N] on arrival."""
        carry, features = rollout.prior_step(self.dynamics, carry, action, generator)
        return carry, features, self.reward(features).mean, self.cont(features).mean

    @torch.no_grad()
    def render(self, features: Tensor) -> dict[str, Tensor]:
        """Observations as features [N, F] describe them, in the environment's units (uint8 [N, H, W, C], float [N, n])."""
        if self.decoder.renders:
            values = {key: dist.mode for key, dist in self.decoder.decode(features).items()}
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
            posterior=self.encoder.posterior,
        )
        return ctx, seen

    def losses(self, ctx: Context, player: str = "main") -> dict[str, Tensor]:
        """Named, unreduced, weighted terms of one player: [B, T], or [M, 1] for the decoder's chosen frames."""
        decoded = self._decoder_context(ctx)
        out: dict[str, Tensor] = {}
        for role, part in self.parts.items():
            terms = part.losses(decoded if role == "decoder" else ctx, player)
            for name, term in terms.items():
                check_shape(term, (None, None), f"loss '{name}' of {type(part).__name__}")
                out[f"{role}/{name}"] = term
        if player == "main":
            out.update(matching.terms(self.rule, ctx, self.dynamics, self.settings))
            out.update(self._head_losses(ctx))
        return out

    def _head_losses(self, ctx: Context) -> dict[str, Tensor]:
        features = ctx.features if self.settings.reward_grad else ctx.features.detach()
        out = {
            "reward": -self.settings.reward_scale * self.reward(features).log_prob(ctx.batch.reward),
            "cont": -self.cont(features).log_prob(ctx.batch.cont),
        }
        if self.probe is not None:
            frames = self._decoder_context(ctx)
            error = self.probe.losses(frames.features.flatten(0, 1), tree.flatten_time(frames.batch.obs))
            out["probe"] = error.unflatten(0, frames.features.shape[:2])
        return out

    def _decoder_context(self, ctx: Context) -> Context:
        """All frames, or a number of random ones: an unbiased estimate for decoders that are dear."""
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
        out = matching.latent_health(ctx)
        for role, part in self.parts.items():
            out.update({f"{role}/{name}": value for name, value in part.metrics(ctx).items()})
        return out

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
