"""Evaluates a model on held-out episodes, and its agent in dreams that begin there: what remains without an environment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldlab import tree
from worldlab.evaluation.dream_gap import dreamt_returns
from worldlab.evaluation.open_loop import CONTEXT_FRAMES, open_loop
from worldlab.evaluation.scoring_rules import energy_score
from worldlab.experience.acting import ActingAgent
from worldlab.experience.collect import to_batch
from worldlab.experience.offline import HeldOut
from worldlab.interfaces import Batch
from worldlab.model import matching
from worldlab.model.losses import model_losses
from worldlab.rollout import Carry
from worldlab.world_model import WorldModel

WINDOWS = 16
"""Held-out sequences that are evaluated."""
HORIZON = 45
"""Decisions over which open-loop predictions are compared with the data, if the episodes are long enough."""
SCORED_STEPS = (1, 5, 15, 45)
"""Steps of a dream that the energy score is computed at."""
DREAMS = 4
"""Dreams from each sequence that the energy score compares."""
WHY = "the model is evaluated on held-out episodes, the agent in dreams only: there is no environment"


@dataclass(frozen=True)
class HeldOutEvaluation:
    """What was measured on held-out sequences.

    losses: mean of each unweighted term of the model's loss, in nats a frame where it is a likelihood. divergence: mean
    KL(posterior || prior) in nats a frame, without free nats; None where a density is missing. With the decoder's terms
    it is the bound on -log p(o), up to constants of the decoder. errors: root mean squared open-loop error by step of the
    dream, {key: [H]}, in the units of the observation. energy: the energy score of dreams by step, {key: {step: score}},
    in the same units: below the error where the dreams vary as the future does. dreamt: undiscounted return of the agent
    over `horizon` decisions in the dream, from each sequence.
    """

    episodes: int
    horizon: int
    losses: dict[str, float]
    divergence: float | None
    errors: dict[str, list[float]]
    energy: dict[str, dict[int, float]]
    dreamt: list[float]

    def summary(self) -> dict[str, Any]:
        """Return the evaluation as result.json stores it."""
        return {
            "held_out": {
                "episodes": self.episodes,
                "sequences": len(self.dreamt),
                "losses": self.losses,
                "divergence": self.divergence,
                "rmse_by_step": {key: [round(error, 5) for error in values] for key, values in self.errors.items()},
                "energy_by_step": {
                    key: {str(step): round(score, 5) for step, score in scores.items()}
                    for key, scores in self.energy.items()
                },
            },
            "dream_return_mean": float(np.mean(self.dreamt)),
            "protocol": {"env": "none", "why": WHY, "horizon": self.horizon},
        }

    def metrics(self) -> dict[str, float]:
        """Return the numbers to log."""
        named = {f"held_out/{name}": value for name, value in self.losses.items()}
        named |= {f"held_out/rmse_{key}": float(np.mean(values)) for key, values in self.errors.items()}
        if self.divergence is not None:
            named["held_out/divergence"] = self.divergence
        return {**named, "held_out/dream_return": float(np.mean(self.dreamt))}


@torch.no_grad()
def evaluate_held_out(acting: ActingAgent, held_out: HeldOut, seed: int) -> HeldOutEvaluation:
    """Evaluate a model and its agent on held-out sequences. Raises: ConfigError if no episode is held out."""
    model, agent = acting.model, acting.agent
    sampled = held_out.windows(WINDOWS, CONTEXT_FRAMES + HORIZON)
    batch = to_batch(sampled, model.preprocess, model.device)
    rows, length = batch.is_first.shape
    generator = torch.Generator(model.device).manual_seed(seed)
    ctx, seen = model.observe(batch, generator)
    losses = {name: float(term.value.mean()) for name, term in model_losses(model, ctx).items()}
    divergence = matching.divergence(ctx)
    start = CONTEXT_FRAMES
    shown = open_loop(model, batch, generator, start)
    errors = {key: values[:, start:].mean(0).tolist() for key, values in shown.errors.items()}
    index = torch.arange(rows, device=model.device)
    carry = seen.at(index, torch.full_like(index, start - 1))
    energy = dream_scores(model, batch, carry, start, generator)
    features = ctx.features[:, start - 1]
    action, plan = agent.act(model, carry, features, agent.initial(rows), generator, explore=False)
    state = {"carry": carry, "action": action, "agent": plan}
    dreamt = dreamt_returns(acting, state, np.full(rows, length - start), generator, explore=False)
    return HeldOutEvaluation(
        len(held_out.episodes),
        length - start,
        losses,
        None if divergence is None else float(divergence.mean()),
        errors,
        energy,
        dreamt.cpu().tolist(),
    )


def dream_scores(
    model: WorldModel, batch: Batch, carry: Carry, start: int, generator: torch.Generator
) -> dict[str, dict[int, float]]:
    """Return the mean energy score of DREAMS dreams from a carry [B, ...] at step start - 1, along the recorded actions.

    The distance between two observations is the root mean square of their differences. Dreams are drawn as pictures are
    (`WorldModel.render`). Returns: {key: {step: score}} for the SCORED_STEPS that a batch [B, T] is long enough for.
    """
    actions = tree.repeat(batch.prev_action[:, start:], DREAMS)
    dream = model.imagine(tree.repeat(carry, DREAMS), actions, actions.shape[1], generator)
    found: dict[str, dict[int, float]] = {}
    for step in (step for step in SCORED_STEPS if step <= actions.shape[1]):
        drawn = model.render(dream.features[:, step], generator)
        for key, real in batch.obs.items():
            target = _as_rows(model.preprocess.restore(key, real[:, start - 1 + step]))
            samples = _as_rows(drawn[key]).unflatten(0, (-1, DREAMS)).transpose(0, 1)
            found.setdefault(key, {})[step] = float(energy_score(samples, target).mean())
    return found


def _as_rows(values: Tensor) -> Tensor:
    """Return observations as rows [N, D] whose Euclidean distance is the root mean square of their differences."""
    rows = values.flatten(1).double()
    return rows / rows.shape[1] ** 0.5


__all__ = ["HeldOutEvaluation", "evaluate_held_out"]
