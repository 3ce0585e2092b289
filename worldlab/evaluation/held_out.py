"""Evaluates a model on held-out episodes, and its agent in dreams that begin there: what remains without an environment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from worldlab.evaluation.dream_gap import dreamt_returns
from worldlab.evaluation.open_loop import CONTEXT_FRAMES, open_loop
from worldlab.experience.acting import ActingAgent
from worldlab.experience.collect import to_batch
from worldlab.experience.offline import HeldOut
from worldlab.model.losses import model_losses

WINDOWS = 16
"""Held-out sequences that are evaluated."""
HORIZON = 45
"""Decisions over which open-loop predictions are compared with the data, if the episodes are long enough."""
WHY = "the model is evaluated on held-out episodes, the agent in dreams only: there is no environment"


@dataclass(frozen=True)
class HeldOutEvaluation:
    """What was measured on held-out sequences.

    losses: mean of each unweighted term of the model's loss, in nats a frame where it is a likelihood. errors: root mean
    squared open-loop error by step of the dream, {key: [H]}, in the units of the observation. dreamt: undiscounted return
    of the agent over `horizon` decisions in the dream, from each sequence.
    """

    episodes: int
    horizon: int
    losses: dict[str, float]
    errors: dict[str, list[float]]
    dreamt: list[float]

    def summary(self) -> dict[str, Any]:
        """Return the evaluation as result.json stores it."""
        return {
            "held_out": {
                "episodes": self.episodes,
                "sequences": len(self.dreamt),
                "losses": self.losses,
                "rmse_by_step": {key: [round(error, 5) for error in values] for key, values in self.errors.items()},
            },
            "dream_return_mean": float(np.mean(self.dreamt)),
            "protocol": {"env": "none", "why": WHY, "horizon": self.horizon},
        }

    def metrics(self) -> dict[str, float]:
        """Return the numbers to log."""
        named = {f"held_out/{name}": value for name, value in self.losses.items()}
        named |= {f"held_out/rmse_{key}": float(np.mean(values)) for key, values in self.errors.items()}
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
    start = CONTEXT_FRAMES
    shown = open_loop(model, batch, generator, start)
    errors = {key: values[:, start:].mean(0).tolist() for key, values in shown.errors.items()}
    index = torch.arange(rows, device=model.device)
    carry = seen.at(index, torch.full_like(index, start - 1))
    features = ctx.features[:, start - 1]
    action, plan = agent.act(model, carry, features, agent.initial(rows), generator, explore=False)
    state = {"carry": carry, "action": action, "agent": plan}
    dreamt = dreamt_returns(acting, state, np.full(rows, length - start), generator, explore=False)
    return HeldOutEvaluation(len(held_out.episodes), length - start, losses, errors, dreamt.cpu().tolist())


__all__ = ["HeldOutEvaluation", "evaluate_held_out"]
