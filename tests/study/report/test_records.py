"""results.csv and summary.json contain the comparison's own numbers, and no spreadsheet formula."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import pytest
from report_kit import ENVS, QUANTITIES, comparison
from report_payloads import PAYLOADS

from worldlab.runs.parse import parse_json
from worldlab.runs.storage import dump_json
from worldlab.study.report.findings import compute_findings
from worldlab.study.report.records import results_csv, summary
from worldlab.study.report.verdict import conclude
from worldlab.study.results import Method
from worldlab.training.panel import plain_text


def test_one_row_per_trial():
    given = comparison()
    rows = list(csv.DictReader(io.StringIO(results_csv(given))))
    assert len(rows) == len(given.trials)
    for row, trial in zip(rows, given.trials):
        assert (row["method"], row["env"], row["seed"], row["status"]) == (
            trial.method,
            trial.env,
            str(trial.seed),
            trial.status,
        )
        if trial.status == "finished":
            assert float(row["mean_return"]) == trial.score
            assert json.loads(row["returns"]) == list(trial.returns)
            reference = given.references[trial.env]
            assert float(row["normalised"]) == (trial.score - reference.zero) / (reference.one - reference.zero)
            assert float(row["wall_seconds"]) == trial.wall_seconds
        else:
            assert row["mean_return"] == "" and row["cause"] == trial.cause
        for quantity in QUANTITIES:
            one = trial.measures.get(quantity.name)
            assert row[quantity.name] == ("" if one is None or one.value is None else str(one.value))
            assert row[f"{quantity.name} why"] == (one.why if one else "")


@pytest.mark.parametrize("payload", PAYLOADS)
def test_no_cell_is_a_formula(payload):
    given = comparison(seeds=(0,), methods=comparison().methods[:1])
    trial = replace(given.trials[0], method=payload, status="failed", cause=payload, folder=payload)
    given = replace(given, methods=(Method(payload, payload, "model"),), trials=(trial,))
    text = results_csv(given)
    (row,) = csv.DictReader(io.StringIO(text))
    for name in ("method", "label", "cause", "folder"):
        assert not row[name].lstrip().startswith(("=", "+", "-", "@", "＝", "＋", "－", "＠"))
        assert row[name].removeprefix("'") == plain_text(payload).removeprefix("'")
    assert all(letter.isprintable() or letter == "\n" for letter in text)


def test_numbers_below_zero_stay_numbers():
    row = next(csv.DictReader(io.StringIO(results_csv(comparison()))))
    assert any(value < 0 for trial in comparison().trials for value in trial.returns)
    low = next(
        r for r in csv.DictReader(io.StringIO(results_csv(comparison()))) if r["env"] == ENVS[1] and r["mean_return"]
    )
    assert float(low["mean_return"]) < 0 and row["returns"].startswith("[")


def test_the_summary_is_the_findings():
    findings = compute_findings(comparison())
    conclusion = conclude(findings)
    found = parse_json(dump_json(summary(findings, conclusion)))
    for method, aggregates in findings.aggregates.items():
        for name, one in aggregates.items():
            written = found["aggregates"][method][name]
            assert (written["estimate"], written["low"], written["high"], written["runs"]) == (
                one.estimate,
                one.low,
                one.high,
                one.runs,
            )
            assert written["bootstrap"]["low"] == findings.published[method][name].low
    assert {(r["method"], r["env"]): (r["estimate"], r["runs"]) for r in found["returns"]} == {
        key: (one.estimate, one.runs) for key, one in findings.returns.items()
    }
    assert {(r["x"], r["y"]): r["low"] for r in found["improvement"]} == {
        k: one.low for k, one in findings.improvement.items()
    }
    pairs = [pair for family in findings.families for pair in family.pairs]
    assert [(r["x"], r["y"], r["p_value"], r["verdict"]) for r in found["comparisons"]] == [
        (pair.x, pair.y, pair.difference.p_value, pair.difference.verdict) for pair in pairs
    ]
    assert found["profiles"]["flow"]["estimate"] == findings.profiles["flow"].estimate.tolist()
    assert {m["why"][0] for m in found["measures"] if m["estimate"] is None and m["method"] == "gan"} == {
        "p(z) is known by its samples only"
    }
    assert found["verdict"]["lead"] == conclusion.lead
    assert [t["cause"] for t in found["trials"] if t["status"] == "failed"] == [
        t.cause for t in comparison().trials if t.cause
    ]


def test_texts_that_are_no_unicode_and_numbers_that_are_none_become_json():
    """A lone surrogate and NaN in untrusted texts."""
    given = comparison(seeds=(0,), methods=comparison().methods[:1])
    given = replace(given, title="a\ud800b", about={"x\x1b[1m": float("nan"), "path": given})
    findings = compute_findings(given)
    found = parse_json(dump_json(summary(findings, conclude(findings))))
    assert found["title"] == "ab" and found["about"]["x"] is None
    assert found["returns"][0]["low"] is None  # one run has no interval
