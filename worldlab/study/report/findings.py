"""All the numbers of a report, from a comparison: each computed once, by `worldlab.study.statistics`, and written everywhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from worldlab.study import statistics
from worldlab.study.report.contests import OVERALL, RIVALS, Contest, Pair, contests
from worldlab.study.report.formats import SCALED, decimals, words
from worldlab.study.results import Comparison, Measurement, Method, Reference, Trial
from worldlab.study.statistics import Band, Interval

AGGREGATES: dict[str, tuple[str, Callable[..., Any]]] = {
    "iqm": ("IQM", statistics.iqm),
    "mean": ("Mean", statistics.mean),
    "median": ("Median", statistics.median),
    "optimality_gap": ("Optimality gap", statistics.optimality_gap),
}
"""By the name in summary.json: how people call it, and what computes it."""
THRESHOLDS = 101
"""Points of a performance profile."""


@dataclass(frozen=True)
class Measured:
    """A quantity over seeds. interval: of the mean of those that are defined, None if none is; error: the standard error within
    the run, where there is one run; why: the reasons of those that are undefined, each once; missing: how many these are."""

    interval: Interval | None
    error: float | None
    why: tuple[str, ...]
    missing: int


@dataclass(frozen=True)
class Findings:
    """Keys: method, (method, env), (x, y) for x above y, or (env, quantity, method). What is undefined is not in the maps.

    labels: what methods are called, each by another name. scopes: where the result is looked for. returns: mean return.
    failures: share of the runs that ended, without a score.
    referenced: environments with a reference. aggregates, published: by method and name in AGGREGATES, published with percentile
    bootstrap intervals.
    """

    comparison: Comparison
    labels: Mapping[str, str]
    scopes: tuple[str, ...]
    returns: Mapping[tuple[str, str], Interval]
    failures: Mapping[tuple[str, str], Interval]
    referenced: tuple[str, ...]
    aggregates: Mapping[str, Mapping[str, Interval]]
    published: Mapping[str, Mapping[str, Interval]]
    improvement: Mapping[tuple[str, str], Interval]
    profiles: Mapping[str, Band]
    curves: Mapping[tuple[str, str], Band]
    contests: tuple[Contest, ...]
    measures: Mapping[tuple[str, str, str], Measured]

    def places(self, scope: str) -> int:
        """Decimals that fit the scores of a scope."""
        means = [one.estimate for (_, env), one in self.returns.items() if env == scope]
        return SCALED if scope == OVERALL else decimals(means)

    def contest(self, scope: str, against: str, kind: str) -> Contest | None:
        wanted = (scope, against, kind)
        return next((one for one in self.contests if (one.scope, one.against, one.kind) == wanted), None)

    def rivals(self, scope: str) -> Contest | None:
        """How the models did against each other (or against the first)."""
        return next((one for one in self.contests if one.scope == scope and one.kind == RIVALS), None)

    def against(self, scope: str, x: str, y: str) -> Pair | None:
        """x against y. Of two models it is what the contest among models says, where that is about this scope: one pair has one
        verdict in a report. Else it is corrected together with all methods of x's kind."""
        rivals = self.rivals(scope)
        for pair in rivals.pairs if rivals else ():
            if {pair.x, pair.y} == {x, y}:
                return pair if pair.x == x else Pair(x, y, pair.difference.reversed)
        kind = next(method.kind for method in self.comparison.methods if method.key == x)
        contest = self.contest(scope, y, kind)
        return next((pair for pair in contest.pairs if pair.x == x), None) if contest else None


def find(comparison: Comparison) -> Findings:
    """Compute everything. Deterministic: random draws have a fixed seed."""
    methods, envs, seeds = [method.key for method in comparison.methods], comparison.envs, len(comparison.seeds)
    raw = {(key, env): usable(comparison, key, env) for key in methods for env in envs}
    returns = {at: statistics.interval([scores], statistics.mean) for at, scores in raw.items() if len(scores)}
    referenced = tuple(env for env in envs if reference_of(comparison, env))
    scaled = _complete(
        {key: [scaled_to(comparison, raw[key, env], env) for env in referenced] for key in methods}
        if referenced
        else {}
    )
    scopes = (OVERALL, *(env for env in envs if env not in referenced)) if len(referenced) > 1 else envs
    asked = contests(OVERALL, comparison.methods, scaled, seeds, True) if OVERALL in scopes else []
    for env in envs:
        scores = _complete({key: [raw[key, env]] for key in methods})
        asked += contests(env, comparison.methods, scores, seeds, env in scopes)
    return Findings(
        comparison,
        labels(comparison.methods),
        scopes,
        returns,
        _failures(comparison),
        referenced,
        {key: _aggregates(scores, statistics.interval) for key, scores in scaled.items()},
        {key: _aggregates(scores, statistics.bootstrap) for key, scores in scaled.items()},
        _improvement(comparison, raw),
        _profiles(scaled),
        _curves(comparison),
        tuple(asked),
        {
            (env, quantity.name, key): measured(comparison.of(key, env), quantity.name)
            for env in envs
            for quantity in comparison.quantities
            for key in methods
        },
    )


def _failures(comparison: Comparison) -> dict[tuple[str, str], Interval]:
    found = {}
    for method in comparison.methods:
        for env in comparison.envs:
            ended = [trial for trial in comparison.of(method.key, env) if trial.status in ("finished", "failed")]
            if ended:
                failed = [not (trial.status == "finished" and np.isfinite(trial.score)) for trial in ended]
                found[method.key, env] = statistics.proportion(np.array(failed, float))
    return found


def labels(methods: Sequence[Method]) -> dict[str, str]:
    """What each method is called: its label; with its key where two share one."""
    wanted = {method.key: words(method.label, words(method.key, "unnamed")) for method in methods}
    shared = Counter(wanted.values())
    return {key: label if shared[label] == 1 else f"{label} ({words(key, '?')})" for key, label in wanted.items()}


def usable(comparison: Comparison, method: str, env: str) -> np.ndarray:
    """Scores float64 [n] of the trials that finished with a number."""
    scores = comparison.scores(method, env)
    return scores[np.isfinite(scores)]


def reference_of(comparison: Comparison, env: str) -> Reference | None:
    """An environment's reference; None if it has none that makes a scale."""
    reference = comparison.references.get(env)
    width = reference.one - reference.zero if reference else 0.0
    return reference if width != 0 and np.isfinite(width) else None


def scaled_to(comparison: Comparison, scores: Any, env: str) -> Any:
    """Scores on the scale of an environment that has a reference."""
    reference = reference_of(comparison, env)
    assert reference is not None
    return (scores - reference.zero) / (reference.one - reference.zero)


def _complete(scores: Mapping[str, list[np.ndarray]]) -> dict[str, list[np.ndarray]]:
    """Those methods that have a score in every task: means over different tasks cannot be compared."""
    return {key: tasks for key, tasks in scores.items() if all(map(len, tasks))}


def _aggregates(scores: list[np.ndarray], interval: Callable[..., Interval]) -> dict[str, Interval]:
    found = {name: interval(scores, statistic) for name, (_, statistic) in AGGREGATES.items()}
    gap = found["optimality_gap"]  # of its nature at least 0, which Student's t does not know
    return {**found, "optimality_gap": replace(gap, low=float(np.maximum(gap.low, 0.0)))}


def _improvement(comparison: Comparison, raw: Mapping[tuple[str, str], np.ndarray]) -> dict[tuple[str, str], Interval]:
    """P(X > Y) over the environments where both have scores; who is above whom needs no common scale."""
    found = {}
    for x in (method.key for method in comparison.methods):
        for y in (method.key for method in comparison.methods):
            shared = [env for env in comparison.envs if len(raw[x, env]) and len(raw[y, env])]
            if x != y and shared:
                sides = [raw[x, env] for env in shared], [raw[y, env] for env in shared]
                found[x, y] = statistics.probability_of_improvement(*sides)
    return found


def _profiles(scaled: Mapping[str, list[np.ndarray]]) -> dict[str, Band]:
    if not scaled:
        return {}
    everything = np.concatenate([scores for tasks in scaled.values() for scores in tasks])
    grid = np.linspace(min(0.0, everything.min()), max(1.0, everything.max()), THRESHOLDS)
    return {key: statistics.performance_profile(scores, grid) for key, scores in scaled.items()}


def _curves(comparison: Comparison) -> dict[tuple[str, str], Band]:
    found = {}
    for method in comparison.methods:
        for env in comparison.envs:
            trials = [trial for trial in comparison.of(method.key, env) if trial.status == "finished"]
            curves = [[(step, value) for step, value in trial.curve if np.isfinite(value)] for trial in trials]
            if curves := [curve for curve in curves if curve]:
                begun = max(curve[0][0] for curve in map(sorted, curves))
                grid = sorted({step for curve in curves for step, _ in curve if step >= begun})
                found[method.key, env] = statistics.curve_band(curves, grid)
    return found


def measured(trials: tuple[Trial, ...], name: str) -> Measured:
    """What the finished trials say of a quantity."""
    finished = [trial for trial in trials if trial.status == "finished"]
    if not finished:
        return Measured(None, None, ("no trial finished",), 0)
    found = [trial.measures.get(name, Measurement(None, why="not measured")) for trial in finished]
    defined = [one.value is not None and bool(np.isfinite(one.value)) for one in found]
    known = [one for one, there in zip(found, defined) if there]
    why = tuple(dict.fromkeys(words(one.why, "no reason given") for one, there in zip(found, defined) if not there))
    if not known:
        return Measured(None, None, why, len(finished))
    interval = statistics.interval([np.array([one.value for one in known], float)], statistics.mean)
    return Measured(interval, known[0].error if len(known) == 1 else None, why, len(finished) - len(known))
