"""Collects a quantity's values for every method, one per seed: measures of models and properties of trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from worldlab.study import statistics
from worldlab.study.measures.catalogue import catalogue
from worldlab.study.results import Comparison, Quantity, Trial
from worldlab.study.statistics import Interval

TRIAL_QUANTITIES = {
    one.name: one
    for one in (
        Quantity("return", "Mean return", "", "higher", "mean return of the final evaluation's episodes"),
        Quantity("parameters", "Parameters", "", None, "number of weights of the world model"),
        Quantity("failed", "Failed runs", "", "lower", "share of runs that ended without a result"),
        Quantity(
            "spread", "Spread of returns over seeds", "", "lower",
            "distance of a run's mean return from the median of its method's runs (Brown & Forsythe 1974)",
        ),
        Quantity(
            "rank", "Mean rank", "", "lower",
            "rank among the compared methods, ties averaged, mean over the quantities that all of them have",
        ),
    )
}  # fmt: skip
"""Quantities of trials rather than of models, by name."""


def find_quantity(name: str) -> Quantity:
    """Return a quantity by name. An unknown name gets a quantity with that name as its title."""
    every = (*TRIAL_QUANTITIES.values(), *catalogue())
    return next((one for one in every if one.name == name), Quantity(name, name, "", None, ""))


@dataclass(frozen=True)
class MethodValues:
    """The values of one quantity, by method label.

    values: float64 [n], one per seed with a defined value. seeds: those seeds. why: the reasons of undefined values.
    error: root mean square of the standard errors within runs, 0 if the quantity has none.
    """

    quantity: Quantity
    values: Mapping[str, np.ndarray]
    seeds: Mapping[str, tuple[int, ...]]
    why: Mapping[str, str]
    error: Mapping[str, float]

    def interval(self, label: str) -> Interval | None:
        """Return the mean over seeds with its interval; None if there is no value."""
        values = self.values[label]
        return statistics.interval([values], statistics.mean) if len(values) else None


def is_rankable(quantity: Quantity) -> bool:
    """Return whether methods can be ranked by this quantity, per seed.

    One direction must be better, and every finished run must have a value.
    """
    return quantity.better is not None and quantity.name not in ("failed", "rank")


def collect_values(
    comparison: Comparison, name: str, columns: Sequence[str] = (), among: Sequence[str] = ()
) -> MethodValues:
    """Collect a quantity for every method of a comparison on one environment.

    columns, among: for the quantity "rank", the quantities to rank by and the labels of the methods to rank.
    Raises: KeyError for a quantity that the comparison did not measure.
    """
    quantity = TRIAL_QUANTITIES.get(name) or next((one for one in comparison.quantities if one.name == name), None)
    if quantity is None:
        raise KeyError(name)
    (env,) = comparison.envs
    trials = {method.label: comparison.of(method.key, env) for method in comparison.methods}
    if name == "rank":
        return _rank_methods(comparison, quantity, trials, columns, among)
    values, seeds, why, error = {}, {}, {}, {}
    for label, runs in trials.items():
        found = [(run, value) for run in runs if (value := _trial_value(run, name, runs)) is not None]
        values[label] = np.array([value for _, value in found], float)
        seeds[label] = tuple(run.seed for run, _ in found)
        why[label] = _undefined_reason(runs, name)
        within = [measured.error or 0.0 for run, _ in found if (measured := run.measures.get(name)) is not None]
        error[label] = float(np.sqrt(np.mean(np.square(within)))) if within else 0.0
    return MethodValues(quantity, values, seeds, why, error)


def _trial_value(run: Trial, name: str, runs: Sequence[Trial]) -> float | None:
    if name == "failed":
        return None if run.status == "missing" else float(run.status == "failed")
    if run.status != "finished":
        return None
    if name == "return":
        return run.score
    if name == "parameters":
        return float(run.parameters)
    if name == "spread":
        return abs(run.score - float(np.median([one.score for one in runs if one.status == "finished"])))
    found = run.measures.get(name)
    return None if found is None or found.value is None or not np.isfinite(found.value) else found.value


def _undefined_reason(runs: Sequence[Trial], name: str) -> str:
    finished = [run for run in runs if run.status == "finished"]
    if not finished:
        return "; ".join(dict.fromkeys(run.cause for run in runs if run.cause)) or "no run finished"
    reasons = (run.measures[name].why if name in run.measures else "not measured" for run in finished)
    return "; ".join(dict.fromkeys(reason for reason in reasons if reason))


def _rank_methods(
    comparison: Comparison,
    quantity: Quantity,
    trials: Mapping[str, Sequence[Trial]],
    columns: Sequence[str],
    among: Sequence[str],
) -> MethodValues:
    """Compute each method's mean rank, for every seed that all methods finished.

    The mean is over the columns in which all methods have a value.
    """
    chosen = {label: runs for label, runs in trials.items() if label in among}
    finished = [{run.seed for run in runs if run.status == "finished"} for runs in chosen.values()]
    seeds = sorted(set.intersection(*finished)) if finished else []
    rank_by = [collect_values(comparison, name).quantity for name in columns]
    assert all(map(is_rankable, rank_by)), "checked before the run"
    found: dict[str, list[float]] = {label: [] for label in chosen}
    ranked = []
    for seed in seeds:
        ranks = []
        for one in rank_by:
            values = [
                _trial_value(next(run for run in runs if run.seed == seed), one.name, runs) for runs in chosen.values()
            ]
            if None not in values:
                sign = -1.0 if one.better == "higher" else 1.0
                ranks.append(stats.rankdata([sign * value for value in values if value is not None]))
        if ranks:
            ranked.append(seed)
            for label, mean in zip(chosen, np.mean(ranks, 0), strict=True):
                found[label].append(float(mean))
    why = "no seed for which all methods have a quantity" if chosen else "no method to rank"
    return MethodValues(
        quantity,
        {label: np.array(found.get(label, [])) for label in trials},
        {label: tuple(ranked) if label in chosen else () for label in trials},
        {label: "" if found.get(label) else why if label in chosen else "not ranked" for label in trials},
        dict.fromkeys(trials, 0.0),
    )
