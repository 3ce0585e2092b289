"""Decides whether predictions hold and which verdict a claim gets.

Two methods are compared with a permutation test over runs. A margin, or a comparison with a number, is decided by a 95%
interval.
CONFIRMED: every prediction of the claim holds. REFUTED: at least one fails, that is, its opposite is shown.
INCONCLUSIVE: neither. A prediction that is not shown can still be true.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from worldlab.study import statistics
from worldlab.study.results import Comparison, Quantity
from worldlab.study.roundup.claims import Claim, Prediction
from worldlab.study.roundup.method_values import MethodValues, collect_values, find_quantity
from worldlab.study.statistics import Difference, Interval

LEVEL = 0.05
"""Significance level of all tests, after Holm's correction within a claim."""
Outcome = Literal["holds", "fails", "open", "undefined"]
Verdict = Literal["CONFIRMED", "REFUTED", "INCONCLUSIVE"]
_VERBS = {
    "holds": ("holds", "hold"),
    "fails": ("fails", "fail"),
    "open": ("is open", "are open"),
    "undefined": ("is undefined", "are undefined"),
}
"""By outcome, the verb for one prediction and for several."""


@dataclass(frozen=True)
class PredictionResult:
    """The outcome of a prediction.

    x, y: means over seeds, None if undefined. If x was compared with a number, x has the interval that decided.
    difference: x minus y, or the difference of their logarithms. p_value: corrected, None if an interval decided. why:
    a clause.
    """

    prediction: Prediction
    quantity: Quantity
    outcome: Outcome
    why: str
    x: Interval | None = None
    y: Interval | None = None
    difference: Interval | None = None
    p_value: float | None = None


@dataclass(frozen=True)
class ClaimResult:
    """A claim with its verdict.

    method_values: the claim's quantity for all methods of its part; None if the part was not run.
    """

    claim: Claim
    verdict: Verdict
    why: str
    prediction_results: tuple[PredictionResult, ...]
    method_values: MethodValues | None


def evaluate_claim(claim: Claim, parts: Mapping[str, Comparison]) -> ClaimResult:
    """Evaluate a claim.

    parts: the comparisons that were run, by name. Predictions without data are undefined, not errors.
    """
    pending = [_evaluate(prediction, claim, parts) for prediction in claim.predictions]
    tested = [one for one in pending if isinstance(one, _PendingTest)]
    corrected = iter(statistics.apply_holm([one.difference for one in tested]) if tested else ())
    prediction_results = tuple(
        _decide(replace(one, difference=next(corrected))) if isinstance(one, _PendingTest) else one for one in pending
    )
    count = {
        outcome: sum(result.outcome == outcome for result in prediction_results)
        for outcome in ("holds", "fails", "open", "undefined")
    }
    verdict: Verdict = (
        "REFUTED" if count["fails"] else "CONFIRMED" if count["holds"] == len(prediction_results) else "INCONCLUSIVE"
    )
    why = ", ".join(f"{number} {_VERBS[outcome][number > 1]}" for outcome, number in count.items() if number)
    comparison = parts.get(claim.part)
    method_values = _method_values(comparison, claim.quantity, claim) if comparison else None
    return ClaimResult(
        claim, verdict, f"of {len(prediction_results)} predictions: {why}", prediction_results, method_values
    )


@dataclass(frozen=True)
class _PendingTest:
    """A tested prediction whose p value is not corrected yet."""

    prediction: Prediction
    quantity: Quantity
    x: Interval | None
    y: Interval | None
    difference: Difference


def _evaluate(prediction: Prediction, claim: Claim, parts: Mapping[str, Comparison]) -> PredictionResult | _PendingTest:
    comparison = parts.get(prediction.part)
    sides: list[tuple[MethodValues, str]] = []
    for label, name in (
        (prediction.x, prediction.quantity),
        (prediction.y, prediction.y_quantity or prediction.quantity),
    ):
        if not isinstance(label, str):
            continue
        method_values = _method_values(comparison, name, claim) if comparison else None
        if method_values is None:
            return PredictionResult(
                prediction, find_quantity(name), "undefined", f"part '{prediction.part}' did not measure it"
            )
        if label not in method_values.values:
            return PredictionResult(
                prediction, method_values.quantity, "undefined", f"no method '{label}' in part '{prediction.part}'"
            )
        if not len(method_values.values[label]):
            return PredictionResult(
                prediction, method_values.quantity, "undefined", f"{label}: {method_values.why[label] or 'no value'}"
            )
        sides.append((method_values, label))
    quantity = sides[0][0].quantity
    x, *ys = (method_values.values[label] for method_values, label in sides)
    x_shown, *ys_shown = (method_values.interval(label) for method_values, label in sides)
    y_shown = ys_shown[0] if ys_shown else None
    if prediction.log and not all(bool((values > 0).all()) for values in (x, *ys)):
        return PredictionResult(
            prediction, quantity, "undefined", "values of 0 or below have no logarithm", x_shown, y_shown
        )
    if prediction.log:
        x, *ys = (np.log(values) for values in (x, *ys))
    if not ys:
        return _compare_with_number(prediction, quantity, x, _shared_error(prediction, *sides[0]))
    if sides[0][1] == sides[1][1]:
        return _compare_paired(prediction, quantity, sides, (x_shown, y_shown))
    difference = statistics.difference([x], [ys[0]], level=LEVEL)
    if prediction.relation in ("above", "below"):
        return _PendingTest(prediction, quantity, x_shown, y_shown, difference)
    outcome, why = _locate(difference.estimate, *_limits(prediction, 0.0))
    return PredictionResult(prediction, quantity, outcome, why, x_shown, y_shown, difference.estimate)


def _method_values(comparison: Comparison, name: str, claim: Claim) -> MethodValues | None:
    among = [side for prediction in claim.predictions for side in (prediction.x, prediction.y) if isinstance(side, str)]
    try:
        return collect_values(comparison, name, claim.columns, among)
    except KeyError:
        return None


def _decide(one: _PendingTest) -> PredictionResult:
    verdict = one.difference.verdict
    wanted = "better" if one.prediction.relation == "above" else "worse"
    outcome: Outcome = "holds" if verdict == wanted else "fails" if verdict in ("better", "worse") else "open"
    why = f"{verdict}: {one.difference.reason}" if verdict == "too few seeds" else one.difference.reason
    return PredictionResult(
        one.prediction, one.quantity, outcome, why, one.x, one.y, one.difference.estimate, one.difference.p_value
    )  # fmt: skip


def _compare_with_number(
    prediction: Prediction, quantity: Quantity, values: np.ndarray, within: float
) -> PredictionResult:
    """Compare x with a number.

    within: the standard error that all runs share because they are measured on the same frames. More seeds do not
    reduce it.
    """
    assert not isinstance(prediction.y, str)
    limits = _limits(prediction, math.log(prediction.y) if prediction.log else prediction.y)
    over_runs = (
        statistics.proportion(values) if quantity.name == "failed" else statistics.interval([values], statistics.mean)
    )
    decides = _widen(over_runs, within)
    outcome, why = _locate(decides, *limits)
    if within:
        why += ", including the error that all runs share"
    return PredictionResult(prediction, quantity, outcome, why, _exp(decides) if prediction.log else decides)


def _exp(log: Interval) -> Interval:
    """Convert an interval of logarithms to the interval of the geometric mean."""
    return replace(log, estimate=math.exp(log.estimate), low=math.exp(log.low), high=math.exp(log.high))


def _shared_error(prediction: Prediction, method_values: MethodValues, label: str) -> float:
    error = method_values.error[label]
    return error / float(method_values.values[label].mean()) if prediction.log else error


def _widen(interval: Interval, error: float) -> Interval:
    low, high = (
        interval.estimate + side * math.hypot(end - interval.estimate, statistics.Z * error)
        for side, end in ((-1, interval.low), (1, interval.high))
    )
    return replace(interval, low=low, high=high)


def _compare_paired(
    prediction: Prediction,
    quantity: Quantity,
    sides: Sequence[tuple[MethodValues, str]],
    shown: tuple[Interval | None, Interval | None],
) -> PredictionResult:
    """Compare two quantities of the same runs: test the mean of their per-run differences against 0."""
    by_seed = [dict(zip(one.seeds[label], one.values[label], strict=True)) for one, label in sides]
    both = sorted(set(by_seed[0]) & set(by_seed[1]))
    if not both:
        return PredictionResult(prediction, quantity, "undefined", "no run has both quantities", *shown)
    change = math.log if prediction.log else float
    differences = np.array([change(by_seed[0][seed]) - change(by_seed[1][seed]) for seed in both])
    estimate = statistics.interval([differences], statistics.mean)
    outcome, why = _locate(estimate, *_limits(prediction, 0.0))
    return PredictionResult(
        prediction, quantity, outcome, f"{why}, of paired differences (run by run)", *shown, estimate
    )


def _limits(prediction: Prediction, number: float) -> tuple[float, float, bool]:
    """Return the limits that a prediction sets for x, or for x minus y, and whether they are strict: 0 is not above 0."""
    margin = math.log(prediction.margin) if prediction.log and prediction.margin else prediction.margin
    return {
        "above": (number, math.inf, True),
        "below": (-math.inf, number, True),
        "not above": (-math.inf, number + margin, False),
        "not below": (number - margin, math.inf, False),
        "about": (number - margin, number + margin, False),
    }[prediction.relation]


def _locate(interval: Interval, low: float, high: float, strict: bool) -> tuple[Outcome, str]:
    if math.isnan(interval.low):
        return "open", "a single run has no interval"
    inside = low < interval.low and interval.high < high if strict else low <= interval.low and interval.high <= high
    if inside:
        return "holds", "its 95% interval lies within the predicted range"
    if interval.high < low or interval.low > high:
        return "fails", "its 95% interval lies outside the predicted range"
    return "open", "its 95% interval contains the limit of the predicted range"


def tally(results: Sequence[ClaimResult]) -> str:
    """Count the verdicts: "3 confirmed, 1 refuted, 16 inconclusive"."""
    verdicts = [one.verdict for one in results]
    return ", ".join(f"{verdicts.count(kind)} {kind.lower()}" for kind in ("CONFIRMED", "REFUTED", "INCONCLUSIVE"))
