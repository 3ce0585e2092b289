"""What may be said about scores of a few runs: aggregates, intervals, and whether one method beats another.

Agarwal et al. 2021, Deep RL at the edge of the statistical precipice, arXiv:2108.13264, with intervals that hold for as few runs
as world models are trained with. Everywhere `scores` is a matrix float [runs, tasks] (a numpy array) or, where tasks differ in runs, a
sequence of 1-d arrays, one a task. Higher is better (negate what is not), and what is averaged over tasks must be on one scale.
Scores that are missing or not finite raise ValueError: leave failed runs out, and say how many there were.
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
"""Results from fewer runs than this say so."""
ENOUGH = 10
"""From so many runs a task on, percentile bootstrap intervals of several tasks are wide enough (Agarwal et al., section 4.1)."""
DRAWS = 10_000
"""Bootstrap samples."""
ARRANGEMENTS = 100_000
"""A permutation test looks at all arrangements if there are no more than these, else at so many random ones."""
Z = 1.959963984540054
"""97.5% quantile of the normal distribution: all intervals are 95% intervals."""

Scores = np.ndarray | Sequence[Any]
Statistic = Callable[[Sequence[np.ndarray]], Any]
"""Maps tasks, float [..., n_k] each, to [...]: `iqm`, `mean`, `median`, `optimality_gap` or your own."""
Verdict = Literal["better", "worse", "indistinguishable", "too few seeds"]


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95% interval. low, high: NaN if a task has one run only; runs: the fewest of any task; method: of
    the interval. Where all runs agree it has no width: no spread was seen, which does not mean that there is none."""

    estimate: float
    low: float
    high: float
    runs: int
    method: str

    @property
    def few(self) -> bool:
        """Whether it must be said that there were few runs."""
        return self.runs < FEW

    def __str__(self) -> str:
        return f"{self.estimate:.4g} [{self.low:.4g}, {self.high:.4g}] (n = {self.runs}{', few' if self.few else ''})"


@dataclass(frozen=True, eq=False)
class Band:
    """Intervals along an axis, each for itself: grid, estimate, low, high float64 [G]; the rest as in `Interval`."""

    grid: np.ndarray
    estimate: np.ndarray
    low: np.ndarray
    high: np.ndarray
    runs: int
    method: str

    @property
    def few(self) -> bool:
        """Whether it must be said that there were few runs."""
        return self.runs < FEW


@dataclass(frozen=True)
class Difference:
    """What is known of x against y. estimate: mean of x minus mean of y; improvement: P(X > Y); p_value: two-sided, of the
    permutation test (exact if all `arrangements` were looked at); smallest_p: no data of so many runs can get below it."""

    estimate: Interval
    improvement: Interval
    p_value: float
    smallest_p: float
    arrangements: int
    exact: bool
    level: float

    @property
    def reversed(self) -> Difference:
        """What is known of y against x."""
        one, won = self.estimate, self.improvement
        return replace(
            self,
            estimate=replace(one, estimate=-one.estimate, low=-one.high, high=-one.low),
            improvement=replace(won, estimate=1 - won.estimate, low=1 - won.high, high=1 - won.low),
        )

    @property
    def verdict(self) -> Verdict:
        """Whether x is better than y at this level. "too few seeds": not even scores that never overlap could have told."""
        if self.p_value <= self.level:
            return "better" if self.estimate.estimate > 0 else "worse"
        return "too few seeds" if self.smallest_p > self.level else "indistinguishable"

    @property
    def reason(self) -> str:
        """Why the verdict is what it is, as one clause."""
        if self.verdict == "too few seeds":
            return f"p cannot fall below {self.smallest_p:.2g} with {self.estimate.runs} runs, {self.level:g} is needed"
        return f"p = {self.p_value:.2g}, {'all' if self.exact else 'random'} {self.arrangements} arrangements"


def iqm(scores: Scores) -> Any:
    """Interquartile mean of all runs of all tasks: a quarter, rounded down to whole runs, is left out at either end.

    So fewer than 4 scores give their mean, and a task with more runs weighs more. Returns a float; tasks with leading
    axes [..., n_k] give [...], here and in the three below.
    """
    ordered = np.sort(np.concatenate(_tasks(scores), axis=-1), axis=-1)
    cut = ordered.shape[-1] // 4
    return ordered[..., cut : ordered.shape[-1] - cut].mean(-1)


def mean(scores: Scores) -> Any:
    """Mean of the tasks' means."""
    return np.mean([task.mean(-1) for task in _tasks(scores)], axis=0)


def median(scores: Scores) -> Any:
    """Median of the tasks' means."""
    return np.median([task.mean(-1) for task in _tasks(scores)], axis=0)


def optimality_gap(scores: Scores, target: float = 1.0) -> Any:
    """How far runs fall short of the target on average; a run above it counts as one at it. Lower is better."""
    return target - mean([np.minimum(task, target) for task in _tasks(scores)])


def bootstrap(scores: Scores, statistic: Statistic, *, draws: int = DRAWS, seed: int = 0) -> Interval:
    """The published standard: percentiles of the statistic over runs drawn anew within each task (Agarwal et al., section 4.1).

    It is too narrow for few runs: no draw leaves the range of the runs, and their spread is underestimated by n / (n - 1). Of normal
    scores of one task the mean's interval holds the truth in 74, 84 and 90% of cases with 3, 5 and 10 runs. See `interval`.
    """
    tasks = _tasks(scores)
    if _fewest(tasks) < 2:
        return Interval(float(statistic(tasks)), np.nan, np.nan, 1, "none: one run")
    low, high = _percentiles(statistic(_resampled(tasks, draws, np.random.default_rng(seed))))
    return Interval(float(statistic(tasks)), float(low), float(high), _fewest(tasks), "percentile bootstrap")


def interval(scores: Scores, statistic: Statistic, *, draws: int = DRAWS, seed: int = 0) -> Interval:
    """The interval a report shows: one that is honest for few runs.

    Several tasks of `ENOUGH` runs: `bootstrap`. Else Student's t with Satterthwaite's degrees of freedom of the stratified
    mean, times the standard error: the exact one for `mean`, else of the statistic over bootstrap samples, whose deviations
    from the task's mean are widened by sqrt(n / (n - 1)) (Davison & Hinkley 1997, chapter 3). How often it held the truth, for
    mean and IQM, in 1,000 simulations each:

        runs x tasks       3 x 1   5 x 1   3 x 2   5 x 2   3 x 5   5 x 5
        normal              95%   95-97%  97-98%  95-96%  96-97%  95-96%   (percentiles: 73-91%)
        exponential       88-94%  89-96%  91-94%  92-93%  93-96%  94-95%   (percentiles: 69-89%)
        70% solve, 30% no 69-88%  83-90%  87%     88-95%  93-97%  92-95%   (percentiles: 61-92%)

    No method repairs the last row's first columns: three runs that all solve a task do not show that some would not.
    """
    tasks = _tasks(scores)
    low, high, method = _limits(tasks, statistic, draws, seed)
    return Interval(float(statistic(tasks)), float(low), float(high), _fewest(tasks), method)


def probability_of_improvement(
    x: Scores, y: Scores, *, method: Literal["score", "bootstrap"] = "score", draws: int = DRAWS, seed: int = 0
) -> Interval:
    """P(a run of x beats one of y), ties half, averaged over tasks: the Mann-Whitney U by n m (Agarwal et al., section 4.3).

    method: of the interval. "bootstrap" draws both sides anew within each task, as published; where all of x beat all of y it
    is [1, 1], with 5 runs a side and a true 0.92 it holds it in 62% of cases. "score" is Newcombe 2006 (Statistics in
    Medicine 25:559, method 5) per task, averaged as in Zou & Donner 2008: 94% there and 86% or more in all simulated
    cases of 3 to 10 runs; 5 runs that all beat 5 others give [0.64, 1].
    """
    xs, ys = _pairs(x, y)
    wins = np.array([_wins(a, b) for a, b in zip(xs, ys)])  # [tasks]
    if method == "score":
        counts = [np.array([len(task) for task in side], float) for side in (xs, ys)]
        low, high = _averaged(
            wins, _improvement_limit(wins, *counts, end=0.0), _improvement_limit(wins, *counts, end=1.0)
        )
    else:
        source = np.random.default_rng(seed)
        drawn = zip(_resampled(xs, draws, source), _resampled(ys, draws, source))
        low, high = _percentiles(np.mean([_wins(a, b) for a, b in drawn], axis=0))
    name = "score" if method == "score" else "percentile bootstrap"
    return Interval(float(wins.mean()), float(low), float(high), _fewest(xs + ys), name)


def difference(x: Scores, y: Scores, *, level: float = 0.05, seed: int = 0) -> Difference:
    """Compare two methods on the same tasks.

    The verdict rests on a permutation test of the difference of means: runs are dealt anew to x and y within each task. Its p
    is exact where all arrangements can be looked at, else (count + 1) / (draws + 1) (Phipson & Smyth 2010). It holds for any
    distribution if the methods do not differ at all, and about so for means if both have the same number of runs. The interval
    is Welch's over tasks, which takes scores for normal: it may exclude 0 where the test can tell nothing (3 runs a side of one
    task: p cannot fall below 0.1). Many comparisons: pass them through `corrected`.
    """
    xs, ys = _pairs(x, y)
    estimate = float(mean(xs) - mean(ys))
    half, method = _student(xs + ys) / len(xs), "Welch t"
    if _fewest(xs + ys) < 2:
        half, method = np.nan, "none: one run"
    shown = Interval(estimate, float(estimate - half), float(estimate + half), _fewest(xs + ys), method)
    p_value, smallest, looked_at, exact = _permutation(xs, ys, seed)
    return Difference(shown, probability_of_improvement(xs, ys), p_value, smallest, looked_at, exact, level)


def holm(p_values: Iterable[float]) -> np.ndarray:
    """Adjust p-values [m] for being looked at together: with probability 1 - level, all that end at most at the level are real.

    Returns: float64 [m] in the order given. Holm 1979, a sequentially rejective multiple test procedure.
    """
    raw = np.asarray(list(p_values), float)
    order = np.argsort(raw, kind="stable")
    stepped = np.maximum.accumulate(raw[order] * np.arange(len(raw), 0, -1))
    adjusted = np.empty_like(raw)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def corrected(differences: Sequence[Difference]) -> tuple[Difference, ...]:
    """The same comparisons with p-values adjusted by `holm` for being made together, and the verdicts that follow.

    smallest_p becomes what the adjusted p would be had this comparison come out as clearly as it can and the others as they
    did: with 5 seeds a side, one task and more than 6 comparisons, a first difference cannot be found ("too few seeds").
    """
    raw = [one.p_value for one in differences]
    found = []
    for k, (one, p_value) in enumerate(zip(differences, holm(raw))):
        best = holm([*raw[:k], one.smallest_p, *raw[k + 1 :]])[k]
        found.append(replace(one, p_value=float(p_value), smallest_p=float(best)))
    return tuple(found)


def share(hits: Sequence[float] | np.ndarray) -> Interval:
    """How many of some runs did: the share of ones among zeros and ones [n], with Wilson's 1927 score interval.

    Of five runs of which none failed, up to 43% might: no spread was seen, which does not mean that there is none.
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
    """The share of runs above each threshold, averaged over tasks (Agarwal et al., section 4.2), with a pointwise band.

    thresholds: [G]. method: "bootstrap" draws runs anew within each task, as published, and has no width where every run is on one
    side: with 3 to 10 runs of 1 to 5 tasks it held the true share in 18 to 97% of simulated cases. "score" is Wilson's interval
    per task, averaged as in Zou & Donner 2008: 89 to 100%.
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
    """Learning curves of several seeds of one task as one: `interval` at each point of the grid [G].

    curves: (step, value) pairs each. A curve has at each point the value it last had, also after its end; before all curves
    have one, the band is NaN.
    """
    points, at = [np.array(sorted(curve, key=itemgetter(0)), float) for curve in curves], np.asarray(grid, float)
    if not points or any(curve.ndim != 2 or not np.isfinite(curve).all() for curve in points):
        raise ValueError("curve_band needs curves of finite (step, value) pairs, at least one pair each")
    begun = at >= max(curve[0, 0] for curve in points)
    held = [curve[np.searchsorted(curve[:, 0], at[begun], side="right") - 1, 1] for curve in points]
    tasks = [np.stack(held, axis=-1)]  # [points, seeds]
    low, high, method = _limits(tasks, statistic, draws, seed)
    band = np.full((3, len(at)), np.nan)
    band[:, begun] = statistic(tasks), low, high
    return Band(at, band[0], band[1], band[2], len(points), method)


def _tasks(scores: Scores) -> list[np.ndarray]:
    """The scores of each task, float64 [..., n_k]."""
    if isinstance(scores, np.ndarray) and scores.ndim == 2:
        scores = list(scores.T)
    elif len(scores) and np.ndim(scores[0]) == 0:
        scores = [np.asarray(scores)]
    tasks = [np.asarray(task, float) for task in scores]
    if not tasks or any(task.shape[-1] == 0 for task in tasks):
        raise ValueError("every task needs a score")
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


def _resampled(tasks: Sequence[np.ndarray], draws: int, source: np.random.Generator) -> list[np.ndarray]:
    """Runs [..., n] drawn anew within each task: [..., draws, n]."""
    return [task[..., source.integers(task.shape[-1], size=(draws, task.shape[-1]))] for task in tasks]


def _percentiles(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    low, high = np.quantile(values, [0.025, 0.975], axis=-1)
    return low, high


def _limits(tasks: list[np.ndarray], statistic: Statistic, draws: int, seed: int) -> tuple[Any, Any, str]:
    """Both ends of `interval`, [...] for tasks [..., n], and its method."""
    estimate, runs = statistic(tasks), _fewest(tasks)
    if runs < 2:
        return np.full_like(estimate, np.nan), np.full_like(estimate, np.nan), "none: one run"
    source = np.random.default_rng(seed)
    if len(tasks) > 1 and runs >= ENOUGH:
        return *_percentiles(statistic(_resampled(tasks, draws, source))), "percentile bootstrap"
    if statistic is mean:
        half = _student(tasks) / len(tasks)
        return estimate - half, estimate + half, "Student t"
    centres = [task.mean(-1, keepdims=True) for task in tasks]
    widened = [c + (t - c) * math.sqrt(t.shape[-1] / (t.shape[-1] - 1)) for t, c in zip(tasks, centres)]
    error = statistic(_resampled(widened, draws, source)).std(-1)
    half = _student(tasks, error)
    return estimate - half, estimate + half, "bootstrap t"


def _student(samples: Sequence[np.ndarray], error: np.ndarray | None = None) -> np.ndarray:
    """97.5% quantile of Student's t times the error (that of the sum of the samples' means); 0 where no sample varies.

    samples: float [..., n_k], n_k > 1. The degrees of freedom are Satterthwaite's for the sum of the means.
    """
    from scipy.special import stdtrit

    if _fewest(samples) < 2:
        return np.full(samples[0].shape[:-1], np.nan)
    parts = np.array([sample.var(-1, ddof=1) / sample.shape[-1] for sample in samples])  # [samples, ...]
    freedom = np.array([sample.shape[-1] - 1 for sample in samples]).reshape(-1, *[1] * (parts.ndim - 1))
    total = parts.sum(0)
    # Shares instead of squares of variances, which underflow for scores of a small scale.
    shares = parts / np.where(total > 0, total, 1)
    inverse = (shares**2 / freedom).sum(0)
    quantile = stdtrit(1 / np.where(total > 0, inverse, 1), 0.975)
    return np.where(total > 0, quantile * (np.sqrt(total) if error is None else error), 0.0)


def _wins(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The share of pairs of runs in which x [..., n] is above y [..., m], ties half."""
    return 0.5 + 0.5 * np.sign(x[..., :, None] - y[..., None, :]).mean((-2, -1))


def _improvement_limit(wins: np.ndarray, n: np.ndarray, m: np.ndarray, *, end: float) -> np.ndarray:
    """Newcombe's method 5: the probability between `wins` and `end` that is Z of its own standard errors from `wins` [tasks]."""
    near, far = wins.copy(), np.full_like(wins, end)
    pairs = (n + m) / 2 - 1
    for _ in range(40):
        p = (near + far) / 2
        variance = p * (1 - p) * (1 + pairs * (1 - p) / (2 - p) + pairs * p / (1 + p)) / (n * m)
        outside = np.abs(p - wins) > Z * np.sqrt(variance)
        near, far = np.where(outside, near, p), np.where(outside, p, far)
    return (near + far) / 2


def _wilson(shares: np.ndarray, runs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's 1927 score interval of shares of runs."""
    weight = Z**2 / runs
    half = np.sqrt(weight * shares * (1 - shares) + weight**2 / 4)
    return (shares + weight / 2 - half) / (1 + weight), (shares + weight / 2 + half) / (1 + weight)


def _averaged(values: np.ndarray, lows: np.ndarray, highs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The interval of the average over tasks [tasks, ...] from the tasks' own (Zou & Donner 2008, Statistics in Medicine 27:1693)."""
    centre, tasks = values.mean(0), len(values)
    return (
        np.maximum(centre - np.sqrt(((values - lows) ** 2).sum(0)) / tasks, 0.0),
        np.minimum(centre + np.sqrt(((highs - values) ** 2).sum(0)) / tasks, 1.0),
    )


def _permutation(xs: list[np.ndarray], ys: list[np.ndarray], seed: int) -> tuple[float, float, int, bool]:
    """Two-sided p of the difference of means, the smallest it can be, the arrangements looked at, whether these were all."""
    both = list(zip(xs, ys))
    # A task in which all runs agree tells nothing, and would make p look able to be smaller than it is.
    both = [(x, y) for x, y in both if np.ptp(np.concatenate([x, y])) > 0] or both
    total = math.prod(math.comb(len(x) + len(y), len(x)) for x, y in both)
    exact, source = total <= ARRANGEMENTS, np.random.default_rng(seed)
    observed, found = 0.0, np.zeros(1 if exact else ARRANGEMENTS)
    for x, y in both:
        pooled = np.concatenate([x, y])
        pooled = pooled - pooled.mean()
        # With a mean of 0 the difference of means is the sum over x times this.
        scale = 1 / len(x) + 1 / len(y)
        observed += scale * pooled[: len(x)].sum()
        if exact:
            dealt = np.array(list(combinations(pooled, len(x)))).sum(-1)
            found = np.add.outer(found, scale * dealt).ravel()
        else:
            shuffled = source.permuted(np.broadcast_to(pooled, (ARRANGEMENTS, len(pooled))), axis=-1)
            found += scale * shuffled[:, : len(x)].sum(-1)
    reached = int(np.count_nonzero(np.abs(found) >= abs(observed) - 1e-9 * np.abs(found).max()))
    smallest = smallest_p([(len(x), len(y)) for x, y in both])
    if exact:
        return reached / total, smallest, total, True
    return (reached + 1) / (ARRANGEMENTS + 1), smallest, ARRANGEMENTS, False


def smallest_p(runs: Sequence[tuple[int, int]]) -> float:
    """The smallest two-sided p that a permutation test of so many runs of x and of y, a pair a task, can give."""
    total = math.prod(math.comb(x + y, x) for x, y in runs)
    mirrored = all(x == y for x, y in runs)  # then exchanging the sides is as far from 0
    least = 1 / (ARRANGEMENTS + 1) if total > ARRANGEMENTS else 0.0
    return max(min((2 if mirrored else 1) / total, 1.0), least)
