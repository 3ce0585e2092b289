"""The sentences of the result state exactly what the comparisons show."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from report_kit import BASELINES, ENVS, METHODS, comparison

from worldlab.study.report.findings import compute_findings
from worldlab.study.report.verdict import conclude
from worldlab.study.results import Comparison, Method, Reference, Trial

RANDOM = Method("random", "random actions", "baseline", agent="random")


def made(
    means: dict[str, float], seeds: int = 5, envs: tuple[str, ...] = ("one", "two"), spread: float = 0.1
) -> Comparison:
    """Make a comparison of models with these means; "random" is the baseline of that name."""
    methods = tuple(RANDOM if key == "random" else Method(key, key, "model") for key in means)
    trials = []
    for at, (key, mean) in enumerate(means.items()):
        for place, env in enumerate(envs):
            noise = np.random.default_rng([at, place]).standard_normal(seeds)
            values = mean + spread * (noise - noise.mean())
            trials += [Trial(key, env, seed, "finished", returns=(float(v),)) for seed, v in enumerate(values)]
    return Comparison(
        "t", methods, envs, tuple(range(seeds)), tuple(trials), references={e: Reference(0, 1, "") for e in envs}
    )


def lead(found: Comparison) -> str:
    return conclude(compute_findings(found)).lead


def test_a_clear_best():
    assert lead(made({"a": 0.1, "b": 0.12, "c": 5.0})) == (
        "Over 2 environments (n = 5 seeds each), c is better than each of the other 2, and the difference is real. "
        "Among the others, chance may explain every difference (1 compared)."
    )


def test_a_lead_that_is_real_over_some_only():
    assert lead(made({"a": 5.02, "b": 5.0, "c": 0.1})) == (
        "Over 2 environments (n = 5 seeds each), a scores highest, but its lead over b may be chance; "
        "its lead over the others is real. "
        "Among the others, b is better than c."
    )


def test_no_difference():
    found = made({"a": 1.0, "b": 1.01, "c": 1.0})
    assert lead(found).startswith(
        "Over 2 environments (n = 5 seeds each), b scores highest, but its lead over a and c may be chance."
    )
    assert {one.tag for one in conclude(compute_findings(found)).sentences} == {"not shown"}


def test_identical_models_under_two_names():
    found = made({"a": 1.0, "b": 2.0})
    twin = tuple(replace(trial, method="b") for trial in found.trials if trial.method == "a")
    found = replace(found, trials=(*(t for t in found.trials if t.method == "a"), *twin))
    (sentence,) = conclude(compute_findings(found)).sentences
    assert (sentence.tag, sentence.text, sentence.facts) == (
        "not shown",
        "a and b have identical scores",
        "n = 5, p = 1.00",
    )


def test_the_winner_comes_first_whatever_the_order():
    """A pair is written as winner over loser, and its interval changes sign with it."""
    there = conclude(compute_findings(made({"a": 5.0, "b": 1.0}))).sentences[0]
    back = conclude(compute_findings(made({"b": 1.0, "a": 5.0}))).sentences[0]
    assert there.text.startswith("a is better than b, by 4.00 [3.") and there.real
    assert back.text.startswith("a is better than b, by 4.00 [3.") and back.real


def test_few_seeds_are_reported_and_decide_nothing():
    conclusion = conclude(compute_findings(made({"a": 0.0, "b": 9.0}, seeds=3, envs=("one",))))
    assert conclusion.lead == (
        "On one, these runs cannot distinguish a and b: with n = 3 seeds each, no difference can be significant, "
        "even if the scores never overlap."
    )
    assert conclusion.cautions[0].title == "Only 3 seeds: fewer than 5"
    assert [one.tag for one in conclusion.sentences] == ["too few seeds"]
    assert "p cannot fall below 0.1" in conclusion.sentences[0].text


def test_on_one_environment_all_are_compared_with_the_first():
    """Five models, five seeds: too few for ten comparisons, enough for four."""
    conclusion = conclude(compute_findings(made({"a": 1.0, "b": 5.0, "c": 0.99, "d": 1.0, "e": -4.0}, envs=("one",))))
    assert (
        conclusion.lead
        == "On one (n = 5 seeds each), b is better than a; e is worse than it; c and d cannot be distinguished from it."
    )


def test_baselines():
    conclusion = conclude(compute_findings(made({"a": 1.0, "b": 2.0, "c": 3.0, "random": 0.0})))
    assert (
        conclusion.sentences[-1].text == "All 3 models are better than random actions" and conclusion.sentences[-1].real
    )
    conclusion = conclude(compute_findings(made({"a": 1.0, "b": 0.01, "random": 0.0})))
    assert conclusion.sentences[-1].tag == "real in part"
    assert conclusion.sentences[-1].text == "a is better than random actions; b cannot be distinguished from it"
    conclusion = conclude(compute_findings(made({"a": -1.0, "random": 0.0})))
    assert conclusion.sentences[-1].text == "a is worse than random actions" and not conclusion.sentences[-1].real
    assert conclusion.lead == "a is the only method of its kind with results, so there is nothing to compare it with."


def test_failures_are_reported():
    conclusion = conclude(compute_findings(comparison()))
    assert [one.title for one in conclusion.cautions] == ["Seeds failed or are missing in 1 of 16 cells"]
    assert "gan on CarRacing-v3 (4 of 5)" in conclusion.cautions[0].text


def test_nothing_finished():
    given = comparison(methods=METHODS[:2])
    failed = tuple(replace(t, status="failed", returns=(), curve=()) for t in given.trials)
    conclusion = conclude(compute_findings(replace(given, trials=failed)))
    assert conclusion.lead.startswith("No trial has a result") and conclusion.sentences == ()


def test_a_method_that_finished_nowhere_is_named():
    given = comparison(methods=METHODS[:3])
    gone = tuple(replace(t, status="failed") if (t.method, t.env) == ("flow", ENVS[0]) else t for t in given.trials)
    remarks = conclude(compute_findings(replace(given, trials=gone))).remarks
    assert remarks[-1] == "Not compared over all environments, because no run finished on at least one: flow."


@pytest.mark.parametrize("references", [{}, {ENVS[0]: Reference(-30, 900, "")}])
def test_without_references_each_environment_is_compared_separately(references):
    conclusion = conclude(compute_findings(replace(comparison(), references=references)))
    assert all(f"On {env} (" in conclusion.lead for env in ENVS)
    assert conclusion.remarks[-1].startswith(
        "Each environment is compared separately, because there are no reference scores for"
    )
    assert len([one for one in conclusion.sentences if one.text.startswith("On ")]) == len(ENVS) * len(BASELINES)


def test_an_environment_on_which_all_score_the_same_is_named():
    given = comparison(methods=METHODS[:2])
    same = tuple(replace(trial, returns=(1.0, 1.0)) if trial.env == ENVS[0] else trial for trial in given.trials)
    titles = [one.title for one in conclude(compute_findings(replace(given, trials=same))).cautions]
    assert f"All runs score the same on {ENVS[0]}" in titles
    assert not any("score the same" in one.title for one in conclude(compute_findings(given)).cautions)
