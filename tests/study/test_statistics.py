"""worldlab.study.statistics: published numbers, rliable's numbers, hand-counted arrangements,
and the coverage of intervals."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from worldlab.study import statistics
from worldlab.study.statistics import (
    apply_holm,
    bootstrap,
    curve_band,
    difference,
    holm,
    interval,
    iqm,
    mean,
    median,
    optimality_gap,
    performance_profile,
    probability_of_improvement,
)

ATARI = json.loads((Path(__file__).parent / "data" / "atari100k.json").read_text(encoding="utf-8"))
"""Published returns of two agents, 5 runs per game, and rliable's results for them (its version is in the file)."""
AGGREGATES = {"mean": mean, "median": median, "iqm": iqm, "optimality_gap": optimality_gap}
LOW, HIGH = np.arange(5.0), np.arange(5.0) + 10


def human_normalised(method: str) -> np.ndarray:
    """Return human-normalised scores [5 runs, 26 games]."""
    games = ATARI["games"].values()
    scores = [(np.array(game[method]) - game["random"]) / (game["human"] - game["random"]) for game in games]
    return np.stack(scores, axis=1)


# ---- published numbers ----


@pytest.mark.parametrize(
    ("method", "published"),
    [
        ("IRIS", {"mean": "1.046", "median": "0.289", "iqm": "0.501", "optimality_gap": "0.512"}),  # arXiv:2209.00588
        ("DIAMOND", {"mean": "1.459", "iqm": "0.641"}),  # arXiv:2405.12399
    ],
)
def test_published_aggregates_of_atari_100k(method, published):
    scores = human_normalised(method)
    assert {name: f"{AGGREGATES[name](scores):.3f}" for name in published} == published


@pytest.mark.parametrize("method", ["IRIS", "DIAMOND"])
@pytest.mark.parametrize("name", AGGREGATES)
def test_aggregates_and_bootstrap_agree_with_rliable(method, name):
    estimate, low, high = ATARI["aggregates"][method][name]
    found = bootstrap(human_normalised(method), AGGREGATES[name], draws=4000)
    assert found.estimate == pytest.approx(estimate, rel=1e-12)
    noise = 0.04 * (high - low)  # 4 standard errors of a percentile of 4,000 draws
    assert (found.low, found.high) == pytest.approx((low, high), abs=noise)
    assert found.runs == 5 and not found.few


def test_probability_of_improvement_agrees_with_rliable():
    x, y = human_normalised("DIAMOND"), human_normalised("IRIS")
    estimate, low, high = ATARI["improvement"]["DIAMOND over IRIS"]
    found = probability_of_improvement(x, y, method="bootstrap", draws=4000)
    assert found.estimate == pytest.approx(estimate, rel=1e-12)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.06 * (high - low))
    fewer = ATARI["improvement"]["DIAMOND's first 3 runs over IRIS"]
    found = probability_of_improvement(x[:3], y)
    assert found.estimate == pytest.approx(fewer[0], rel=1e-12) and found.runs == 3 and found.few


def test_performance_profile_agrees_with_rliable():
    oracle = ATARI["profile"]
    found = performance_profile(human_normalised("DIAMOND"), oracle["thresholds"], method="bootstrap", draws=4000)
    np.testing.assert_allclose(found.estimate, oracle["estimate"], rtol=1e-12)
    step = 1 / (5 * 26)  # shares of runs are whole runs: percentiles may be one apart
    np.testing.assert_allclose(found.low, oracle["low"], atol=1.01 * step)
    np.testing.assert_allclose(found.high, oracle["high"], atol=1.01 * step)


def test_values_of_rliables_own_tests():
    x, y = np.array([[1, 2], [2, 2], [1, 1], [2, 1]]), np.array([[1, 1], [2, 2], [3, 3]])
    assert [mean(x), median(x), iqm(x)] == [1.5, 1.5, 1.5] and [mean(y), median(y), iqm(y)] == [2, 2, 2]
    assert probability_of_improvement(x, y).estimate == pytest.approx(1 / 3)


# ---- aggregates ----


@pytest.mark.parametrize("sizes", [(1,), (3,), (4,), (5,), (8,), (5, 5), (3, 5, 2)])
def test_iqm_is_a_trimmed_mean_of_all_runs(sizes):
    tasks = [np.random.default_rng(n).normal(0, 9, n) for n in sizes]
    assert iqm(tasks) == pytest.approx(scipy.stats.trim_mean(np.concatenate(tasks), 0.25), rel=1e-12)


def test_tasks_have_equal_weight_for_any_number_of_runs():
    tasks = [np.array([0.0, 1.0]), np.array([1.0, 2.0, 6.0, 3.0]), np.array([10.0])]
    assert mean(tasks) == pytest.approx((0.5 + 3 + 10) / 3)
    assert median(tasks) == 3
    assert optimality_gap(tasks) == pytest.approx(1 - (0.5 + 1 + 1) / 3)
    assert optimality_gap(tasks, target=3.0) == pytest.approx(3 - (0.5 + 9 / 4 + 3) / 3)


@pytest.mark.parametrize("statistic", AGGREGATES.values())
def test_statistics_of_many_samples_at_once(statistic):
    source = np.random.default_rng(1)
    tasks = [source.normal(size=(2, 3, 5)), source.normal(size=(2, 3, 4))]
    one_by_one = [[statistic([tasks[0][i, j], tasks[1][i, j]]) for j in range(3)] for i in range(2)]
    np.testing.assert_allclose(statistic(tasks), one_by_one, rtol=1e-12)


@pytest.mark.parametrize("scores", [[], [np.array([])], [np.array([1.0, np.nan])], np.array([[1.0], [np.inf]])])
def test_missing_scores_are_an_error(scores):
    with pytest.raises(ValueError, match="score"):
        mean(scores)
    with pytest.raises(ValueError, match="score"):
        difference(scores, scores)


def test_a_list_of_numbers_is_one_task():
    assert median([1.0, 2.0, 6.0]) == 3 == median(np.array([1.0, 2.0, 6.0])) == median(np.array([[1.0], [2.0], [6.0]]))


# ---- intervals ----


def test_bootstrap_draws_within_each_task():
    """Compare with percentiles over all 27 * 27 equally likely samples."""
    first, second = np.array([0.0, 1.0, 10.0]), np.array([100.0, 103.0, 109.0])
    means = [np.array([np.mean(draw) for draw in product(task, repeat=3)]) for task in (first, second)]
    everything = np.add.outer(*means).ravel() / 2
    found = bootstrap([first, second], mean, draws=40_000)
    assert (found.low, found.high) == pytest.approx(np.quantile(everything, [0.025, 0.975]), abs=0.2)
    assert found.method == "percentile bootstrap" and found.estimate == pytest.approx((11 / 3 + 104) / 2)


def test_the_interval_of_a_mean_is_students():
    scores = [3.0, 4.5, 9.0]
    oracle = scipy.stats.ttest_1samp(scores, 0).confidence_interval(0.95)
    found = interval(scores, mean)
    assert (found.low, found.high) == pytest.approx((oracle.low, oracle.high), rel=1e-9)
    assert found.method == "Student t" and str(found) == "5.5 [-2.257, 13.26] (n = 3, few)"


def test_the_interval_of_a_mean_over_tasks_is_welchs():
    """The mean of two tasks is half the difference of one and the negated other."""
    first, second = np.array([3.0, 4.5, 9.0]), np.array([20.0, 21.0, 19.0, 26.0, 20.5])
    oracle = scipy.stats.ttest_ind(first, -second, equal_var=False).confidence_interval(0.95)
    found = interval([first, second], mean)
    assert (found.low, found.high) == pytest.approx((oracle.low / 2, oracle.high / 2), rel=1e-9)


@pytest.mark.parametrize("sizes", [(3,), (3, 5), (5, 5, 5)])
def test_the_bootstrap_t_of_a_mean_agrees_with_students_t(sizes):
    tasks = [np.random.default_rng(n).normal(n, 1, n) for n in sizes]
    exact, drawn = interval(tasks, mean), interval(tasks, lambda scores: mean(scores))
    assert drawn.method == "bootstrap t" and exact.method == "Student t"
    assert drawn.high - drawn.low == pytest.approx(exact.high - exact.low, rel=0.03)
    assert drawn.estimate == exact.estimate == pytest.approx((drawn.low + drawn.high) / 2)


def test_enough_runs_of_several_tasks_get_percentiles():
    scores = np.random.default_rng(0).normal(size=(10, 3))
    assert interval(scores, iqm) == bootstrap(scores, iqm)
    assert interval(scores[:9], iqm).method == "bootstrap t" and interval(scores[:, :1], iqm).method == "bootstrap t"


def test_one_run_has_no_interval_and_equal_runs_have_zero_width():
    alone = interval([7.0], iqm)
    assert (
        alone.estimate == 7
        and np.isnan([alone.low, alone.high]).all()
        and alone.few
        and alone.method == "none: one run"
    )
    for statistic in (mean, iqm):
        agreeing = interval([500.0] * 5, statistic)
        assert (agreeing.low, agreeing.estimate, agreeing.high) == (500, 500, 500) and not agreeing.few


def held(make, truth: float, times: int = 300) -> float:
    """Return the coverage of an interval."""
    source = np.random.default_rng(0)
    found = [make(source) for _ in range(times)]
    return float(np.mean([one.low <= truth <= one.high for one in found]))


@pytest.mark.parametrize(
    ("runs", "tasks", "statistic", "percentiles_hold"), [(3, 1, mean, 0.8), (5, 1, mean, 0.88), (3, 2, iqm, 0.88)]
)
def test_intervals_have_coverage_where_percentiles_do_not(runs, tasks, statistic, percentiles_hold):
    offset = np.arange(tasks) - (tasks - 1) / 2
    honest = held(lambda s: interval(s.normal(size=(runs, tasks)) + offset, statistic, draws=400), 0.0)
    standard = held(lambda s: bootstrap(s.normal(size=(runs, tasks)) + offset, statistic, draws=400), 0.0)
    assert standard < percentiles_hold < 0.93 < honest


def test_seeds_repeat_intervals():
    scores = np.random.default_rng(0).normal(size=(5, 2))
    for make in (bootstrap, interval):
        assert make(scores, iqm, seed=3) == make(scores, iqm, seed=3) != make(scores, iqm, seed=4)


# ---- probability of improvement, profiles ----


def test_improvement_counts_pairs_and_half_of_ties():
    found = probability_of_improvement([[1.0, 2.0, 2.0], [5.0, 6.0]], [[2.0, 0.0], [5.0, 5.0, 9.0]])
    assert found.estimate == pytest.approx(((0.5 + 0.5 + 3) / 6 + (1 + 2) / 6) / 2)  # 4 of 6 pairs and 3 of 6
    assert found.runs == 2
    x, y = np.random.default_rng(0).integers(0, 6, (2, 8))
    oracle = scipy.stats.mannwhitneyu(x, y).statistic / 64
    assert probability_of_improvement(x, y).estimate == pytest.approx(oracle)


def test_improvement_of_runs_without_overlap_is_not_certain():
    """For 5 runs per side Newcombe's equation, |1 - p| = Z standard errors, is a cubic; its root in (0, 1) is the limit."""
    z = statistics.Z**2 / 25
    # (1 - p)^2 = z p (1 - p) (1 + 4 (1 - p) / (2 - p) + 4 p / (1 + p)), times (2 - p) (1 + p) / (1 - p):
    p = np.polynomial.Polynomial([0, 1])
    cubic = (1 - p) * (2 - p) * (1 + p) - z * p * ((2 - p) * (1 + p) + 4 * (1 - p) * (1 + p) + 4 * p * (2 - p))
    (root,) = [r.real for r in cubic.roots() if abs(r.imag) < 1e-9 and 0 < r.real < 1]
    found = probability_of_improvement(HIGH, LOW)
    assert (found.estimate, found.low, found.high) == pytest.approx((1, root, 1)) and 0.64 < root < 0.65
    other = probability_of_improvement(LOW, HIGH)
    assert (other.estimate, other.low, other.high) == pytest.approx((0, 0, 1 - root))
    drawn = probability_of_improvement(HIGH, LOW, method="bootstrap")
    assert (drawn.low, drawn.high) == (1, 1)
    two = probability_of_improvement(np.stack([HIGH, HIGH], 1), np.stack([LOW, LOW], 1))
    assert 1 - two.low == pytest.approx((1 - root) / np.sqrt(2))


@pytest.mark.parametrize("shift", [0.0, 1.0, 2.0])
def test_improvement_has_coverage_with_five_runs(shift):
    truth = scipy.stats.norm.cdf(shift / np.sqrt(2))
    share = held(lambda s: probability_of_improvement(s.normal(shift, 1, 5), s.normal(0, 1, 5)), float(truth))
    assert 0.92 <= share <= 0.98


def test_profile_is_the_share_of_runs_above():
    tasks = [np.array([0.0, 0.5, 1.0, 1.0]), np.array([0.5, 2.0])]
    found = performance_profile(tasks, [-1.0, 0.5, 1.0, 3.0])
    np.testing.assert_allclose(found.estimate, [1, (0.5 + 0.5) / 2, (0 + 0.5) / 2, 0])
    assert found.runs == 2 and found.few


def test_the_band_of_one_task_is_wilsons():
    scores, grid = np.arange(5.0), np.arange(-0.5, 5)
    found = performance_profile(scores, grid)
    for k, (low, high) in enumerate(zip(found.low, found.high)):
        oracle = scipy.stats.binomtest(5 - k, 5).proportion_ci(0.95, "wilson")
        assert (low, high) == pytest.approx((oracle.low, oracle.high), abs=1e-9)
    twice = performance_profile(np.stack([scores, scores], 1), grid)
    np.testing.assert_allclose(twice.estimate - twice.low, (found.estimate - found.low) / np.sqrt(2), atol=1e-9)
    np.testing.assert_allclose(twice.high - twice.estimate, (found.high - found.estimate) / np.sqrt(2), atol=1e-9)


# ---- differences ----


@pytest.mark.parametrize(
    ("x", "y", "p_value", "smallest", "verdict"),
    [
        ([1, 3], [2, 4], 4 / 6, 2 / 6, "too few seeds"),  # differences -2 -1 0 0 1 2, seen: -1
        ([1, 2, 3], [4, 5, 6], 2 / 20, 2 / 20, "too few seeds"),
        ([4, 5, 6, 7], [0, 1, 2, 3], 2 / 70, 2 / 70, "better"),
        ([0, 2, 3], [4, 5, 6, 7], 1 / 35, 1 / 35, "worse"),  # the three highest are less far from the rest
        ([5, 6, 7, 8, 0], [1, 2, 3, 4, 4.5], None, 2 / 252, "indistinguishable"),
        ([500] * 5, [500] * 5, 1.0, 2 / 252, "indistinguishable"),
        ([1], [9], 1.0, 1.0, "too few seeds"),
        ([[1, 2], [1, 2]], [[3, 4], [3, 4]], 2 / 36, 2 / 36, "too few seeds"),
        ([[1, 2, 3], [7, 7, 7]], [[4, 5, 6], [7, 7, 7]], 2 / 20, 2 / 20, "too few seeds"),  # the second tells nothing
        ([[4, 5, 6], [40, 50, 60]], [[1, 2, 3], [10, 20, 30]], 2 / 400, 2 / 400, "better"),
    ],
)
def test_permutation_test_counted_by_hand(x, y, p_value, smallest, verdict):
    found = difference(x, y)
    assert found.exact and found.smallest_p == pytest.approx(smallest) and found.verdict == verdict
    if p_value is not None:
        assert found.p_value == pytest.approx(p_value)


@pytest.mark.parametrize(("n", "m"), [(5, 5), (4, 6), (3, 7)])
def test_permutation_test_of_one_task_is_scipys(n, m):
    source = np.random.default_rng(n)
    x, y = source.normal(0.8, 1, n), np.round(source.normal(0, 1, m), 0)
    oracle = scipy.stats.permutation_test((x, y), lambda a, b: a.mean() - b.mean(), n_resamples=10**6)
    found = difference(x, y)
    # scipy doubles the smaller tail, which for sides of equal size is the same as counting both.
    extreme = np.abs(oracle.null_distribution) >= abs(oracle.statistic) - 1e-12
    assert found.p_value == pytest.approx(extreme.mean()) and found.arrangements == len(oracle.null_distribution)
    assert n != m or found.p_value == pytest.approx(oracle.pvalue)


def all_differences(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    pooled = np.concatenate([x, y])
    chosen = [pooled[list(index)].mean() for index in combinations(range(len(pooled)), len(x))]
    return np.array([(a * len(pooled) - pooled.sum()) / len(y) for a in chosen])


def test_permutation_test_over_tasks_with_too_many_arrangements():
    """Compare with all 924 * 924 arrangements, more than the test enumerates."""
    source = np.random.default_rng(1)
    xs, ys = source.normal(0.2, 1, (2, 6)), source.normal(0, 1, (2, 6))
    everything = np.add.outer(*(all_differences(x, y) for x, y in zip(xs, ys))) / 2
    observed = (xs.mean(1) - ys.mean(1)).mean()
    exact = np.mean(np.abs(everything) >= abs(observed) - 1e-12)
    found = difference(xs.T, ys.T)
    assert not found.exact and found.arrangements == statistics.ARRANGEMENTS and 0.01 < exact < 0.5
    assert found.p_value == pytest.approx(exact, abs=4 * np.sqrt(exact / statistics.ARRANGEMENTS))
    assert difference(xs.T, ys.T) == found != difference(xs.T, ys.T, seed=1)


def test_difference_of_one_task_has_welchs_interval():
    x, y = np.array([3.0, 4.5, 9.0, 5.0]), np.array([1.0, 2.5, 2.0])
    oracle = scipy.stats.ttest_ind(x, y, equal_var=False).confidence_interval(0.95)
    found = difference(x, y).estimate
    assert (found.estimate, found.low, found.high) == pytest.approx((x.mean() - y.mean(), oracle.low, oracle.high))
    assert found.runs == 3 and found.few
    alone = difference([1.0], [2.0, 3.0]).estimate
    assert np.isnan([alone.low, alone.high]).all() and alone.method == "none: one run"


def test_equal_methods_are_significant_at_the_nominal_rate():
    """With 5 runs per side 12 of 252 arrangements have p <= 0.05: 4.8%. Scores are exponential, not normal."""
    source = np.random.default_rng(0)
    verdicts = [difference(*source.exponential(size=(2, 5))).verdict for _ in range(400)]
    wrong = sum(verdict != "indistinguishable" for verdict in verdicts) / 400
    assert set(verdicts) == {"better", "worse", "indistinguishable"}
    assert wrong == pytest.approx(12 / 252, abs=0.03)  # 3 standard errors


def test_a_planted_better_method_is_found():
    source = np.random.default_rng(0)
    for _ in range(20):
        better, worse = source.normal([3, 2], 1, (5, 2)), source.normal([0, 0], 1, (5, 2))
        assert difference(better, worse).verdict == "better" and difference(worse, better).verdict == "worse"


def test_reasons_contain_the_deciding_number():
    assert difference([1.0, 2, 3], [4.0, 5, 6]).reason == "p cannot fall below 0.1 with 3 runs, 0.05 is needed"
    assert difference(HIGH, LOW).reason == "p = 0.0079, all 252 arrangements"
    assert difference([1.0, 2, 3], [4.0, 5, 6], level=0.1).verdict == "worse"


def test_both_methods_need_the_same_tasks():
    with pytest.raises(ValueError, match="not of 2 and 1"):
        difference([LOW, LOW], [LOW])


# ---- many comparisons ----


def test_holm_by_hand():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.6, 0.5]), [1, 1])
    np.testing.assert_allclose(holm([0.01, 0.01, 0.9]), [0.03, 0.03, 0.9])
    assert holm([]).shape == (0,)


def test_many_comparisons_with_few_seeds_cannot_be_significant():
    clear, equal = difference(HIGH, LOW), difference(LOW, LOW + 0.1)
    six = apply_holm([clear, *[equal] * 5])
    assert [one.verdict for one in six] == ["better"] + ["indistinguishable"] * 5
    assert six[0].p_value == pytest.approx(6 * 2 / 252) and six[1].p_value == 1
    assert six[1].smallest_p == pytest.approx(6 * 2 / 252)
    seven = apply_holm([clear, *[equal] * 6])
    assert [one.verdict for one in seven] == ["too few seeds"] * 7
    assert seven[0].p_value == seven[0].smallest_p == pytest.approx(7 * 2 / 252)
    assert apply_holm([]) == () and apply_holm([clear]) == (clear,)


# ---- curves ----

CURVES = [
    [(0, 1.0), (10, 2.0), (20, 4.0)],
    [(20, 8.0), (12, 6.0), (2, 3.0)],
    [(1, 5.0), (10, 0.0), (10, 2.0), (21, 9.0)],
]


def test_curves_keep_their_values_and_start_together():
    band = curve_band(CURVES, [0, 2, 11, 12, 20.5, 99])
    np.testing.assert_allclose(band.estimate, [np.nan, 3, (2 + 3 + 2) / 3, (2 + 6 + 2) / 3, (4 + 8 + 2) / 3, 7])
    assert np.isnan(band.low[0]) and np.isnan(band.high[0]) and band.runs == 3 and band.few
    oracle = interval([2.0, 6.0, 2.0], mean)
    assert (band.low[3], band.high[3]) == pytest.approx((oracle.low, oracle.high))


def test_a_band_is_an_interval_at_each_point():
    values = np.random.default_rng(0).normal(size=(5, 3))
    band = curve_band([list(enumerate(curve)) for curve in values], [0, 1, 2], iqm, seed=2)
    for k in range(3):
        oracle = interval(values[:, k], iqm, seed=2)
        assert (band.estimate[k], band.low[k], band.high[k]) == pytest.approx(
            (oracle.estimate, oracle.low, oracle.high)
        )
    assert band.method == "bootstrap t" and not band.few


def test_one_curve_has_no_band_and_no_curve_is_an_error():
    band = curve_band(CURVES[:1], [0, 10])
    assert band.estimate.tolist() == [1, 2] and np.isnan(band.low).all()
    assert np.isnan(curve_band(CURVES, [-1]).estimate).all()
    for curves in ([], [[]], [[(0, np.nan)]]):
        with pytest.raises(ValueError, match="curve"):
            curve_band(curves, [0])


def test_importing_statistics_is_light():
    code = "import sys, worldlab.study.statistics; assert not {'torch', 'scipy', 'pandas', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
