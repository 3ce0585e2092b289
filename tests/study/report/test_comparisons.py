"""Which comparisons are made, and that each family is corrected only for its own comparisons."""

from __future__ import annotations

import numpy as np
import pytest

from worldlab.study import statistics
from worldlab.study.report.comparisons import AMONG_MODELS, OVERALL, compare_methods, table_targets
from worldlab.study.results import Method

MODELS = tuple(Method(key, key, "model", agent="dreamer") for key in "abcde")
RANDOM, FREE = Method("chance", "chance", "baseline", agent="random"), Method("free", "free", "baseline")
METHODS = (*MODELS, RANDOM, FREE)


def scores(tasks: int, runs: int = 5) -> dict[str, list[np.ndarray]]:
    """e is above all others by far; b has a's scores."""
    rng = np.random.default_rng(0)
    found = {method.key: list(rng.normal(0, 1, (tasks, runs))) for method in METHODS}
    return {**found, "b": found["a"], "e": [task + 20 for task in found["e"]]}


def find_family(found, against, kind):
    return next(one for one in found if (one.against, one.kind) == (against, kind))


def test_all_pairs_of_models_are_compared_if_the_seeds_suffice():
    """Two tasks of five seeds: p can fall to 2 / 252^2; corrected for ten comparisons it is still far below the level."""
    known = scores(2)
    family = find_family(compare_methods(OVERALL, METHODS, known, 5, True), "", AMONG_MODELS)
    assert [(pair.x, pair.y) for pair in family.pairs] == [
        (x, y) for i, x in enumerate("abcde") for y in "abcde"[i + 1 :]
    ]
    raw = [statistics.difference(known[pair.x], known[pair.y]) for pair in family.pairs]
    expected = statistics.holm([one.p_value for one in raw])
    assert [pair.difference.p_value for pair in family.pairs] == pytest.approx(list(expected))
    verdicts = {(pair.x, pair.y): pair.difference.verdict for pair in family.pairs}
    assert all(verdicts[x, "e"] == "worse" for x in "abcd")
    assert verdicts["a", "b"] == "indistinguishable"


def test_otherwise_each_is_compared_with_the_first():
    """One task of five seeds: 10 comparisons times 2 / 252 is 0.079, so not even a perfect difference is significant."""
    family = find_family(compare_methods("env", METHODS, scores(1), 5, True), "a", AMONG_MODELS)
    assert [(pair.x, pair.y) for pair in family.pairs] == [(x, "a") for x in "bcde"]
    planted = family.pairs[-1].difference
    assert planted.p_value == pytest.approx(4 * 2 / 252) and planted.verdict == "better"


def test_three_seeds_are_too_few():
    family = find_family(compare_methods("env", METHODS, scores(1, runs=3), 3, True), "a", AMONG_MODELS)
    assert {pair.difference.verdict for pair in family.pairs} == {"too few seeds"}


def test_failed_seeds_do_not_change_which_comparisons_are_made():
    """Five seeds were planned, so there are ten pairs. Four failed seeds of a affect only the comparisons with a."""
    known = scores(2)
    known["a"] = [task[:1] for task in known["a"]]
    family = find_family(compare_methods(OVERALL, METHODS, known, 5, True), "", AMONG_MODELS)
    assert len(family.pairs) == 10
    verdicts = {(pair.x, pair.y): pair.difference.verdict for pair in family.pairs}
    assert all(verdicts[x, "e"] == "worse" for x in "bcd")
    assert {verdicts["a", y] for y in "bcde"} == {"too few seeds"}


def test_each_baseline_is_a_family_of_its_own():
    """Adding a baseline does not change the corrected p values of the models."""
    known = scores(2)
    found = compare_methods(OVERALL, METHODS, known, 5, True)
    assert {(one.against, one.kind) for one in found} == {("", AMONG_MODELS), ("chance", "model"), ("free", "model")}
    fewer = compare_methods(OVERALL, (*MODELS, RANDOM), known, 5, True)
    assert find_family(found, "", AMONG_MODELS) == find_family(fewer, "", AMONG_MODELS)
    assert find_family(found, "chance", "model") == find_family(fewer, "chance", "model")


def test_tables_compare_all_with_the_first_and_random():
    found = compare_methods("env", METHODS, scores(1), 5, False)
    assert table_targets(METHODS) == ["a", "chance"]
    assert {(one.against, one.kind) for one in found} == {
        (t, k) for t in ("a", "chance") for k in ("model", "baseline")
    }
    assert [pair.x for pair in find_family(found, "a", "baseline").pairs] == ["chance", "free"]


def test_methods_without_scores_are_in_no_comparison():
    known = {key: value for key, value in scores(2).items() if key not in ("c", "chance")}
    found = compare_methods(OVERALL, METHODS, known, 5, True)
    assert {key for one in found for pair in one.pairs for key in (pair.x, pair.y)} == {"a", "b", "d", "e", "free"}


def test_without_models_baselines_compete():
    known = scores(2)
    found = compare_methods(OVERALL, (RANDOM, FREE), known, 5, True)
    assert [(pair.x, pair.y) for pair in find_family(found, "", AMONG_MODELS).pairs] == [("chance", "free")]
