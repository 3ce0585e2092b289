"""Statistics of the scores of a few runs: aggregates, confidence intervals and tests of differences between methods.

The methods follow Agarwal et al. 2021, Deep RL at the edge of the statistical precipice, arXiv:2108.13264, with
intervals that keep their coverage for 3 to 10 runs. `scores` is always a numpy array float [runs, tasks] or, if tasks
have different numbers of runs, a sequence of 1-d arrays, one per task. Higher scores are better (negate the others).
Averages over tasks need scores on one scale. Missing and non-finite scores raise ValueError: leave failed runs out and
report their number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from operator import itemgetter
from typing import Any, Literal

import numpy as np

FEW = 5
"""Results from fewer runs than this are marked "few"."""
ENOUGH = 10
"""The minimum runs per task for percentile bootstrap intervals over several tasks (Agarwal et al., section 4.1)."""
DRAWS = 10_000
"""Number of bootstrap samples."""
ARRANGEMENTS = 100_000
"""A permutation test enumerates all arrangements up to this number, else it samples this number of random ones."""
Z = 1.959963984540054
"""The 97.5% quantile of the normal distribution. All intervals are 95% intervals."""

Scores = np.ndarray | Sequence[Any]
Statistic = Callable[[Sequence[np.ndarray]], Any]
"""A function of tasks, float [..., n_k] each, that returns [...], such as `iqm` or `mean`."""
Verdict = Literal["better", "worse", "indistinguishable", "too few seeds"]


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95% interval.

    low, high: NaN if a task has only one run. runs: the smallest number of runs of any task. method: the name of the
    interval. If all runs have the same score, the interval has zero width, which does not prove that the spread is
    zero.
    """

    estimate: float
    low: float
    high: float
    runs: int
    method: str

    @property
    def few(self) -> bool:
        """Whether there are fewer runs than FEW."""
        return self.runs < FEW

    def __str__(self) -> str:
        return f"{self.estimate:.4g} [{self.low:.4g}, {self.high:.4g}] (n = {self.runs}{', few' if self.few else ''})"


@dataclass(frozen=True, eq=False)
class Band:
    """Pointwise intervals along an axis. grid, estimate, low, high: float64 [G]. runs, method: as in `Interval`."""

    grid: np.ndarray
    estimate: np.ndarray
    low: np.ndarray
    high: np.ndarray
    runs: int
    method: str

    @property
    def few(self) -> bool:
        """Whether there are fewer runs than FEW."""
        return self.runs < FEW


@dataclass(frozen=True)
class Difference:
    """The comparison of a method x with a method y.

    estimate: mean of x minus mean of y. improvement: P(X > Y). p_value: two-sided, of the permutation test.
    smallest_p: the smallest p that any scores of as many runs can give. arrangements: how many the test used. exact:
    whether these are all. level: the significance level of the verdict.
    """

    estimate: Interval
    improvement: Interval
    p_value: float
    smallest_p: float
    arrangements: int
    exact: bool
    level: float

    @property
    def reversed(self) -> Difference:
        """The comparison of y with x."""
        estimate, improvement = self.estimate, self.improvement
        return replace(
            self,
            estimate=replace(estimate, estimate=-estimate.estimate, low=-estimate.high, high=-estimate.low),
            improvement=replace(
                improvement, estimate=1 - improvement.estimate, low=1 - improvement.high, high=1 - improvement.low
            ),
        )

    @property
    def verdict(self) -> Verdict:
        """Whether x is better than y at this level. "too few seeds": no scores of as many runs can be significant."""
        if self.p_value <= self.level:
            return "better" if self.estimate.estimate > 0 else "worse"
        return "too few seeds" if self.smallest_p > self.level else "indistinguishable"

    @property
    def reason(self) -> str:
        """The reason for the verdict, as one clause."""
        if self.verdict == "too few seeds":
            return f"p cannot fall below {self.smallest_p:.2g} with {self.estimate.runs} runs, {self.level:g} is needed"
        return f"p = {self.p_value:.2g}, {'all' if self.exact else 'random'} {self.arrangements} arrangements"


def iqm(scores: Scores) -> Any:
    """Return the interquartile mean of all runs of all tasks.

    It drops a quarter of the runs, rounded down, at either end.
    For fewer than 4 scores this is the mean. Tasks with more runs have more weight. Returns a float; for tasks with
    leading axes [..., n_k] the result is [...], as in `mean`, `median` and `optimality_gap`.
    """
    ordered = np.sort(np.concatenate(_tasks(scores), axis=-1), axis=-1)
    cut = ordered.shape[-1] // 4
    return ordered[..., cut : ordered.shape[-1] - cut].mean(-1)


def mean(scores: Scores) -> Any:
    """Return the mean of the tasks' means."""
    return np.mean([task.mean(-1) for task in _tasks(scores)], axis=0)


def median(scores: Scores) -> Any:
    """Return the median of the tasks' means."""
    return np.median([task.mean(-1) for task in _tasks(scores)], axis=0)


def optimality_gap(scores: Scores, target: float = 1.0) -> Any:
    """Return the mean shortfall of runs from the target; a run above it has shortfall 0. Lower is better."""
    return target - mean([np.minimum(task, target) for task in _tasks(scores)])


def bootstrap(scores: Scores, statistic: Statistic, *, draws: int = DRAWS, seed: int = 0) -> Interval:
    """Return the percentile bootstrap interval, stratified by task (Agarwal et al., section 4.1).

    It resamples runs within each task. It is too narrow for few runs: samples stay within the range of the runs, and
    underestimate their variance by a factor of n / (n - 1). For normal scores of one task, its interval of the mean
    covers the truth in 74, 84 and 90% of cases with 3, 5 and 10 runs. See `interval`.
    """
    tasks = _tasks(scores)
    if _fewest(tasks) < 2:
        return Interval(float(statistic(tasks)), np.nan, np.nan, 1, "none: one run")
    low, high = _percentiles(statistic(_resampled(tasks, draws, np.random.default_rng(seed))))
    return Interval(float(statistic(tasks)), float(low), float(high), _fewest(tasks), "percentile bootstrap")


def interval(scores: Scores, statistic: Statistic, *, draws: int = DRAWS, seed: int = 0) -> Interval:
    """Return the interval that reports show. It keeps its coverage for few runs.

    For several tasks with at least `ENOUGH` runs each this is `bootstrap`. Else it is the estimate plus or minus a
    standard error times a quantile of Student's t, with Satterthwaite's degrees of freedom for the stratified mean.
    For `mean` the standard error is exact. For other statistics it comes from bootstrap samples, whose deviations from
    the task's mean are scaled by sqrt(n / (n - 1)) (Davison & Hinkley 1997, chapter 3). Coverage of the truth in 1,000
    simulations each, for mean and IQM:

        runs x tasks       3 x 1   5 x 1   3 x 2   5 x 2   3 x 5   5 x 5
        normal              95%   95-97%  97-98%  95-96%  96-97%  95-96%   (percentiles: 73-91%)
        exponential       88-94%  89-96%  91-94%  92-93%  93-96%  94-95%   (percentiles: 69-89%)
        70% solve, 30% no 69-88%  83-90%  87%     88-95%  93-97%  92-95%   (percentiles: 61-92%)

    No method can fix the first columns of the last row: three runs that all solve a task do not show that others would
    fail.
    """
    tasks = _tasks(scores)
    low, high, method = _limits(tasks, statistic, draws, seed)
    return Interval(float(statistic(tasks)), float(low), float(high), _fewest(tasks), method)


def probability_of_improvement(
    x: Scores, y: Scores, *, method: Literal["score", "bootstrap"] = "score", draws: int = DRAWS, seed: int = 0
) -> Interval:
    """Return P(a run of x scores above a run of y), averaged over tasks; ties count half (Agarwal et al., section 4.3).

    This is the Mann-Whitney U divided by n m. method: of the interval. "bootstrap" resamples both sides within each
    task, as published. If all runs of x score above all of y, it is [1, 1]; with 5 runs per side and a true value of
    0.92 it covers the truth in 62% of cases. "score" is Newcombe 2006 (Statistics in Medicine 25:559, method 5) per
    task, averaged as in Zou & Donner 2008. Its coverage is 94% in that case and at least 86% in all simulated cases of
    3 to 10 runs; if all 5 runs of x score above all 5 of y, it is [0.64, 1].
    """
    xs, ys = _pairs(x, y)
    wins = np.array([_wins(a, b) for a, b in zip(xs, ys)])  # [tasks]
    if method == "score":
        counts = [np.array([len(task) for task in side], float) for side in (xs, ys)]
        low, high = _averaged(
            wins, _improvement_limit(wins, *counts, end=0.0), _improvement_limit(wins, *counts, end=1.0)
        )
    else:
        rng = np.random.default_rng(seed)
        drawn = zip(_resampled(xs, draws, rng), _resampled(ys, draws, rng))
        low, high = _percentiles(np.mean([_wins(a, b) for a, b in drawn], axis=0))
    name = "score" if method == "score" else "percentile bootstrap"
    return Interval(float(wins.mean()), float(low), float(high), _fewest(xs + ys), name)


def difference(x: Scores, y: Scores, *, level: float = 0.05, seed: int = 0) -> Difference:
    """Compare two methods on the same tasks.

    The verdict comes from a permutation test of the difference of means, which permutes runs between x and y within
    each task. Its p is exact if all arrangements can be enumerated, else (count + 1) / (draws + 1) (Phipson & Smyth
    2010). The test is valid for any distribution if x and y have the same distribution, and approximately valid for
    equal means if both have the same number of runs. The interval is Welch's over tasks, which assumes normal scores.
    It may exclude 0 where the test cannot be significant (with 3 runs per side of one task p cannot fall below 0.1).
    Use `apply_holm` for several comparisons.
    """
    xs, ys = _pairs(x, y)
    estimate = float(mean(xs) - mean(ys))
    half, method = _student(xs + ys) / len(xs), "Welch t"
    if _fewest(xs + ys) < 2:
        half, method = np.nan, "none: one run"
    shown = Interval(estimate, float(estimate - half), float(estimate + half), _fewest(xs + ys), method)
    p_value, smallest, used, exact = _permutation(xs, ys, seed)
    return Difference(shown, probability_of_improvement(xs, ys), p_value, smallest, used, exact, level)


def holm(p_values: Iterable[float]) -> np.ndarray:
    """Adjust p-values [m] for multiple comparisons, controlling the family-wise error rate.

    With a probability of at least 1 - level, no true null hypothesis has an adjusted p-value at or below the level.
    Returns: float64 [m] in the given order. Holm 1979, a sequentially rejective multiple test procedure.
    """
    raw = np.asarray(list(p_values), float)
    order = np.argsort(raw, kind="stable")
    stepped = np.maximum.accumulate(raw[order] * np.arange(len(raw), 0, -1))
    adjusted = np.empty_like(raw)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def apply_holm(differences: Sequence[Difference]) -> tuple[Difference, ...]:
    """Return a family of comparisons with p-values adjusted by `holm`, which also adjusts their verdicts.

    smallest_p becomes the smallest adjusted p that the comparison could have, given the p-values of the others. With 5
    seeds per side, one task and more than 6 comparisons, no first difference can be significant ("too few seeds").
    """
    raw = [comparison.p_value for comparison in differences]
    adjusted = []
    for k, (comparison, p_value) in enumerate(zip(differences, holm(raw))):
        best = holm([*raw[:k], comparison.smallest_p, *raw[k + 1 :]])[k]
        adjusted.append(replace(comparison, p_value=float(p_value), smallest_p=float(best)))
    return tuple(adjusted)


def proportion(hits: Sequence[float] | np.ndarray) -> Interval:
    """Return the proportion of ones among zeros and ones [n], with Wilson's 1927 score interval.

    If none of five runs failed, the interval reaches up to 43%.
    """
    (values,) = _tasks([np.asarray(hits, float)])
    low, high = _wilson(values.mean(keepdims=True), np.array([float(len(values))]))
    return Interval(float(values.mean()), float(low[0]), float(high[0]), len(values), "score")


def performance_profile(
    scores: Scores,
    thresholds: Sequence[float] | np.ndarray,
    *,
    method: Literal["score", "bootstrap"] = "score",
    draws: int = DRAWS,
    seed: int = 0,
) -> Band:
    """Return the fraction of runs above each threshold, averaged over tasks (Agarwal et al., section 4.2).

    thresholds: [G]. method: of the pointwise band. "bootstrap" resamples runs within each task, as published. It has
    zero width where every run is on the same side: with 3 to 10 runs of 1 to 5 tasks it covers the true fraction in 18
    to 97% of simulated cases. "score" is Wilson's interval per task, averaged as in Zou & Donner 2008; it covers it in
    89 to 100%.
    """
    tasks, grid = _tasks(scores), np.asarray(thresholds, float)
    shares = np.array([(task[:, None] > grid).mean(0) for task in tasks])  # [tasks, G]
    if method == "score":
        runs = np.array([[len(task)] for task in tasks], float)
        low, high = _averaged(shares, *_wilson(shares, runs))
    else:
        drawn = _resampled(tasks, draws, np.random.default_rng(seed))
        above = sum((task[..., None] > grid).mean(1) for task in drawn)  # [draws, G]
        low, high = _percentiles(np.asarray(above).T / len(tasks))
    name = "score" if method == "score" else "percentile bootstrap"
    return Band(grid, shares.mean(0), low, high, _fewest(tasks), name)


def curve_band(
    curves: Sequence[Sequence[tuple[float, float]]],
    grid: Sequence[float] | np.ndarray,
    statistic: Statistic = mean,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Band:
    """Return the `interval` of several seeds' learning curves on one task, at each point of the grid [G].

    curves: (step, value) pairs each. A curve keeps its last value until the next one, also after its end. The band is
    NaN where a curve has not started yet.
    """
    points, at = [np.array(sorted(curve, key=itemgetter(0)), float) for curve in curves], np.asarray(grid, float)
    if not points or any(curve.ndim != 2 or not np.isfinite(curve).all() for curve in points):
        raise ValueError("curve_band needs curves of finite (step, value) pairs, at least one pair each")
    started = at >= max(curve[0, 0] for curve in points)
    values = [curve[np.searchsorted(curve[:, 0], at[started], side="right") - 1, 1] for curve in points]
    tasks = [np.stack(values, axis=-1)]  # [points, seeds]
    low, high, method = _limits(tasks, statistic, draws, seed)
    band = np.full((3, len(at)), np.nan)
    band[:, started] = statistic(tasks), low, high
    return Band(at, band[0], band[1], band[2], len(points), method)


def _tasks(scores: Scores) -> list[np.ndarray]:
    """Return the scores of each task, float64 [..., n_k]."""
    if isinstance(scores, np.ndarray) and scores.ndim == 2:
        scores = list(scores.T)
    elif len(scores) and np.ndim(scores[0]) == 0:
        scores = [np.asarray(scores)]
    tasks = [np.asarray(task, float) for task in scores]
    if not tasks or any(task.shape[-1] == 0 for task in tasks):
        raise ValueError("every task needs at least one score")
    if not all(np.isfinite(task).all() for task in tasks):
        raise ValueError("scores must be finite: leave failed runs out")
    return tasks


def _pairs(x: Scores, y: Scores) -> tuple[list[np.ndarray], list[np.ndarray]]:
    xs, ys = _tasks(x), _tasks(y)
    if len(xs) != len(ys):
        raise ValueError(f"both methods need scores of the same tasks, not of {len(xs)} and {len(ys)}")
    return xs, ys


def _fewest(tasks: Sequence[np.ndarray]) -> int:
    return min(task.shape[-1] for task in tasks)


def _resampled(tasks: Sequence[np.ndarray], draws: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Resample runs [..., n] within each task, with replacement. Returns: [..., draws, n] per task."""
    return [task[..., rng.integers(task.shape[-1], size=(draws, task.shape[-1]))] for task in tasks]


def _percentiles(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    low, high = np.quantile(values, [0.025, 0.975], axis=-1)
    return low, high


def _limits(tasks: list[np.ndarray], statistic: Statistic, draws: int, seed: int) -> tuple[Any, Any, str]:
    """Return both ends of `interval`, [...] for tasks [..., n], and its method."""
    estimate, runs = statistic(tasks), _fewest(tasks)
    if runs < 2:
        return np.full_like(estimate, np.nan), np.full_like(estimate, np.nan), "none: one run"
    rng = np.random.default_rng(seed)
    if len(tasks) > 1 and runs >= ENOUGH:
        return *_percentiles(statistic(_resampled(tasks, draws, rng))), "percentile bootstrap"
    if statistic is mean:
        half = _student(tasks) / len(tasks)
        return estimate - half, estimate + half, "Student t"
    centres = [task.mean(-1, keepdims=True) for task in tasks]
    widened = [c + (t - c) * math.sqrt(t.shape[-1] / (t.shape[-1] - 1)) for t, c in zip(tasks, centres)]
    error = statistic(_resampled(widened, draws, rng)).std(-1)
    half = _student(tasks, error)
    return estimate - half, estimate + half, "bootstrap t"


def _student(samples: Sequence[np.ndarray], error: np.ndarray | None = None) -> np.ndarray:
    """Return the 97.5% quantile of Student's t times the error; 0 where no sample varies.

    samples: float [..., n_k], n_k > 1. error: by default the standard error of the sum of the samples' means. The
    degrees of freedom are Satterthwaite's for that sum.
    """
    from scipy.special import stdtrit

    if _fewest(samples) < 2:
        return np.full(samples[0].shape[:-1], np.nan)
    parts = np.array([sample.var(-1, ddof=1) / sample.shape[-1] for sample in samples])  # [samples, ...]
    freedom = np.array([sample.shape[-1] - 1 for sample in samples]).reshape(-1, *[1] * (parts.ndim - 1))
    total = parts.sum(0)
    # Normalised, as the squares of the variances would underflow for scores of a small scale.
    shares = parts / np.where(total > 0, total, 1)
    inverse = (shares**2 / freedom).sum(0)
    quantile = stdtrit(1 / np.where(total > 0, inverse, 1), 0.975)
    return np.where(total > 0, quantile * (np.sqrt(total) if error is None else error), 0.0)


def _wins(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the fraction of pairs of runs in which x [..., n] is above y [..., m]; ties count half."""
    return 0.5 + 0.5 * np.sign(x[..., :, None] - y[..., None, :]).mean((-2, -1))


def _improvement_limit(wins: np.ndarray, n: np.ndarray, m: np.ndarray, *, end: float) -> np.ndarray:
    """Return the limit [tasks] of Newcombe's method 5.

    It is the probability between `wins` and `end` whose distance from `wins` is Z times its own standard error.
    """
    near, far = wins.copy(), np.full_like(wins, end)
    pairs = (n + m) / 2 - 1
    for _ in range(40):
        p = (near + far) / 2
        variance = p * (1 - p) * (1 + pairs * (1 - p) / (2 - p) + pairs * p / (1 + p)) / (n * m)
        outside = np.abs(p - wins) > Z * np.sqrt(variance)
        near, far = np.where(outside, near, p), np.where(outside, p, far)
    return (near + far) / 2


def _wilson(shares: np.ndarray, runs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return Wilson's 1927 score interval of proportions of runs."""
    weight = Z**2 / runs
    half = np.sqrt(weight * shares * (1 - shares) + weight**2 / 4)
    return (shares + weight / 2 - half) / (1 + weight), (shares + weight / 2 + half) / (1 + weight)


def _averaged(values: np.ndarray, lows: np.ndarray, highs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Combine the intervals of tasks [tasks, ...] into the interval of their average.

    Zou & Donner 2008, Statistics in Medicine 27:1693.
    """
    centre, tasks = values.mean(0), len(values)
    return (
        np.maximum(centre - np.sqrt(((values - lows) ** 2).sum(0)) / tasks, 0.0),
        np.minimum(centre + np.sqrt(((highs - values) ** 2).sum(0)) / tasks, 1.0),
    )


def _permutation(xs: list[np.ndarray], ys: list[np.ndarray], seed: int) -> tuple[float, float, int, bool]:
    """Return the two-sided p, its smallest possible value, the number of arrangements, and whether these are all."""
    both = list(zip(xs, ys))
    # A task in which all runs agree carries no information, and would make smallest_p too small.
    both = [(x, y) for x, y in both if np.ptp(np.concatenate([x, y])) > 0] or both
    total = math.prod(math.comb(len(x) + len(y), len(x)) for x, y in both)
    exact, rng = total <= ARRANGEMENTS, np.random.default_rng(seed)
    observed, sums = 0.0, np.zeros(1 if exact else ARRANGEMENTS)
    for x, y in both:
        pooled = np.concatenate([x, y])
        pooled = pooled - pooled.mean()
        # With a pooled mean of 0 the difference of means is the sum over x times this scale.
        scale = 1 / len(x) + 1 / len(y)
        observed += scale * pooled[: len(x)].sum()
        if exact:
            x_sums = np.array(list(combinations(pooled, len(x)))).sum(-1)
            sums = np.add.outer(sums, scale * x_sums).ravel()
        else:
            shuffled = rng.permuted(np.broadcast_to(pooled, (ARRANGEMENTS, len(pooled))), axis=-1)
            sums += scale * shuffled[:, : len(x)].sum(-1)
    extreme = int(np.count_nonzero(np.abs(sums) >= abs(observed) - 1e-9 * np.abs(sums).max()))
    smallest = smallest_p([(len(x), len(y)) for x, y in both])
    if exact:
        return extreme / total, smallest, total, True
    return (extreme + 1) / (ARRANGEMENTS + 1), smallest, ARRANGEMENTS, False


def smallest_p(runs: Sequence[tuple[int, int]]) -> float:
    """Return the smallest two-sided p that a permutation test can give. runs: of x and y, a pair per task."""
    total = math.prod(math.comb(x + y, x) for x, y in runs)
    mirrored = all(x == y for x, y in runs)  # then the swapped arrangement has the same distance from 0
    least = 1 / (ARRANGEMENTS + 1) if total > ARRANGEMENTS else 0.0
    return max(min((2 if mirrored else 1) / total, 1.0), least)
