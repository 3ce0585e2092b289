"""The numbers of a report equal the statistics of the comparison's own scores."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from report_kit import BEST, ENVS, FAILED, METHODS, TWINS, comparison

from worldlab.study import statistics
from worldlab.study.report.comparisons import OVERALL
from worldlab.study.report.findings import (
    AGGREGATES,
    compute_findings,
    summarise_measure,
    unique_labels,
    valid_reference,
)
from worldlab.study.report.page import make_tables
from worldlab.study.results import Measurement, Method, Reference, Trial


@pytest.fixture(scope="module")
def found():
    return compute_findings(comparison())


def test_returns_and_aggregates(found):
    given = comparison()
    for key in ("vae", BEST, FAILED[0], "random"):
        tasks = [given.normalised(key, env) for env in ENVS]
        for name, (_, statistic) in AGGREGATES.items():
            assert found.aggregates[key][name] == statistics.interval(tasks, statistic)
            assert found.published[key][name] == statistics.bootstrap(tasks, statistic)
        for env in ENVS:
            assert found.returns[key, env] == statistics.interval([given.scores(key, env)], statistics.mean)
    assert found.returns[FAILED[:2]].runs == 4 and found.returns[BEST, ENVS[0]].runs == 5


def test_verdicts_find_what_was_planted(found):
    pairs = {(pair.x, pair.y): pair.difference.verdict for pair in found.among_models(OVERALL).pairs}
    assert pairs[TWINS] == "indistinguishable"
    beaten = [verdict for pair, verdict in pairs.items() if BEST in pair]
    assert len(beaten) == 4 and {*beaten} <= {"better", "worse"}
    assert all((verdict == "better") == (pair[0] == BEST) for pair, verdict in pairs.items() if BEST in pair)


def test_a_pair_has_one_verdict_in_a_report():
    """With three models, the environment's table shows the same corrected p as the list of all pairs."""
    found = compute_findings(comparison(seeds=tuple(range(8)), methods=METHODS[:3]))
    one_env = compute_findings(replace(found.comparison, references={}))
    for scope in one_env.scopes:
        pairs = one_env.among_models(scope).pairs
        assert len(pairs) == 3
        for x in (method.key for method in METHODS[1:3]):
            shown = one_env.pair(scope, x, METHODS[0].key)
            (listed,) = [pair for pair in pairs if {pair.x, pair.y} == {x, METHODS[0].key}]
            assert shown.difference.p_value == listed.difference.p_value and (shown.x, shown.y) == (x, METHODS[0].key)
            sides = [found.comparison.scores(key, scope) for key in (x, METHODS[0].key)]
            assert shown.difference.estimate.estimate == pytest.approx(sides[0].mean() - sides[1].mean())
            assert shown.difference.estimate.low < shown.difference.estimate.high


def test_improvement_profiles_curves(found):
    given = comparison()
    sides = [[given.scores(key, env) for env in ENVS] for key in (BEST, "gan")]
    assert found.improvement[BEST, "gan"] == statistics.probability_of_improvement(*sides)
    assert found.improvement[TWINS].estimate == 0.5
    band = found.profiles["vae"]
    expected = statistics.performance_profile([given.normalised("vae", env) for env in ENVS], band.grid)
    assert np.array_equal(band.estimate, expected.estimate) and np.array_equal(band.low, expected.low)
    curve = found.curves["vae", ENVS[1]]
    assert curve.grid.tolist() == [step for step, _ in given.of("vae", ENVS[1])[0].curve]
    assert curve.estimate[-1] == pytest.approx(found.returns["vae", ENVS[1]].estimate)


def test_measures(found):
    given = comparison()
    one = found.measures[ENVS[0], "energy/h5", "gan"]
    values = [t.measures["energy/h5"].value for t in given.of("gan", ENVS[0]) if t.status == "finished"]
    assert one.interval == statistics.interval([values], statistics.mean) and one.missing == 0
    undefined = found.measures[ENVS[0], "bits_per_dim", "gan"]
    assert undefined.interval is None and undefined.missing == 4
    assert undefined.why == ("p(z) is known by its samples only",)


def test_a_measure_of_some_seeds():
    trials = [Trial("a", "env", seed, "finished", measures={"q": Measurement(2.0, 0.1)}) for seed in (0,)]
    trials += [
        Trial("a", "env", 1, "finished", measures={"q": Measurement(float("nan"))}),
        Trial("a", "env", 2, "finished"),
    ]
    one = summarise_measure((*trials, Trial("a", "env", 3, "failed")), "q")
    assert one.interval.estimate == 2.0 and one.interval.runs == 1 and one.error == 0.1
    assert (one.missing, one.why) == (2, ("no reason given", "not measured"))
    assert summarise_measure(trials[:0], "q").why == ("no trial finished",)


def test_scopes():
    """The result is over all environments with a reference if there are two; other environments are separate."""
    given = comparison(methods=METHODS[:2])
    assert compute_findings(given).scopes == (OVERALL,)
    assert compute_findings(replace(given, references={})).scopes == ENVS
    assert compute_findings(replace(given, references={ENVS[0]: given.references[ENVS[0]]})).scopes == ENVS
    assert valid_reference(replace(given, references={ENVS[0]: Reference(1.0, 1.0, "")}), ENVS[0]) is None


def test_scores_that_are_no_numbers_do_not_count():
    given = comparison(methods=METHODS[:1])
    broken = tuple(replace(t, returns=(float("nan"),)) if t.seed == 2 else t for t in given.trials)
    found = compute_findings(replace(given, trials=broken))
    assert found.returns["vae", ENVS[0]].runs == 4


def test_labels_are_never_shared():
    methods = (Method("a", "same", "model"), Method("b", "same", "model"), Method("c", "\x1b[31m", "model"))
    assert unique_labels(methods) == {"a": "same (a)", "b": "same (b)", "c": "c"}


def test_failures_are_counted_with_an_interval(found):
    """One run of five: Wilson's interval from its formula, z = 1.96."""
    one = found.failures[FAILED[:2]]
    z, n, p = 1.959964, 5, 0.2
    middle, half = (
        (p + z * z / (2 * n)) / (1 + z * z / n),
        z / (1 + z * z / n) * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5,
    )
    assert (one.estimate, one.low, one.high) == pytest.approx((0.2, middle - half, middle + half), abs=1e-5)
    assert {at for at, share in found.failures.items() if share.estimate} == {FAILED[:2]}
    text = next(one for one in make_tables(found) if one.title == f"Returns on {FAILED[1]}")
    assert [column.title for column in text.columns][2] == "Failed ↓"
    row = next(row for row in text.rows if row[0].text == "gan")
    assert row[2].line == "20% [4, 62]"
    assert "Failed ↓" not in [
        c.title for c in next(t for t in make_tables(found) if t.title == f"Returns on {ENVS[1]}").columns
    ]


def test_an_optimality_gap_is_never_below_zero(found):
    assert all(of["optimality_gap"].low >= 0 for of in found.aggregates.values())
    single = compute_findings(comparison(seeds=(0,)))
    assert all(np.isnan(one.low) for of in single.published.values() for one in of.values())
