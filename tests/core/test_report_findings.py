"""The numbers of a report are those that the statistics give for the comparison's own scores."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from report_kit import BEST, ENVS, FAILED, METHODS, TWINS, comparison

from worldlab import statistics
from worldlab.compare.results import Measurement, Method, Reference, Trial
from worldlab.report.contests import OVERALL
from worldlab.report.findings import AGGREGATES, find, labels, measured, reference_of


@pytest.fixture(scope="module")
def found():
    return find(comparison())


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
    pairs = {(pair.x, pair.y): pair.difference.verdict for pair in found.rivals(OVERALL).pairs}
    assert pairs[TWINS] == "indistinguishable"
    beaten = [verdict for pair, verdict in pairs.items() if BEST in pair]
    assert len(beaten) == 4 and {*beaten} <= {"better", "worse"}
    assert all((verdict == "better") == (pair[0] == BEST) for pair, verdict in pairs.items() if BEST in pair)


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
    one = measured((*trials, Trial("a", "env", 3, "failed")), "q")
    assert one.interval.estimate == 2.0 and one.interval.runs == 1 and one.error == 0.1
    assert (one.missing, one.why) == (2, ("no reason given", "not measured"))
    assert measured(trials[:0], "q").why == ("no trial finished",)


def test_scopes():
    """Over all environments that have a reference, if there are two; the others each by itself."""
    given = comparison(methods=METHODS[:2])
    assert find(given).scopes == (OVERALL,)
    assert find(replace(given, references={})).scopes == ENVS
    assert find(replace(given, references={ENVS[0]: given.references[ENVS[0]]})).scopes == ENVS
    assert reference_of(replace(given, references={ENVS[0]: Reference(1.0, 1.0, "")}), ENVS[0]) is None


def test_scores_that_are_no_numbers_do_not_count():
    given = comparison(methods=METHODS[:1])
    broken = tuple(replace(t, returns=(float("nan"),)) if t.seed == 2 else t for t in given.trials)
    found = find(replace(given, trials=broken))
    assert found.returns["vae", ENVS[0]].runs == 4


def test_labels_are_never_shared():
    methods = (Method("a", "same", "model"), Method("b", "same", "model"), Method("c", "\x1b[31m", "model"))
    assert labels(methods) == {"a": "same (a)", "b": "same (b)", "c": "c"}
