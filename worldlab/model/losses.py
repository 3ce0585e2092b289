"""The losses of a world model: every term of an update, its weight, and the average that the trainer minimises.

    part.losses(ctx, player)            a part's own terms, unweighted; part.loss_weights has their weights
    worldlab.model.matching             "dyn" and "rep": the terms that match posterior and prior
    reward, cont, probe                 the core's heads

Each term is unreduced, [B, T] in nats per frame. Terms of the decoder and the probe have one entry for each frame that
trains the decoder. The loss of a player is the sum of the means of its weighted terms.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor

from worldlab import tree
from worldlab.distributions import at_least_float32
from worldlab.interfaces import Component, Context
from worldlab.model import matching
from worldlab.model.schedule import JOINT, Stage

if TYPE_CHECKING:
    from worldlab.world_model import WorldModel

TRAINS = {"dyn": "dynamics", "rep": "encoder", "anchor": "encoder"}
"""The part that each matching term trains. If that part does not learn in a stage, the term is omitted."""


@dataclass(frozen=True)
class Term:
    """One named term of a loss."""

    name: str
    value: Tensor
    """The unweighted term [B, T], or [M, 1] for a subset of frames."""
    weight: float
    mask: Tensor
    """1 for valid steps, with the shape of the value."""

    def weighted(self) -> Tensor:
        """Return the weighted term, unreduced."""
        value = at_least_float32(self.value)
        return value if self.weight == 1.0 else self.weight * value

    def mean(self) -> Tensor:
        """Return the mean of the weighted term over valid steps, a scalar."""
        return (self.weighted() * self.mask).sum() / self.mask.sum().clamp(min=1.0)


def model_losses(model: WorldModel, ctx: Context, player: str = "main", stage: Stage = JOINT) -> dict[str, Term]:
    """Return the terms of one player's loss, by name.

    player: "main", or an adversarial player of a part with a detached context. stage: the parts and heads that learn;
    all others have no terms. Raises: AssertionError for a term of wrong shape or without a declared weight.
    """
    if stage.standard_prior:
        ctx = replace(ctx, prior=matching.standard_prior(model.specs.latent, ctx.memory.flatten(0, 1)))
    decoded = model.decoder_context(ctx)
    terms: list[Term] = []
    for role in sorted(stage.parts):
        terms += part_terms(role, model.parts[role], decoded if role == "decoder" else ctx, player)
    if player == "main":
        terms += _matching_terms(model, ctx, stage)
        terms += _head_terms(model, ctx) if stage.heads else []
        terms += _probe_terms(model, decoded) if stage.probe else []
    return {term.name: term for term in terms}


def part_terms(role: str, part: Component, ctx: Context, player: str) -> Iterator[Term]:
    """Yield the terms of a part's own losses with their declared weights."""
    weights = part.loss_weights
    for name, value in part.losses(ctx, player).items():
        who = f"loss '{name}' of {type(part).__name__}"
        assert value.shape == ctx.row.shape, f"{who} has shape {list(value.shape)}, declared is {list(ctx.row.shape)}"
        assert weights is None or name in weights, f"{who} has no weight; loss_weights has {', '.join(weights or ())}"
        yield Term(f"{role}/{name}", value, 1.0 if weights is None else weights[name], ctx.batch.mask)


def _matching_terms(model: WorldModel, ctx: Context, stage: Stage) -> list[Term]:
    settings = model.settings
    capacity = settings.capacity * min(1.0, stage.updates / settings.capacity_updates) if settings.capacity else None
    if stage.standard_prior:
        weights = {"rep": settings.beta}
        values = matching.standard_terms(ctx, settings.free_nats, capacity)
    else:
        beta = settings.beta
        weights = {"dyn": beta * settings.dyn_scale, "rep": beta * settings.rep_scale, "anchor": settings.prior_anchor}
        values = matching.terms(model.rule, ctx, model.dynamics, settings.free_nats, capacity)
    kept = {name: value for name, value in values.items() if TRAINS[name] in stage.parts}
    return [Term(name, value, weights[name], ctx.batch.mask) for name, value in kept.items()]


def _head_terms(model: WorldModel, ctx: Context) -> list[Term]:
    features = ctx.features if model.settings.reward_grad else ctx.features.detach()
    # No transition leads to a reset: its reward of 0 is a convention and not a target.
    arrived = (~ctx.batch.is_first).to(ctx.batch.reward.dtype)
    reward = -model.reward(features).log_prob(ctx.batch.reward) * arrived
    cont = -model.cont(features).log_prob(ctx.batch.cont) * arrived
    mask = ctx.batch.mask
    return [Term("reward", reward, model.settings.reward_scale, mask), Term("cont", cont, 1.0, mask)]


def _probe_terms(model: WorldModel, ctx: Context) -> list[Term]:
    if model.probe is None:
        return []
    error = model.probe.losses(ctx.features.flatten(0, 1), tree.flatten_time(ctx.batch.obs))
    return [Term("probe", error.view_as(ctx.row), 1.0, ctx.batch.mask)]


__all__ = ["TRAINS", "Term", "model_losses", "part_terms"]
