"""Measures the dream-to-real gap: a policy's returns in the dream and in the environment, from the same starts.

A policy trained in dreams can exploit errors of the model; a higher return in the dream than in the environment shows
this. Ha & Schmidhuber 2018, arXiv:1803.10122, section 4.2, table 2, introduce the temperature against it.
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
"""Decisions of an episode before its dream begins, so that the model has filtered some observations."""


@dataclass(frozen=True)
class Gap:
    """Undiscounted returns over `horizon` decisions from the same starts, one pair per episode.

    A return covers fewer decisions if its episode terminates. If the real episode is truncated, both returns stop
    there.
    """

    horizon: int
    dreamt: list[float]
    real: list[float]

    @property
    def difference(self) -> float:
        """Mean return in the dream minus mean return in the environment."""
        return float(np.mean(self.dreamt) - np.mean(self.real))

    @property
    def error(self) -> float:
        """Standard error of the difference; NaN for a single pair."""
        difference = np.subtract(self.dreamt, self.real)
        return float(difference.std(ddof=1) / len(difference) ** 0.5) if len(difference) > 1 else float("nan")

    @property
    def exploited(self) -> bool:
        """Whether the dream's mean return is higher by over 3 standard errors and over a fifth of the larger return."""
        size = max(abs(float(np.mean(self.dreamt))), abs(float(np.mean(self.real))))
        return self.difference > 3 * self.error and self.difference > 0.2 * size

    def summary(self) -> dict[str, Any]:
        """Return the gap as result.json stores it."""
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
    """Records the first episode of each evaluation environment and continues it in the dream with the same agent.

    Call `record_decision` after each decision and `record_step` with its result; call `measure` at the end.
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
        """Record the acting agent's state right after a decision."""
        self.steps += 1
        if self.steps == 1:
            self.active = np.ones(len(state["action"]), bool)
        if self.steps == CONTEXT_STEPS + 1:
            self.rows = np.flatnonzero(self.active)
            self.real = np.zeros(len(self.active))
            self.lengths = np.full(len(self.active), self.horizon)
            # The evaluated agent keeps using its state, so this must be a copy.
            self.start = tree.tree_map(lambda leaf: leaf[self.rows].clone(), state)

    def record_step(self, reward: np.ndarray, terminated: np.ndarray, truncated: np.ndarray) -> None:
        """Record what each environment returned for that decision."""
        if self.start is not None and self.steps <= CONTEXT_STEPS + self.horizon:
            self.real += np.where(self.active, reward, 0.0)
            # A dream has no time limit, so its reward beyond a real one is not an error of the model.
            cut = self.active & truncated & ~terminated
            self.lengths = np.where(cut, self.steps - CONTEXT_STEPS, self.lengths)
        self.active &= ~(terminated | truncated)

    def measure(self, generator: torch.Generator, temperature: float = 1.0) -> Gap | None:
        """Continue the recorded episodes in dreams; None if none lasted long enough. temperature: of the prior."""
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
    """Estimate undiscounted returns [N] over `lengths` [N] dreamt decisions; `state` already holds the first decision.

    temperature: of the prior (worldlab.distributions.tempered). Raises: ConfigError if the prior has no temperature.
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
