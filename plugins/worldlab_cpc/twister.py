"""Contrastive predictions of several future steps as a second loss of any dynamics: TWISTER."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast, final

from torch import Tensor

from worldlab.distributions import Distribution
from worldlab.interfaces import (
    ActionSpec,
    Alarm,
    Context,
    Dynamics,
    LatentSpec,
    ParallelDynamics,
    Player,
    ScoresLatent,
    SharesPast,
    Specs,
    State,
)
from worldlab_cpc.configs import TwisterDynamicsConfig
from worldlab_cpc.future import FutureCritic
from worldlab_cpc.infonce import masked_mean


@final
class TwisterDynamics(Dynamics):
    """Another dynamics, whose memory must also identify the next latents, given the actions that lead to them.

        L = L of the member + sum_k w_k InfoNCE(query_k(h_t, a_t .. a_{t+k-1}), z_{t+k}),  k = 0 .. K - 1,  w_k ~ 0.75^k

    Burchi & Timofte 2025 (TWISTER), arXiv:2503.04416: action-conditioned CPC. A model that only predicts the next step can
    do so with little memory; to tell apart what follows later it needs more.

    Deviations. The latents to identify are those of the frames themselves, not of augmented views, and they are targets
    without a gradient: the loss trains the encoder through the memory only. The other latents of a query are those of the
    batch's rows at the same time, not of all times. The query reads h instead of h and a sample of the prior.
    """

    Config = TwisterDynamicsConfig

    def __init__(self, config: TwisterDynamicsConfig, specs: Specs) -> None:
        super().__init__(config, specs)
        cls, options = _member(config)
        self.member = cast(Dynamics, cls(options, specs))
        raw = {k: config.decay**k for k in range(config.horizon)}
        weights = {k: weight / sum(raw.values()) for k, weight in raw.items()}
        sizes = (config.units, config.projection, config.temperature)
        self.critic = FutureCritic(specs.memory_dim, specs.latent.dim, specs.action.dim, weights, *sizes)
        self.prior_kind = self.member.prior_kind
        self.reparameterised = self.member.reparameterised
        own = self.member.loss_weights
        self.loss_weights = None if own is None else {**own, "contrast": 1.0}
        if isinstance(self.member, ParallelDynamics):
            self.advance_sequence = self.member.advance_sequence
        if isinstance(self.member, SharesPast):
            self.fork = self.member.fork
        if isinstance(self.member, ScoresLatent):
            self.score_latent = self.member.score_latent

    # ---- the member's ----

    @classmethod
    def memory_size(cls, config: TwisterDynamicsConfig, latent: LatentSpec, action: ActionSpec) -> int:
        member, options = _member(config)
        return member.memory_size(options, latent, action)

    @classmethod
    def holds(cls, config: TwisterDynamicsConfig, latent: LatentSpec) -> int:
        member, options = _member(config)
        return member.holds(options, latent)

    @classmethod
    def runs_in_parallel(cls, config: TwisterDynamicsConfig) -> bool:
        member, options = _member(config)
        return member.runs_in_parallel(options)

    def initial(self, n: int) -> State:
        return self.member.initial(n)

    def advance(self, state: State, z: Tensor, action: Tensor) -> State:
        return self.member.advance(state, z, action)

    def memory(self, state: State) -> Tensor:
        return self.member.memory(state)

    def predict(self, memory: Tensor) -> Distribution:
        return self.member.predict(memory)

    def after_step(self, player: str) -> None:
        self.member.after_step(player)

    def alarms(self, values: dict[str, float]) -> dict[str, Alarm]:
        return self.member.alarms(values)

    # ---- what is added ----

    def players(self) -> dict[str, Player]:
        own = self.member.players()
        return own | {"main": replace(own["main"], parameters=own["main"].parameters + list(self.critic.parameters()))}

    def losses(self, ctx: Context, player: str = "main") -> dict[str, Tensor]:
        """Return the member's terms and, for "main", `contrast` [B, T] in nats, at the time of the query."""
        own = self.member.losses(ctx, player)
        if player != "main":
            return own
        return {**own, "contrast": self.critic.loss(ctx.memory, ctx.latent.z.detach(), ctx.batch)}

    def metrics(self, ctx: Context) -> dict[str, Tensor]:
        """Return the member's metrics and the accuracy of the nearest and of the farthest step that fits the batch."""
        keys = self.critic.key(ctx.latent.z)
        steps = [k for k in self.critic.weights if k < ctx.batch.mask.shape[1]]
        out = dict(self.member.metrics(ctx))
        for name, k in (("first", steps[0]), ("last", steps[-1])):
            contrast = self.critic.contrast(k, k, ctx.memory, keys, ctx.batch)
            out[f"contrast_accuracy_{name}"] = masked_mean(contrast.correct, ctx.batch.mask[:, k:])
        return out


def _member(config: TwisterDynamicsConfig) -> tuple[type[Dynamics], Any]:
    """Return the class and the configuration of the dynamics inside."""
    chosen = config.chosen("member")
    return chosen.registration.load(), chosen.options
