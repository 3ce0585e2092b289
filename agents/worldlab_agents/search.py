"""The search all planners share: sample candidate plans, dream them, fit the plans to what came of them, again.

A planner is a rule for the weights of candidates (`Weigh`) and a few numbers; what it knows of the future comes from
the world model, and beyond the horizon from a value, if it has one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from worldlab.interfaces import State
from worldlab.rollout import Carry, Policy
from worldlab.world_model import WorldModel
from worldlab_agents.plans import Plans, coloured_noise, planning_state
from worldlab_agents.stopwatch import Stopwatch

ValueFunction = Callable[[Tensor], Tensor]
"""features [*, F] -> what is to come from there on [*]."""
WeightFunction = Callable[[Tensor], Tensor]
"""Scores [N, S] of candidates -> their weights [N, S], summing to 1."""


@dataclass(frozen=True)
class PlanningTask:
    """What a plan is judged by. noise: dream with the prior's noise, else along its most likely latents."""

    model: WorldModel
    carry: Carry
    gamma: float
    noise: bool = True
    value: ValueFunction | None = None

    def score(self, plans: Tensor, generator: torch.Generator) -> Tensor:
        """Discounted dreamt returns [N, S] of candidates [N, S, H, A], the value at the end included."""
        n, count, horizon = plans.shape[:3]
        carry = self.model.fork(self.carry, count)
        dream = self.model.imagine(carry, plans.flatten(0, 1), horizon, generator if self.noise else None)
        alive = torch.cat([torch.ones_like(dream.cont[:, :1]), self.gamma * dream.cont], 1).cumprod(1)  # [N * S, H + 1]
        total = (alive[:, :-1] * dream.reward).sum(1)
        if self.value is not None:
            total = total + alive[:, -1] * self.value(dream.features[:, -1])
        return total.unflatten(0, (n, count))


@dataclass(frozen=True)
class Budget:
    """How long a search may go on. candidates: in each of `iterations`, times `decay`^i, but not below `least`.
    milliseconds: a deadline, 0: none."""

    candidates: int
    iterations: int
    decay: float = 1.0
    milliseconds: float = 0.0
    minimum: int = 0

    def counts(self, minimum: int) -> list[int]:
        """Candidates of each iteration, `least` at least whatever was asked for."""
        minimum = max(minimum, min(self.minimum, self.candidates))
        return [max(minimum, int(self.candidates * self.decay**i)) for i in range(self.iterations)]


@dataclass(frozen=True)
class SearchRule:
    """How a planner searches. beta: colour of its noise; keep: share of the old plans in each fit; floor: their least
    width; elites: how many of the best candidates of an iteration are tried again in the next."""

    weigh: WeightFunction
    beta: float = 0.0
    keep: float = 0.0
    floor: float = 0.05
    elites: int = 0


@dataclass(frozen=True)
class SearchResult:
    """What a search ended with. best: the candidate with the highest score [N, H, A]; score [N]; elites [N, <= K, H, A]."""

    plans: Plans
    best: Tensor
    score: Tensor
    elites: Tensor

    def next_state(self, count: int) -> State:
        """What the next step's search starts from: plans and elites [N, count, H, A], shifted by a step."""
        elites = torch.cat([self.elites[:, :, 1:], self.elites[:, :, -1:]], 2)
        plans = self.plans.shift()
        padding = plans.best[:, None].expand(-1, count - elites.shape[1], -1, -1)
        return planning_state(plans, torch.cat([elites, padding], 1))


def search(
    task: PlanningTask,
    plans: Plans,
    rule: SearchRule,
    budget: Budget,
    generator: torch.Generator,
    previous_elites: Tensor | None = None,
    proposals: Tensor | None = None,
    stopwatch: Stopwatch | None = None,
) -> SearchResult:
    """Improve `plans`. kept: further candidates [N, K, H, A] of the first iteration (the last search's elites);
    proposals: of every iteration (a policy's).

    watch: keeps the deadline of `budget` over many searches, already started. Under a deadline an iteration is cut short where
    time is up, and what was found so far is returned: before any
    candidate was dreamt, that is the most likely plan. What promises most is dreamt first.

    A score that is not finite is the worst.
    """
    if stopwatch is None:
        stopwatch = Stopwatch(budget.milliseconds)
        stopwatch.start()
    best, score = plans.best, torch.full((len(plans.best),), -torch.inf, device=plans.best.device)
    no_plans = best[:, None][:, :0]
    elites = no_plans if previous_elites is None else previous_elites
    proposals = no_plans if proposals is None else proposals
    for count in budget.counts(minimum=2 * rule.elites + 2):
        noise = coloured_noise((len(best), count, *best.shape[1:]), rule.beta, generator)
        # The plan itself competes, or a search from a good plan could end with a worse one.
        candidates = torch.cat([plans.best[:, None], elites, proposals, plans.sample(noise)], 1)
        scores = _score_candidates(task, candidates, generator, stopwatch)
        tried = candidates[:, : scores.shape[1]]
        if scores.shape[1] == 0:
            break
        iteration_best, which = scores.max(1)
        best = torch.where((iteration_best > score)[:, None, None], tried[torch.arange(len(best)), which], best)
        score = torch.maximum(score, iteration_best)
        # Where no score is finite all count the same, which leaves the plans about where they were.
        finite_scores = torch.where(torch.isfinite(scores).any(1, keepdim=True), scores, 0.0)
        plans = plans.fit(tried, rule.weigh(finite_scores), rule.keep, rule.floor)
        elites = _take_best(tried, scores, rule.elites)
        if scores.shape[1] < candidates.shape[1]:
            break  # time is up
    return SearchResult(plans, best, score, elites)


def propose(
    model: WorldModel, carry: Carry, policy: Policy, count: int, horizon: int, generator: torch.Generator
) -> Tensor:
    """Plans [N, count, H, A] that a policy follows in dreams of its own from a carry [N, ...]."""
    dream = model.imagine(model.fork(carry, count), policy, horizon, generator)
    return dream.action.unflatten(0, (-1, count))


def _score_candidates(
    task: PlanningTask, candidates: Tensor, generator: torch.Generator, stopwatch: Stopwatch
) -> Tensor:
    """Scores of as many candidates as there is time for: [N, <= S], -inf where they are not finite."""
    parts, done = [candidates.new_empty(len(candidates), 0)], 0
    while done < candidates.shape[1] and (count := stopwatch.count_affordable(candidates.shape[1] - done)):
        started_at = time.perf_counter()
        parts.append(task.score(candidates[:, done : done + count], generator))
        stopwatch.record(count, time.perf_counter() - started_at)
        done += count
    scores = torch.cat(parts, 1)
    return torch.where(torch.isfinite(scores), scores, -torch.inf)


def _take_best(candidates: Tensor, scores: Tensor, count: int) -> Tensor:
    """The `count` best candidates [N, count, H, A]."""
    which = scores.topk(min(count, scores.shape[1]), 1).indices
    return candidates[torch.arange(len(candidates), device=candidates.device)[:, None], which]


def _best_scores(scores: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Scores and indices of the `count` best, of half of all if that is less, as all of them would be no choice: [N, K]; and
    which of these are finite."""
    best, index = scores.topk(min(count, max(1, scores.shape[1] // 2)), 1)
    return best, index, torch.isfinite(best)


def weigh_elites(count: int) -> WeightFunction:
    """Equal weights for the `count` best: the cross-entropy method. Rubinstein 1999."""

    def weigh(scores: Tensor) -> Tensor:
        _, index, finite = _best_scores(scores, count)
        weight = finite / finite.sum(1, keepdim=True)
        return torch.zeros_like(scores).scatter(1, index, weight.to(scores.dtype))

    return weigh


def weigh_boltzmann(temperature: float, count: int) -> WeightFunction:
    """exp(score / temperature) among the `count` best: MPPI among elites as in Hansen et al. 2022 (TD-MPC), arXiv:2203.04955,
    section 3, after Williams et al. 2015, arXiv:1509.01149. There raw scores are multiplied by a temperature; here they are
    taken to [0, 1] first and divided by it, so that one temperature fits rewards of any size."""

    def weigh(scores: Tensor) -> Tensor:
        best, index, finite = _best_scores(scores, count)
        worst = best.masked_fill(~finite, torch.inf).amin(1, keepdim=True)
        spread = (best[:, :1] - worst).clamp(min=1e-6)
        weight = torch.softmax((best - best[:, :1]) / spread / temperature, 1)
        return torch.zeros_like(scores).scatter(1, index, weight)

    return weigh


__all__ = [
    "Budget",
    "PlanningTask",
    "SearchResult",
    "SearchRule",
    "Stopwatch",
    "ValueFunction",
    "WeightFunction",
    "propose",
    "search",
    "weigh_boltzmann",
    "weigh_elites",
]
