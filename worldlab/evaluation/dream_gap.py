"""The dream-to-real gap: what a policy earns in the dream and in the environment, from the same starts.

A policy that learned in a dream finds the dream's mistakes first. If it earns more there than in the environment, it
lives on them: Ha & Schmidhuber 2018, arXiv:1803.10122, section 4.2, table 2, and the reason for its temperature.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldlab import tree
from worldlab.experience.acting import ActingAgent

CONTEXT_STEPS = 5
"""Decisions of an episode after which its dream begins: the model has seen something by then."""


@dataclass(frozen=True)
class Gap:
    """Undiscounted returns over `horizon` decisions from the same starts, one pair an episode: or until it ended, or over as
    many as there were before it was cut (truncated), in the dream too."""

    horizon: int
    dreamt: list[float]
    real: list[float]

    @property
    def difference(self) -> float:
        """Mean of what the dream pays over what the environment does."""
        return float(np.mean(self.dreamt) - np.mean(self.real))

    @property
    def error(self) -> float:
        """Standard error of the difference; NaN for a single pair."""
        difference = np.subtract(self.dreamt, self.real)
        return float(difference.std(ddof=1) / len(difference) ** 0.5) if len(difference) > 1 else float("nan")

    @property
    def exploited(self) -> bool:
        """Whether the dream pays more than the environment: beyond 3 standard errors and a fifth of the larger return."""
        size = max(abs(float(np.mean(self.dreamt))), abs(float(np.mean(self.real))))
        return self.difference > 3 * self.error and self.difference > 0.2 * size

    def summary(self) -> dict[str, Any]:
        """As result.json shows it."""
        return {
            "horizon": self.horizon,
            "starts": len(self.real),
            "dreamt": float(np.mean(self.dreamt)),
            "real": float(np.mean(self.real)),
            "difference": self.difference,
            "standard_error": None if np.isnan(self.error) else self.error,
        }


@dataclass
class GapProbe:
    """Follows the first episode of each environment of an evaluation, then lets the agent go on in the dream instead.

    Feed it each decision with `record_decision` and what came of it with `record_step`; `measure` at the end.
    """

    acting: ActingAgent
    horizon: int
    deterministic: bool
    steps: int = 0
    start: Any = None
    rows: np.ndarray = field(default_factory=lambda: np.zeros(0, int))
    real: np.ndarray = field(default_factory=lambda: np.zeros(0))
    active: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    lengths: np.ndarray = field(default_factory=lambda: np.zeros(0, int))

    def record_decision(self, state: Any) -> None:
        """The acting agent's state right after a decision."""
        self.steps += 1
        if self.steps == 1:
            self.active = np.ones(len(state["action"]), bool)
        if self.steps == CONTEXT_STEPS + 1:
            self.rows = np.flatnonzero(self.active)
            self.real = np.zeros(len(self.active))
            self.lengths = np.full(len(self.active), self.horizon)
            # The agent that is judged goes on with its state, so the copy must be one.
            self.start = tree.tree_map(lambda leaf: leaf[self.rows].clone(), state)

    def record_step(self, reward: np.ndarray, terminated: np.ndarray, truncated: np.ndarray) -> None:
        """What each environment returned for that decision."""
        if self.start is not None and self.steps <= CONTEXT_STEPS + self.horizon:
            self.real += np.where(self.active, reward, 0.0)
            # A dream knows no time limit, and rightly: what it pays beyond one is no mistake of its.
            cut = self.active & truncated & ~terminated
            self.lengths = np.where(cut, self.steps - CONTEXT_STEPS, self.lengths)
        self.active &= ~(terminated | truncated)

    def measure(self, generator: torch.Generator, temperature: float = 1.0) -> Gap | None:
        """Dream on from where the episodes stood; None if none lasted long enough. temperature: of the dreams."""
        if self.start is None or not len(self.rows):
            return None
        explore = not self.deterministic
        dreamt = dreamt_returns(self.acting, self.start, self.lengths[self.rows], generator, explore, temperature)
        return Gap(self.horizon, dreamt.cpu().tolist(), self.real[self.rows].tolist())


@torch.no_grad()
def dreamt_returns(
    acting: ActingAgent,
    state: Any,
    lengths: np.ndarray,
    generator: torch.Generator,
    explore: bool,
    temperature: float = 1.0,
) -> Tensor:
    """Expected undiscounted returns [N] over dreamt decisions, lengths [N] of them; the first is in `state` already.

    temperature: of the prior (worldlab.distributions.tempered). Raises: ConfigError where it has none.
    """
    model, agent = acting.model, acting.agent
    carry, action, plan = state["carry"], state["action"], state["agent"]
    total = torch.zeros(len(action), device=action.device)
    alive = torch.ones_like(total)
    left = torch.as_tensor(lengths, device=total.device)
    for step in range(int(max(lengths, default=0))):
        carry, features, reward, cont = model.step(carry, action, generator, temperature)
        total = total + torch.where(step < left, alive * reward, 0.0)
        alive = alive * cont
        action, plan = agent.act(model, carry, features, plan, generator, explore)
    return total
