"""Computes all numbers of a report once, with `worldlab.study.statistics`; every file of the report uses them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from worldlab.study import statistics
from worldlab.study.report.comparisons import AMONG_MODELS, OVERALL, ComparisonFamily, Pair, compare_methods
from worldlab.study.report.formats import SCALED, clean_text, decimals_for
from worldlab.study.results import Comparison, Measurement, Method, Reference, Trial
from worldlab.study.statistics import Band, Interval

AGGREGATES: dict[str, tuple[str, Callable[..., Any]]] = {
    "iqm": ("IQM", statistics.iqm),
    "mean": ("Mean", statistics.mean),
    "median": ("Median", statistics.median),
    "optimality_gap": ("Optimality gap", statistics.optimality_gap),
}
"""By name in summary.json: the title, and the function that computes the aggregate."""
THRESHOLDS = 101
"""Number of points of a performance profile."""


@dataclass(frozen=True)
class MeasureSummary:
    """A quantity summarised over seeds.

    interval: of the mean over the defined values, None if no value is defined. error: standard error within the run, if
    there is only one run. why: the distinct reasons of the undefined values. missing: number of undefined values.
    """

    interval: Interval | None
    error: float | None
    why: tuple[str, ...]
    missing: int


@dataclass(frozen=True)
class Findings:
    """All numbers of a report.

    Keys of the mappings: method, (method, env), (x, y) for P(x > y), or (env, quantity, method). Undefined values have
    no key.
    labels: a distinct display name per method. scopes: the scopes that the result is drawn from. returns: mean return,
    its interval within the possible returns where these are known. resampled: the same with percentile bootstrap
    intervals, which never leave the range of the runs. failures: of the runs that ended, the share without a score.
    referenced: environments with a reference score. aggregates, published: by method and name in AGGREGATES; published
    has percentile bootstrap intervals.
    """

    comparison: Comparison
    labels: Mapping[str, str]
    scopes: tuple[str, ...]
    returns: Mapping[tuple[str, str], Interval]
    resampled: Mapping[tuple[str, str], Interval]
    failures: Mapping[tuple[str, str], Interval]
    referenced: tuple[str, ...]
    aggregates: Mapping[str, Mapping[str, Interval]]
    published: Mapping[str, Mapping[str, Interval]]
    improvement: Mapping[tuple[str, str], Interval]
    profiles: Mapping[str, Band]
    curves: Mapping[tuple[str, str], Band]
    families: tuple[ComparisonFamily, ...]
    measures: Mapping[tuple[str, str, str], MeasureSummary]

    def places(self, scope: str) -> int:
        """Return how many decimals to show for the scores of a scope."""
        means = [one.estimate for (_, env), one in self.returns.items() if env == scope]
        return SCALED if scope == OVERALL else decimals_for(means)

    def family(self, scope: str, against: str, kind: str) -> ComparisonFamily | None:
        key = (scope, against, kind)
        return next((one for one in self.families if (one.scope, one.against, one.kind) == key), None)

    def among_models(self, scope: str) -> ComparisonFamily | None:
        """Return the comparisons of the models with each other (or with the first model)."""
        return next((one for one in self.families if one.scope == scope and one.kind == AMONG_MODELS), None)

    def pair(self, scope: str, x: str, y: str) -> Pair | None:
        """Return the comparison of x with y.

        Two models are taken from the family among models if this scope has one, so that a pair has only one verdict in
        a report. Other pairs are corrected together with all methods of x's kind.
        """
        models = self.among_models(scope)
        for pair in models.pairs if models else ():
            if {pair.x, pair.y} == {x, y}:
                return pair if pair.x == x else Pair(x, y, pair.difference.reversed)
        kind = next(method.kind for method in self.comparison.methods if method.key == x)
        family = self.family(scope, y, kind)
        return next((pair for pair in family.pairs if pair.x == x), None) if family else None


def compute_findings(comparison: Comparison) -> Findings:
    """Compute all findings. The result is deterministic: resampling uses a fixed seed."""
    methods, envs, seeds = [method.key for method in comparison.methods], comparison.envs, len(comparison.seeds)
    raw = {(key, env): finite_scores(comparison, key, env) for key in methods for env in envs}
    bounds = {env: known for env in envs if (known := _valid_bounds(comparison, env))}
    returns = {
        (key, env): _within(statistics.interval([scores], statistics.mean), bounds.get(env))
        for (key, env), scores in raw.items()
        if len(scores)
    }
    resampled = {at: statistics.bootstrap([scores], statistics.mean) for at, scores in raw.items() if len(scores)}
    referenced = tuple(env for env in envs if valid_reference(comparison, env))
    scaled = _scored_everywhere(
        {key: [normalise(comparison, raw[key, env], env) for env in referenced] for key in methods}
        if referenced
        else {}
    )
    scale = _scaled_bounds(comparison, referenced, bounds)
    scopes = (OVERALL, *(env for env in envs if env not in referenced)) if len(referenced) > 1 else envs
    families = compare_methods(OVERALL, comparison.methods, scaled, seeds, True) if OVERALL in scopes else []
    for env in envs:
        scores = _scored_everywhere({key: [raw[key, env]] for key in methods})
        families += compare_methods(env, comparison.methods, scores, seeds, env in scopes)
    return Findings(
        comparison,
        unique_labels(comparison.methods),
        scopes,
        returns,
        resampled,
        _failures(comparison),
        referenced,
        {key: _aggregates(scores, statistics.interval, scale) for key, scores in scaled.items()},
        {key: _aggregates(scores, statistics.bootstrap, scale) for key, scores in scaled.items()},
        _improvement(comparison, raw),
        _profiles(scaled),
        _curves(comparison, bounds),
        tuple(families),
        {
            (env, quantity.name, key): summarise_measure(comparison.of(key, env), quantity.name)
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


def unique_labels(methods: Sequence[Method]) -> dict[str, str]:
    """Return each method's label; methods that share a label get their key appended."""
    chosen = {method.key: clean_text(method.label, clean_text(method.key, "unnamed")) for method in methods}
    shared = Counter(chosen.values())
    return {key: label if shared[label] == 1 else f"{label} ({clean_text(key, '?')})" for key, label in chosen.items()}


def finite_scores(comparison: Comparison, method: str, env: str) -> np.ndarray:
    """Return the finite scores of the finished trials, float64 [n]."""
    scores = comparison.scores(method, env)
    return scores[np.isfinite(scores)]


def valid_reference(comparison: Comparison, env: str) -> Reference | None:
    """Return an environment's reference scores; None if it has none, or if they do not span a scale."""
    reference = comparison.references.get(env)
    width = reference.one - reference.zero if reference else 0.0
    return reference if width != 0 and np.isfinite(width) else None


def normalise(comparison: Comparison, scores: Any, env: str) -> Any:
    """Normalise scores with the environment's reference, which must exist."""
    reference = valid_reference(comparison, env)
    assert reference is not None
    return (scores - reference.zero) / (reference.one - reference.zero)


def _scored_everywhere(scores: Mapping[str, list[np.ndarray]]) -> dict[str, list[np.ndarray]]:
    """Keep the methods that have a score in every task. Means over different sets of tasks cannot be compared."""
    return {key: tasks for key, tasks in scores.items() if all(map(len, tasks))}


def _scaled_bounds(
    comparison: Comparison, referenced: Sequence[str], bounds: Mapping[str, tuple[float, float]]
) -> tuple[float, float]:
    """Return between which numbers the normalised scores of all environments lie; infinite where that is unknown."""
    ends = [sorted(normalise(comparison, np.array(bounds[env]), env)) for env in referenced if env in bounds]
    if len(ends) < len(referenced) or not ends:
        return -np.inf, np.inf
    return float(min(low for low, _ in ends)), float(max(high for _, high in ends))


def _aggregates(
    scores: list[np.ndarray], interval: Callable[..., Interval], scale: tuple[float, float]
) -> dict[str, Interval]:
    """Compute all aggregates, with intervals within what is possible. scale: the bounds of normalised scores."""
    low, high = scale
    gaps = (0.0, max(0.0, 1.0 - low))  # a gap is at least 0 by definition
    return {
        name: _within(interval(scores, statistic), gaps if name == "optimality_gap" else (low, high))
        for name, (_, statistic) in AGGREGATES.items()
    }


def _improvement(comparison: Comparison, raw: Mapping[tuple[str, str], np.ndarray]) -> dict[tuple[str, str], Interval]:
    """Compute P(X > Y) over the environments where both have scores. It needs no common scale of scores."""
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


def _valid_bounds(comparison: Comparison, env: str) -> tuple[float, float] | None:
    """Return the possible returns of an environment; None if they are unknown, or a run has left them."""
    low, high = comparison.bounds.get(env, (-np.inf, np.inf))
    seen = [value for trial in comparison.trials if trial.env == env for value in trial.returns]
    known = low < high and (np.isfinite(low) or np.isfinite(high))
    slack = 1e-6 * max(1.0, *(abs(end) for end in (low, high) if np.isfinite(end))) if known else 0.0
    return (low, high) if known and all(low - slack <= value <= high + slack for value in seen) else None


def _within(one: Interval, bounds: tuple[float, float] | None) -> Interval:
    """Return an interval without its part outside the possible values."""
    if bounds is None:
        return one
    low, high = (float(np.clip(end, *bounds)) for end in (one.low, one.high))
    return replace(one, low=low, high=high)


def _curves(comparison: Comparison, bounds: Mapping[str, tuple[float, float]]) -> dict[tuple[str, str], Band]:
    found = {}
    for method in comparison.methods:
        for env in comparison.envs:
            trials = [trial for trial in comparison.of(method.key, env) if trial.status == "finished"]
            curves = [[(step, value) for step, value in trial.curve if np.isfinite(value)] for trial in trials]
            if curves := [curve for curve in curves if curve]:
                begun = max(curve[0][0] for curve in map(sorted, curves))
                grid = sorted({step for curve in curves for step, _ in curve if step >= begun})
                band = statistics.curve_band(curves, grid)
                if env in bounds:
                    band = replace(band, low=np.clip(band.low, *bounds[env]), high=np.clip(band.high, *bounds[env]))
                found[method.key, env] = band
    return found


def summarise_measure(trials: tuple[Trial, ...], name: str) -> MeasureSummary:
    """Summarise a quantity over the finished trials."""
    finished = [trial for trial in trials if trial.status == "finished"]
    if not finished:
        return MeasureSummary(None, None, ("no trial finished",), 0)
    found = [trial.measures.get(name, Measurement(None, why="not measured")) for trial in finished]
    defined = [one.value is not None and bool(np.isfinite(one.value)) for one in found]
    known = [one for one, is_defined in zip(found, defined) if is_defined]
    why = tuple(
        dict.fromkeys(
            clean_text(one.why, "no reason given") for one, is_defined in zip(found, defined) if not is_defined
        )
    )
    if not known:
        return MeasureSummary(None, None, why, len(finished))
    interval = statistics.interval([np.array([one.value for one in known], float)], statistics.mean)
    return MeasureSummary(interval, known[0].error if len(known) == 1 else None, why, len(finished) - len(known))
