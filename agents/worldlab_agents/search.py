"""The search of all planners: sample candidate plans, dream them, fit the plan distribution to their scores, and
repeat.

A planner is a rule that weights candidates (`WeightFunction`) and a few numbers. Scores come from the world model and,
beyond the horizon, from a value function if there is one.
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
from worldlab_agents.disagreement import with_bonus
from worldlab_agents.plans import Plans, coloured_noise, planning_state
from worldlab_agents.stopwatch import Stopwatch

ValueFunction = Callable[[Tensor], Tensor]
"""Maps features [*, F] to the expected return from there on [*]."""
WeightFunction = Callable[[Tensor], Tensor]
"""Maps scores [N, S] of candidates to weights [N, S], which sum to 1."""


@dataclass(frozen=True)
class PlanningTask:
    """The objective of a plan. noise: dream with the prior's noise, otherwise along its most likely latents. bonus: reward
    of a step per unit of an ensemble's disagreement.
    """

    model: WorldModel
    carry: Carry
    gamma: float
    noise: bool = True
    value: ValueFunction | None = None
    bonus: float = 0.0

    def score(self, plans: Tensor, generator: torch.Generator) -> Tensor:
        """Return discounted dreamt returns [N, S] of candidates [N, S, H, A], including the value at the end."""
        n, count, horizon = plans.shape[:3]
        carry = self.model.fork(self.carry, count)
        dream = self.model.imagine(carry, plans.flatten(0, 1), horizon, generator if self.noise else None)
        dream = with_bonus(dream, self.model, self.bonus)
        alive = torch.cat([torch.ones_like(dream.cont[:, :1]), self.gamma * dream.cont], 1).cumprod(1)  # [N * S, H + 1]
        total = (alive[:, :-1] * dream.reward).sum(1)
        if self.value is not None:
            total = total + alive[:, -1] * self.value(dream.features[:, -1])
        return total.unflatten(0, (n, count))


@dataclass(frozen=True)
class Budget:
    """The budget of a search. candidates: per iteration i, times `decay`^i, but at least `minimum`. milliseconds: a
    deadline; 0 means none.
    """

    candidates: int
    iterations: int
    decay: float = 1.0
    milliseconds: float = 0.0
    minimum: int = 0

    def counts(self, minimum: int) -> list[int]:
        """Return the number of candidates in each iteration, at least `minimum` whatever the configuration."""
        minimum = max(minimum, min(self.minimum, self.candidates))
        return [max(minimum, int(self.candidates * self.decay**i)) for i in range(self.iterations)]


@dataclass(frozen=True)
class SearchRule:
    """The rule of a search. beta: colour of its noise; keep: share of the old plans in each fit; floor: their smallest
    std; elites: how many of the best candidates of an iteration are evaluated again in the next iteration.
    """

    weigh: WeightFunction
    beta: float = 0.0
    keep: float = 0.0
    floor: float = 0.05
    elites: int = 0


@dataclass(frozen=True)
class SearchResult:
    """The result of a search. best: the candidate with the highest score [N, H, A]; score [N]; elites [N, <= K, H,
    A].
    """

    plans: Plans
    best: Tensor
    score: Tensor
    elites: Tensor

    def next_state(self, count: int) -> State:
        """Return the state that initialises the next step's search: plans and elites [N, count, H, A], shifted by one
        step.
        """
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
    """Improve `plans`. previous_elites: further candidates [N, K, H, A] of the first iteration; proposals: further
    candidates of every iteration (from a policy).

    stopwatch: keeps the deadline of `budget` over many searches; already started. At the deadline an iteration is cut
    short and the best result so far is returned; before any candidate is dreamt this is the most likely plan. The most
    promising candidates are dreamt first.

    A non-finite score counts as the worst.
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
        # The plan itself is a candidate, or a search from a good plan could end with a worse one.
        candidates = torch.cat([plans.best[:, None], elites, proposals, plans.sample(noise)], 1)
        scores = _score_candidates(task, candidates, generator, stopwatch)
        tried = candidates[:, : scores.shape[1]]
        if scores.shape[1] == 0:
            break
        iteration_best, which = scores.max(1)
        best = torch.where((iteration_best > score)[:, None, None], tried[torch.arange(len(best)), which], best)
        score = torch.maximum(score, iteration_best)
        # If no score is finite, all candidates get equal weights, which hardly changes the plans.
        finite_scores = torch.where(torch.isfinite(scores).any(1, keepdim=True), scores, 0.0)
        plans = plans.fit(tried, rule.weigh(finite_scores), rule.keep, rule.floor)
        elites = _take_best(tried, scores, rule.elites)
        if scores.shape[1] < candidates.shape[1]:
            break  # time is up
    return SearchResult(plans, best, score, elites)


def propose(
    model: WorldModel, carry: Carry, policy: Policy, count: int, horizon: int, generator: torch.Generator
) -> Tensor:
    """Return plans [N, count, H, A] that a policy follows in separate dreams from a carry [N, ...]."""
    dream = model.imagine(model.fork(carry, count), policy, horizon, generator)
    return dream.action.unflatten(0, (-1, count))


def _score_candidates(
    task: PlanningTask, candidates: Tensor, generator: torch.Generator, stopwatch: Stopwatch
) -> Tensor:
    """Score as many candidates as time allows: [N, <= S], -inf where a score is not finite."""
    parts, done = [candidates.new_empty(len(candidates), 0)], 0
    while done < candidates.shape[1] and (count := stopwatch.count_affordable(candidates.shape[1] - done)):
        started_at = time.perf_counter()
        parts.append(task.score(candidates[:, done : done + count], generator))
        stopwatch.record(count, time.perf_counter() - started_at)
        done += count
    scores = torch.cat(parts, 1)
    return torch.where(torch.isfinite(scores), scores, -torch.inf)


def _take_best(candidates: Tensor, scores: Tensor, count: int) -> Tensor:
    """Return the `count` best candidates [N, count, H, A]."""
    which = scores.topk(min(count, scores.shape[1]), 1).indices
    return candidates[torch.arange(len(candidates), device=candidates.device)[:, None], which]


def _best_scores(scores: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return scores and indices of the `count` best candidates, at most half of all, so that a selection remains: [N,
    K]; and which of these scores are finite.
    """
    best, index = scores.topk(min(count, max(1, scores.shape[1] // 2)), 1)
    return best, index, torch.isfinite(best)


def weigh_elites(count: int) -> WeightFunction:
    """Return equal weights for the `count` best candidates: the cross-entropy method. Rubinstein 1999."""

    def weigh(scores: Tensor) -> Tensor:
        _, index, finite = _best_scores(scores, count)
        weight = finite / finite.sum(1, keepdim=True)
        return torch.zeros_like(scores).scatter(1, index, weight.to(scores.dtype))

    return weigh


def weigh_boltzmann(temperature: float, count: int) -> WeightFunction:
    """Return weights exp(score / temperature) among the `count` best: MPPI with elites as in Hansen et al. 2022
    (TD-MPC), arXiv:2203.04955, section 3, after Williams et al. 2015, arXiv:1509.01149. There raw scores are multiplied
    by a temperature. Here scores are first scaled to [0, 1] and divided by it, so that one temperature suits rewards of
    any scale.
    """

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
