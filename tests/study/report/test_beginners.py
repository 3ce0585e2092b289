"""What the report of a first comparison says: two short models that learned nothing, beside three baselines."""

from __future__ import annotations

import math

import pytest
from worldlab_envs.gymnasium_adapter import GymnasiumAdapter
from worldlab_envs.linear_gaussian import ADAPTER as LINEAR_GAUSSIAN

from worldlab.settings import EnvSettings
from worldlab.study.report import svg
from worldlab.study.report.findings import compute_findings
from worldlab.study.report.formats import format_bounds
from worldlab.study.report.page import make_tables, render_page
from worldlab.study.report.verdict import conclude
from worldlab.study.results import Comparison, Measurement, Method, Quantity, Reference, Trial

ENV = "CartPole-v1"
METHODS = (
    Method("fsq", "fsq", "model"),
    Method("vae", "vae", "model"),
    Method("random", "random actions", "baseline", agent="random"),
    Method("untrained", "fsq, untrained dynamics", "baseline"),
    Method("free", "model-free PPO", "baseline"),
)
SCORES = {"fsq": (10, 16), "vae": (8.5, 8.5), "random": (22.1, 24.7), "untrained": (12.3, 8.9), "free": (60, 112)}
QUANTITIES = tuple(Quantity(name, name.upper(), "", None, "") for name in ("rank", "kid", "coverage", "r2"))


def made(scores=SCORES, bounds=(0.0, 500.0)) -> Comparison:
    measures = {
        "rank": Measurement(2.0),
        **dict.fromkeys(("kid", "coverage"), Measurement(None, why="there are no pictures")),
        "r2": Measurement(None, why="the state is unknown"),
    }
    trials = tuple(
        Trial(
            m.key,
            ENV,
            seed,
            "finished",
            returns=(value - 1, value + 1),
            curve=((600, value),),
            updates=69 if m.kind == "model" else 0,
            measures=measures if m.kind == "model" else {q.name: Measurement(None, why="no model") for q in QUANTITIES},
        )
        for m in METHODS
        for seed, value in enumerate(scores[m.key])
    )
    reference = Reference(23.4, 86.0, "of this test")
    known = {ENV: bounds} if bounds else {}
    return Comparison(
        "first", METHODS, (ENV,), (0, 1), trials, QUANTITIES, {ENV: reference}, {ENV: {"env_steps": 600}}, {}, known
    )


def test_it_says_aloud_that_no_model_beats_random_actions():
    (found,) = [one for one in conclude(compute_findings(made())).cautions if "random" in one.title]
    assert found.title == "No model beats random actions on CartPole-v1"
    assert found.text.startswith(
        "The best mean return of a model is 13.0 (fsq), that of random actions 23.4. After 69 "
    )
    better = {**SCORES, "vae": (30.0, 31.0)}
    assert not [one for one in conclude(compute_findings(made(better))).cautions if "random" in one.title]


def test_intervals_stay_within_the_possible_returns_if_these_are_known():
    free, clipped = compute_findings(made(bounds=None)), compute_findings(made())
    assert free.returns["free", ENV].low < 0 and free.returns["free", ENV].high < 500
    assert clipped.returns["free", ENV].low == 0 and clipped.returns["free", ENV].high == free.returns["free", ENV].high
    assert float(free.curves["free", ENV].low[0]) < 0 == float(clipped.curves["free", ENV].low[0])
    least = (0 - 23.4) / (86 - 23.4)
    assert clipped.aggregates["free"]["iqm"].low == pytest.approx(least)
    assert (
        clipped.aggregates["fsq"]["optimality_gap"].high <= 1 - least < free.aggregates["free"]["optimality_gap"].high
    )
    assert clipped.resampled["free", ENV].low == 60 and clipped.resampled["free", ENV].high == 112


def test_bounds_that_a_run_has_left_are_not_believed():
    findings = compute_findings(made(bounds=(0.0, 50.0)))
    assert findings.returns["free", ENV].low < 0


def test_equal_seeds_have_no_spread():
    assert format_bounds(8.5, 8.5, 1) == "no spread" and format_bounds(8.5, 8.6, 1) == "[8.5, 8.6]"
    rows = {row[0].text: row for row in table(f"Returns on {ENV}").rows}
    assert [cell.line for cell in rows["vae"][2:4]] == ["8.5 no spread", "no spread"]
    assert rows["fsq"][3].text == "[10.0, 16.0]"


def table(title: str):
    return next(one for one in make_tables(compute_findings(made())) if one.title == title)


def test_measures_that_are_undefined_for_all_are_one_line_for_each_reason():
    measures = table(f"Measures on {ENV}")
    assert [row[0].text for row in measures.rows] == ["RANK"]
    assert "Undefined for all, because there are no pictures: KID and COVERAGE." in measures.remarks
    assert "Undefined for all, because the state is unknown: R2." in measures.remarks


def test_the_optimality_gap_is_explained():
    assert any(remark.startswith("Optimality gap: ") for remark in table("Normalised scores").remarks)


def test_names_are_wrapped_and_not_cut():
    assert svg.wrap("fsq, untrained dynamics", 122.0) == ["fsq, untrained", "dynamics"]
    assert svg.wrap("vae", 122.0, " n 3") == ["vae n 3"]
    assert len(svg.wrap("word " * 50, 122.0)) == svg.LINES
    findings = compute_findings(made())
    page = render_page(findings, conclude(findings), {}, [])
    assert "dyn…" not in page and page.count(">fsq, untrained</text>") >= 5


def test_adapters_know_possible_returns():
    adapter = GymnasiumAdapter()
    assert adapter.return_bounds("CartPole-v1", EnvSettings()) == (0.0, 500.0)
    assert adapter.return_bounds("CartPole-v1", EnvSettings(time_limit=20, repeat=2)) == (0.0, 40.0)
    low, high = adapter.return_bounds("Pendulum-v1", EnvSettings()) or (0.0, 0.0)
    assert -3260 < low < -3250 and high == 0
    assert adapter.return_bounds("CarRacing-v3", EnvSettings()) is None
    assert LINEAR_GAUSSIAN.return_bounds("", EnvSettings()) == (-math.inf, 0.0)
