"""Which questions are asked, and that each is corrected for its own comparisons only."""

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


def asked(found, against, kind):
    return next(one for one in found if (one.against, one.kind) == (against, kind))


def test_each_model_is_held_against_each_where_the_seeds_can_tell():
    """Two tasks of five seeds: p can fall to 2 / 252^2, ten comparisons leave that far below the level."""
    known = scores(2)
    family = asked(compare_methods(OVERALL, METHODS, known, 5, True), "", AMONG_MODELS)
    assert [(pair.x, pair.y) for pair in family.pairs] == [
        (x, y) for i, x in enumerate("abcde") for y in "abcde"[i + 1 :]
    ]
    raw = [statistics.difference(known[pair.x], known[pair.y]) for pair in family.pairs]
    expected = statistics.holm([one.p_value for one in raw])
    assert [pair.difference.p_value for pair in family.pairs] == pytest.approx(list(expected))
    verdicts = {(pair.x, pair.y): pair.difference.verdict for pair in family.pairs}
    assert all(verdicts[x, "e"] == "worse" for x in "abcd")
    assert verdicts["a", "b"] == "indistinguishable"


def test_else_each_against_the_first():
    """One task of five seeds: 10 comparisons times 2 / 252 is 0.079, so not even a perfect one could be real."""
    family = asked(compare_methods("env", METHODS, scores(1), 5, True), "a", AMONG_MODELS)
    assert [(pair.x, pair.y) for pair in family.pairs] == [(x, "a") for x in "bcde"]
    planted = family.pairs[-1].difference
    assert planted.p_value == pytest.approx(4 * 2 / 252) and planted.verdict == "better"


def test_three_seeds_cannot_tell():
    family = asked(compare_methods("env", METHODS, scores(1, runs=3), 3, True), "a", AMONG_MODELS)
    assert {pair.difference.verdict for pair in family.pairs} == {"too few seeds"}


def test_seeds_that_one_method_lost_do_not_change_what_is_asked():
    """Five seeds were asked for, so ten pairs: four lost ones of a silence a's own comparisons and no other."""
    known = scores(2)
    known["a"] = [task[:1] for task in known["a"]]
    family = asked(compare_methods(OVERALL, METHODS, known, 5, True), "", AMONG_MODELS)
    assert len(family.pairs) == 10
    verdicts = {(pair.x, pair.y): pair.difference.verdict for pair in family.pairs}
    assert all(verdicts[x, "e"] == "worse" for x in "bcd")
    assert {verdicts["a", y] for y in "bcde"} == {"too few seeds"}


def test_baselines_are_questions_of_their_own():
    """Adding a baseline does not weaken what is said of the models."""
    known = scores(2)
    found = compare_methods(OVERALL, METHODS, known, 5, True)
    assert {(one.against, one.kind) for one in found} == {("", AMONG_MODELS), ("chance", "model"), ("free", "model")}
    fewer = compare_methods(OVERALL, (*MODELS, RANDOM), known, 5, True)
    assert asked(found, "", AMONG_MODELS) == asked(fewer, "", AMONG_MODELS)
    assert asked(found, "chance", "model") == asked(fewer, "chance", "model")


def test_tables_hold_all_against_the_first_and_random():
    found = compare_methods("env", METHODS, scores(1), 5, False)
    assert table_targets(METHODS) == ["a", "chance"]
    assert {(one.against, one.kind) for one in found} == {
        (t, k) for t in ("a", "chance") for k in ("model", "baseline")
    }
    assert [pair.x for pair in asked(found, "a", "baseline").pairs] == ["chance", "free"]


def test_methods_without_scores_are_in_no_comparison():
    known = {key: value for key, value in scores(2).items() if key not in ("c", "chance")}
    found = compare_methods(OVERALL, METHODS, known, 5, True)
    assert {key for one in found for pair in one.pairs for key in (pair.x, pair.y)} == {"a", "b", "d", "e", "free"}


def test_without_models_baselines_compete():
    known = scores(2)
    found = compare_methods(OVERALL, (RANDOM, FREE), known, 5, True)
    assert [(pair.x, pair.y) for pair in asked(found, "", AMONG_MODELS).pairs] == [("chance", "free")]
