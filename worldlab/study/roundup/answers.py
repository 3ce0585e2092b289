"""Does a prediction hold? Judged by runs, never by one number: a permutation test where two methods are held against each
other, a 95% interval where a margin or a number is.

CONFIRMED: every prediction of the claim holds. REFUTED: one of them fails, that is, its opposite is shown. INCONCLUSIVE: neither; not
shown does not mean untrue.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from worldlab.study import statistics
from worldlab.study.results import Comparison, Quantity
from worldlab.study.roundup.questions import Claim, Prediction
from worldlab.study.roundup.readings import Readings, known, read
from worldlab.study.statistics import Difference, Interval

LEVEL = 0.05
"""Of all tests, corrected by Holm's method for those of one claim."""
Outcome = Literal["holds", "fails", "open", "undefined"]
Verdict = Literal["CONFIRMED", "REFUTED", "INCONCLUSIVE"]


@dataclass(frozen=True)
class Answer:
    """What became of a prediction. x, y: means over seeds, None where undefined; x with the interval that decided, where it was held
    against a number. difference: of x and y, or of their logarithms; p_value: corrected, None where an interval decided; why: one
    clause."""

    prediction: Prediction
    quantity: Quantity
    outcome: Outcome
    why: str
    x: Interval | None = None
    y: Interval | None = None
    difference: Interval | None = None
    p_value: float | None = None


@dataclass(frozen=True)
class Judged:
    """A claim with its answers. readings: of its own quantity, all methods of its part; None if that part was not run."""

    claim: Claim
    verdict: Verdict
    why: str
    answers: tuple[Answer, ...]
    readings: Readings | None


def judge(claim: Claim, parts: Mapping[str, Comparison]) -> Judged:
    """Judge a claim by the comparisons that were run, by part. Raises nothing for what is missing: it is undefined."""
    pending = [_asked(prediction, claim, parts) for prediction in claim.predictions]
    tested = [one for one in pending if isinstance(one, _Tested)]
    corrected = iter(statistics.apply_holm([one.difference for one in tested]) if tested else ())
    answers = tuple(
        _decided(replace(one, difference=next(corrected))) if isinstance(one, _Tested) else one for one in pending
    )
    count = {
        outcome: sum(answer.outcome == outcome for answer in answers)
        for outcome in ("holds", "fails", "open", "undefined")
    }
    verdict: Verdict = (
        "REFUTED" if count["fails"] else "CONFIRMED" if count["holds"] == len(answers) else "INCONCLUSIVE"
    )
    why = ", ".join(f"{number} {outcome}" for outcome, number in count.items() if number)
    comparison = parts.get(claim.part)
    readings = _read(comparison, claim.quantity, claim) if comparison else None
    return Judged(claim, verdict, f"of {len(answers)} predictions: {why}", answers, readings)


@dataclass(frozen=True)
class _Tested:
    """A prediction that waits for the correction of its p."""

    prediction: Prediction
    quantity: Quantity
    x: Interval | None
    y: Interval | None
    difference: Difference


def _asked(prediction: Prediction, claim: Claim, parts: Mapping[str, Comparison]) -> Answer | _Tested:
    comparison = parts.get(prediction.part)
    sides: list[tuple[Readings, str]] = []
    for label, name in (
        (prediction.x, prediction.quantity),
        (prediction.y, prediction.y_quantity or prediction.quantity),
    ):
        if not isinstance(label, str):
            continue
        readings = _read(comparison, name, claim) if comparison else None
        if readings is None:
            return Answer(prediction, known(name), "undefined", f"part '{prediction.part}' has not measured it")
        if label not in readings.values:
            return Answer(
                prediction, readings.quantity, "undefined", f"no method '{label}' in part '{prediction.part}'"
            )
        if not len(readings.values[label]):
            return Answer(prediction, readings.quantity, "undefined", f"{label}: {readings.why[label] or 'no value'}")
        sides.append((readings, label))
    quantity = sides[0][0].quantity
    x, *ys = (readings.values[label] for readings, label in sides)
    x_shown, *ys_shown = (readings.interval(label) for readings, label in sides)
    y_shown = ys_shown[0] if ys_shown else None
    if prediction.log and not all(bool((values > 0).all()) for values in (x, *ys)):
        return Answer(
            prediction, quantity, "undefined", "values that are not above 0 have no logarithm", x_shown, y_shown
        )
    if prediction.log:
        x, *ys = (np.log(values) for values in (x, *ys))
    if not ys:
        return _against_number(prediction, quantity, x, _within(prediction, *sides[0]))
    if sides[0][1] == sides[1][1]:
        return _paired(prediction, quantity, sides, (x_shown, y_shown))
    difference = statistics.difference([x], [ys[0]], level=LEVEL)
    if prediction.relation in ("above", "below"):
        return _Tested(prediction, quantity, x_shown, y_shown, difference)
    outcome, why = _placed(difference.estimate, *_allowed(prediction, 0.0))
    return Answer(prediction, quantity, outcome, why, x_shown, y_shown, difference.estimate)


def _read(comparison: Comparison, name: str, claim: Claim) -> Readings | None:
    among = [side for prediction in claim.predictions for side in (prediction.x, prediction.y) if isinstance(side, str)]
    try:
        return read(comparison, name, claim.columns, among)
    except KeyError:
        return None


def _decided(one: _Tested) -> Answer:
    verdict = one.difference.verdict
    wanted = "better" if one.prediction.relation == "above" else "worse"
    outcome: Outcome = "holds" if verdict == wanted else "fails" if verdict in ("better", "worse") else "open"
    why = f"{verdict}: {one.difference.reason}" if verdict == "too few seeds" else one.difference.reason
    return Answer(
        one.prediction, one.quantity, outcome, why, one.x, one.y, one.difference.estimate, one.difference.p_value
    )  # fmt: skip


def _against_number(prediction: Prediction, quantity: Quantity, values: np.ndarray, within: float) -> Answer:
    """within: the error that all runs may have in common, as they are measured on the same frames: more seeds do not lessen it."""
    assert not isinstance(prediction.y, str)
    limits = _allowed(prediction, math.log(prediction.y) if prediction.log else prediction.y)
    over_runs = (
        statistics.proportion(values) if quantity.name == "failed" else statistics.interval([values], statistics.mean)
    )
    decides = _widened(over_runs, within)
    outcome, why = _placed(decides, *limits)
    if within:
        why += ", the error that all runs share included"
    return Answer(prediction, quantity, outcome, why, _powers(decides) if prediction.log else decides)


def _powers(of: Interval) -> Interval:
    """Of logarithms, as the numbers they are of: the interval of a geometric mean."""
    return replace(of, estimate=math.exp(of.estimate), low=math.exp(of.low), high=math.exp(of.high))


def _within(prediction: Prediction, readings: Readings, label: str) -> float:
    error = readings.error[label]
    return error / float(readings.values[label].mean()) if prediction.log else error


def _widened(interval: Interval, error: float) -> Interval:
    low, high = (
        interval.estimate + side * math.hypot(end - interval.estimate, statistics.Z * error)
        for side, end in ((-1, interval.low), (1, interval.high))
    )
    return replace(interval, low=low, high=high)


def _paired(
    prediction: Prediction,
    quantity: Quantity,
    sides: Sequence[tuple[Readings, str]],
    shown: tuple[Interval | None, Interval | None],
) -> Answer:
    """Two quantities of the same runs: the mean of their differences, run by run, against 0."""
    by_seed = [dict(zip(one.seeds[label], one.values[label], strict=True)) for one, label in sides]
    both = sorted(set(by_seed[0]) & set(by_seed[1]))
    if not both:
        return Answer(prediction, quantity, "undefined", "no run has both quantities", *shown)
    change = math.log if prediction.log else float
    differences = np.array([change(by_seed[0][seed]) - change(by_seed[1][seed]) for seed in both])
    estimate = statistics.interval([differences], statistics.mean)
    outcome, why = _placed(estimate, *_allowed(prediction, 0.0))
    return Answer(prediction, quantity, outcome, f"{why}, of differences run by run", *shown, estimate)


def _allowed(prediction: Prediction, number: float) -> tuple[float, float, bool]:
    """Between what x, or its difference from y, may lie; and whether the limits themselves are too much: 0 is not above 0."""
    margin = math.log(prediction.margin) if prediction.log and prediction.margin else prediction.margin
    return {
        "above": (number, math.inf, True),
        "below": (-math.inf, number, True),
        "not above": (-math.inf, number + margin, False),
        "not below": (number - margin, math.inf, False),
        "about": (number - margin, number + margin, False),
    }[prediction.relation]


def _placed(interval: Interval, low: float, high: float, strict: bool) -> tuple[Outcome, str]:
    if math.isnan(interval.low):
        return "open", "one run has no interval"
    inside = low < interval.low and interval.high < high if strict else low <= interval.low and interval.high <= high
    if inside:
        return "holds", "its 95% interval lies within what is predicted"
    if interval.high < low or interval.low > high:
        return "fails", "its 95% interval lies outside of what is predicted"
    return "open", "its 95% interval lies across the limit"


def tally(judged: Sequence[Judged]) -> str:
    """ "3 confirmed, 1 refuted, 16 inconclusive"."""
    verdicts = [one.verdict for one in judged]
    return ", ".join(f"{verdicts.count(kind)} {kind.lower()}" for kind in ("CONFIRMED", "REFUTED", "INCONCLUSIVE"))
