"""Claims evaluated on comparisons whose outcomes are known by construction, and the files written about them."""

from __future__ import annotations

import json
import math
import re
import shlex
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from roundup_kit import CLEAR, PARTS, ROUNDUP, SEEDS, claim, comparison, prediction

import worldlab.study.roundup.run as roundup_run
from worldlab import cli
from worldlab.errors import ConfigError
from worldlab.registry import load_registry
from worldlab.study.compare.cell_file import CellFile, CellSpec, write_cell
from worldlab.study.compare.plan import plan
from worldlab.study.results import Comparison
from worldlab.study.roundup.claims import Prediction, RoundupPart, make_mixes, read_roundup
from worldlab.study.roundup.method_values import TRIAL_QUANTITIES, collect_values
from worldlab.study.roundup.publish import publish
from worldlab.study.roundup.run import run_roundup
from worldlab.study.roundup.verdicts import ClaimResult, evaluate_claim, tally


def outcome(one: Prediction, found: Comparison = CLEAR) -> str:
    (result,) = evaluate_claim(claim(one), {"toy": found}).prediction_results
    return result.outcome


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (prediction("high", "above", "low"), "holds"),
        (prediction("low", "above", "high"), "fails"),
        (prediction("low", "below", "high"), "holds"),
        (prediction("same", "above", "low"), "open"),
        (prediction("same", "about", "low", margin=0.1), "holds"),
        (prediction("same", "about", "low", margin=0.001), "open"),
        (prediction("high", "about", "low", margin=0.1), "fails"),
        (prediction("high", "not below", "low", margin=0.1), "holds"),
        (prediction("high", "not above", "low", margin=0.1), "fails"),
        (prediction("same", "not above", "low", margin=0.1), "holds"),
        (prediction("high", "above", 1.5), "holds"),
        (prediction("high", "below", 1.5), "fails"),
        (prediction("mute", "above", 0.0, "toy/speed"), "open"),  # 0 in all runs is not above 0,
        (prediction("mute", "below", 0.0, "toy/speed"), "open"),  # nor below,
        (prediction("mute", "not above", 0.0, "toy/speed"), "holds"),  # but at most 0
        (prediction("high", "above", 2.02), "open"),
        (prediction("high", "about", "low", "toy/speed", margin=200.0, log=True), "holds"),
        (prediction("high", "about", "low", "toy/speed", margin=2.0, log=True), "fails"),
        (prediction("high", "above", 500.0, "toy/speed", log=True), "holds"),
        (prediction("mute", "about", "low", "toy/speed", margin=2.0, log=True), "undefined"),
        (prediction("mute", "above", "low"), "undefined"),
        (prediction("nobody", "above", "low"), "undefined"),
        (prediction("high", "above", "low", "toy/unknown"), "undefined"),
        (prediction("high", "above", "high", "toy/speed", y_quantity="toy/sharp"), "holds"),
        (prediction("high", "below", "high", "toy/speed", y_quantity="toy/sharp"), "fails"),
    ],
    ids=lambda value: value.sentence if isinstance(value, Prediction) else "",
)
def test_outcomes_of_predictions(one, expected):
    assert outcome(one) == expected


def test_an_error_that_all_runs_share_is_not_averaged_away():
    """Five runs of 0.10 +- 0.01, measured on the same frames with error 0.08, do not show that 0.10 is above 0."""
    for error, expected in ((0.0, "holds"), (0.04, "holds"), (0.08, "open")):
        found = comparison({"a": {"toy/sharp": lambda s: 0.1 + 0.002 * s}})
        trials = tuple(
            replace(one, measures={"toy/sharp": replace(one.measures["toy/sharp"], error=error)})
            for one in found.trials
        )
        (result,) = evaluate_claim(
            claim(prediction("a", "above", 0.0)), {"toy": replace(found, trials=trials)}
        ).prediction_results
        assert result.outcome == expected
        assert (result.x.low > 0) == (expected == "holds"), "the interval that is shown is the one that decided"


def test_two_quantities_of_the_same_runs_are_compared_run_by_run():
    """Runs differ by 100, and two quantities differ by 1 in every run."""
    of = {"toy/sharp": lambda s: 100.0 * s + 1 + 0.01 * s, "toy/speed": lambda s: 100.0 * s}
    found = comparison({"a": of, "b": {**of, "toy/sharp": "nothing"}})
    one = prediction("a", "above", "a", y_quantity="toy/speed")
    (result,) = evaluate_claim(claim(one), {"toy": found}).prediction_results
    assert result.outcome == "holds" and result.difference is not None
    assert result.difference.estimate == pytest.approx(1.02) and "run by run" in result.why
    assert outcome(prediction("a", "below", "a", y_quantity="toy/speed"), found) == "fails"
    assert outcome(prediction("b", "above", "b", y_quantity="toy/speed"), found) == "undefined"


def test_few_runs_without_failure_do_not_prove_a_low_failure_rate():
    """Wilson: of 5 runs without a failure up to 43% may fail, of 50 up to 7%."""
    few, many = (comparison({"a": {}}, seeds=range(count)) for count in (5, 50))
    assert outcome(prediction("a", "below", 0.1, "failed"), few) == "open"
    assert outcome(prediction("a", "below", 0.1, "failed"), many) == "holds"


def test_undefined_predictions_have_a_reason():
    (result,) = evaluate_claim(claim(prediction("mute", "above", "low")), {"toy": CLEAR}).prediction_results
    assert result.why == "mute: it has no density"
    (result,) = evaluate_claim(claim(prediction("a", "above", "b")), {}).prediction_results
    assert result.why == "part 'toy' did not measure it" and result.outcome == "undefined"


def test_few_seeds_decide_nothing():
    few = comparison(
        {"low": {"toy/sharp": lambda s: s / 100}, "high": {"toy/sharp": lambda s: 5.0 + s / 100}}, seeds=range(3)
    )
    (result,) = evaluate_claim(claim(prediction("high", "above", "low")), {"toy": few}).prediction_results
    assert result.outcome == "open" and "too few seeds" in result.why
    single = comparison({"low": {"toy/sharp": lambda s: 1.0}}, seeds=[0])
    assert outcome(prediction("low", "above", 0.5), single) == "open"


def test_predictions_of_one_claim_are_corrected_together():
    """5 runs a side that never overlap: p = 2 / 252 alone, times 7 for seven of them is above 0.05."""
    wins = prediction("high", "above", "low")
    (alone,) = evaluate_claim(claim(wins), {"toy": CLEAR}).prediction_results
    assert alone.p_value == pytest.approx(2 / math.comb(10, 5))
    many = evaluate_claim(claim(*[wins] * 7), {"toy": CLEAR})
    assert many.prediction_results[0].p_value == pytest.approx(14 / math.comb(10, 5)) and many.verdict == "INCONCLUSIVE"


def test_a_claim_depends_on_all_its_predictions():
    good, bad = prediction("high", "above", "low"), prediction("low", "above", "high")
    open_, mute = prediction("same", "above", "low"), prediction("mute", "above", "low")
    verdicts = [
        evaluate_claim(claim(*predictions), {"toy": CLEAR}).verdict
        for predictions in ((good,), (good, bad), (good, open_), (good, mute))
    ]
    assert verdicts == ["CONFIRMED", "REFUTED", "INCONCLUSIVE", "INCONCLUSIVE"]
    assert (
        evaluate_claim(claim(good, bad, mute), {"toy": CLEAR}).why
        == "of 3 predictions: 1 holds, 1 fails, 1 is undefined"
    )


def test_the_error_rate_is_at_most_the_level():
    """For two equal methods, a strict prediction is decided either way in at most 5% of 300 repetitions."""
    rng, decided = np.random.default_rng(0), 0
    for _ in range(300):
        noise = {label: rng.standard_normal(5) for label in ("a", "b")}
        toss = comparison({label: {"toy/sharp": lambda s, v=values: v[s]} for label, values in noise.items()})
        decided += outcome(prediction("a", "above", "b"), toss) != "open"
    assert decided / 300 < 0.05 + 3 * (0.05 * 0.95 / 300) ** 0.5


# ---- quantities of trials ----


def test_returns_failures_and_spreads_by_hand():
    found = comparison(
        {"calm": {}, "wild": {}},
        {"calm": lambda s: 10 + 0.1 * s, "wild": lambda s: 100.0 * s},
        failed={("wild", 4)},
    )
    assert collect_values(found, "return").values["calm"].tolist() == pytest.approx([10, 10.1, 10.2, 10.3, 10.4])
    assert collect_values(found, "failed").values["wild"].tolist() == [0, 0, 0, 0, 1]
    assert collect_values(found, "spread").values["wild"].tolist() == [
        150,
        50,
        50,
        150,
    ]  # median 150 of 0, 100, 200, 300
    assert collect_values(found, "parameters").values["calm"].tolist() == [100] * 5
    with pytest.raises(KeyError):
        collect_values(found, "toy/unknown")


def test_ranks_by_hand():
    """speed: high 1, same 2, low 3, mute 4. sharp: high 1, same 2, low 3; not used among all four, as mute has none."""
    names = ("low", "high", "same", "mute")
    found = collect_values(CLEAR, "rank", ("toy/sharp", "toy/speed"), names)
    ranks = {label: set(found.values[label]) for label in names}
    assert ranks == {"low": {3.0}, "high": {1.0}, "same": {2.0}, "mute": {4.0}}
    three = collect_values(CLEAR, "rank", ("toy/sharp", "toy/speed"), names[:3])
    assert {label: set(three.values[label]) for label in names} == {**ranks, "mute": set()}
    assert three.why["mute"] == "not ranked" and three.why["low"] == ""
    pair = collect_values(CLEAR, "rank", ("toy/sharp",), ("low", "mute"))
    assert not len(pair.values["low"]) and pair.why["low"] == "no seed for which all methods have a quantity"
    wild = comparison({"a": {}, "b": {}}, {"a": lambda s: 1.0 * s, "b": lambda s: 10.0 * s})
    assert set(collect_values(wild, "rank", ("spread",), ("a", "b")).values["b"][[0, 4]]) == {2.0}, (
        "farther from its own median"
    )
    tie = comparison({label: {"toy/sharp": lambda s: 1.0} for label in "ab"})
    assert set(collect_values(tie, "rank", ("toy/sharp",), ("a", "b")).values["a"]) == {1.5}


# ---- reading roundup.toml ----


def test_mixes_swap_one_part_at_a_time():
    assert make_mixes("a", ["a", "b"], ["pure", "decoder"]) == [
        {"name": "a", "encoder": "a", "dynamics": "a", "decoder": "a"},
        {"name": "b", "encoder": "b", "dynamics": "b", "decoder": "b"},
        {"name": "b decoder", "encoder": "a", "dynamics": "a", "decoder": "b"},
    ]
    assert [row["name"] for row in make_mixes("a", ["a", "b", "c"], ["encoder"])] == ["a", "b encoder", "c encoder"]


def test_the_packaged_roundup_is_consistent():
    """There are 20 claims, and each part has every method and quantity that its predictions name."""
    roundup, registry = read_roundup(), load_registry()
    assert [one.number for one in roundup.claims] == list(range(1, 21))
    assert [len(plan(roundup_run._part_matrix(part, [roundup.quick]), registry).matrix.seeds) for part in roundup.parts]
    for part in roundup.parts:
        planned = plan(roundup_run._part_matrix(part, []), registry)
        assert len(planned.matrix.seeds) >= 5 and part.about
        labels = {method.label for method in planned.methods}
        known = {quantity.name for quantity in planned.quantities} | TRIAL_QUANTITIES.keys()
        for one in roundup.claims:
            for named in (p for p in one.predictions if p.part == part.name):
                assert {side for side in (named.x, named.y) if isinstance(side, str)} <= labels, named
                quantities = (named.quantity, named.y_quantity, *one.columns)
                assert {name for name in quantities if name} <= known, named
        # With five seeds, Holm's correction leaves room for six predictions.
        assert all(sum(c.relation in ("above", "below") for c in one.predictions) <= 6 for one in roundup.claims)


ONE_CLAIM = """
    [[part]]
    name = "p"
    [[claim]]
    number = 7
    claim = "c"
    part = "p"
    quantity = "q"
    predictions = [{prediction}]
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("titel = 1", "roundup: roundup.toml has no key 'titel'"),
        ('[[part]]\nname = "a"\nmatrx = 1', "roundup: [[part]] has no key 'matrx'"),
        ('[[claim]]\nnumber = 1', "roundup: [[claim]] 1 has no 'claim'"),
        ('[[claim]]\nnumber = 1\nclaim = "c"\npart = "p"\nquantity = "q"\npredictions = [{x = "a", is = "abve", y = "b"}]',
         "roundup: claim 1: no relation 'abve'. Did you mean 'above'?"),
        ('[[claim]]\nnumber = 1\nclaim = "c"\npart = "p"\nquantity = "q"\npredictions = [{x = "a", is = "above", y = "b"}]',
         "roundup: no part named 'p'"),
        (ONE_CLAIM.format(prediction=""), "roundup: claim 7 predicts nothing"),
        (ONE_CLAIM.format(prediction="{x = 'a', is = 'above', y = 'b', margin = 0.5}"), "roundup: claim 7: 'above' has no margin"),
        (ONE_CLAIM.format(prediction="{x = 'a', is = 'about', y = 'b', margin = 0.5, log = true}"),
         "roundup: claim 7: with log a margin is a factor above 1, got 0.5"),
        (ONE_CLAIM.format(prediction="{x = 'a', is = 'about', y = 'b', margin = -1}"), "roundup: claim 7: a margin is at least 0"),
        (ONE_CLAIM.format(prediction="{x = 'a', is = 'above', y = 0.0, log = true}"), "roundup: claim 7: 0 has no logarithm"),
        (ONE_CLAIM.format(prediction="{x = 'a', is = 'above', y = 'b', quantity = 'rank'}"),
         "roundup: claim 7: rank needs columns to rank by"),
        ("[[part]]\nname = 'a'\nmatrix = 'b'", "roundup: a matrix must be a table, got 'b'"),
        ("[", "roundup: "),
        ('title = "t"', "roundup: "),
        ("[[part]]\nabout = 'a'", "roundup: [[part]] ? has no 'name'"),
        ("[[part]]\nname = 'a'\nmixes = ['pure']", "roundup: [[part]] a has no 'base'"),
    ],
)  # fmt: skip
def test_an_error_in_the_file_is_reported(tmp_path, text, message):
    path = tmp_path / "roundup.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        read_roundup(path)
    assert error.value.message.startswith(message)


CLAIM = """
[[claim]]
number = 1
claim = "c"
part = "p"
quantity = "return"
predictions = [{ x = "a", is = "above", y = "b" }]
"""


def test_the_agent_of_a_part_applies_to_all_its_models(tmp_path):
    path = tmp_path / "roundup.toml"
    path.write_text(
        """
        [[part]]
        name = "p"
        agent = "random"
        matrix.axes.env = "CartPole"
        matrix.axes.encoder = ["vae", "cpc"]
    """
        + CLAIM
    )
    assert read_roundup(path).part("p").matrix["axes"]["agent"] == "random"


def test_paths_are_relative_to_the_roundup_file(tmp_path):
    path = tmp_path / "roundup.toml"
    path.write_text(
        """
        [[part]]
        name = "p"
        matrix.plugins = ["mine.py"]
        matrix.configs = ["sub/a.toml", "/b.toml"]
    """
        + CLAIM
    )
    assert read_roundup(path).part("p").matrix == {
        "plugins": [str(tmp_path / "mine.py")],
        "configs": [str(tmp_path / "sub/a.toml"), "/b.toml"],
    }


# ---- running and writing ----


def test_the_written_files_agree_and_are_self_contained(tmp_path):
    results = [evaluate_claim(one, {"toy": CLEAR}) for one in ROUNDUP.claims]
    paths = publish(ROUNDUP, results, {"toy": CLEAR}, tmp_path)
    page, text = paths["roundup.html"].read_text(), paths["roundup.md"].read_text()
    found = json.loads(paths["roundup.json"].read_text())
    assert [one["verdict"] for one in found["claims"]] == ["CONFIRMED", "REFUTED"] and found["tally"] == tally(results)
    assert found["claims"][0]["values"]["high"] == pytest.approx([2 + 0.01 * s for s in SEEDS])
    assert found["claims"][1]["undefined"] == {"mute": "it has no density"}
    assert found["claims"][0]["predictions"][0]["p"] == results[0].prediction_results[0].p_value
    for shown in ("✓ CONFIRMED", "✗ REFUTED"):
        assert shown in page and shown in text
    assert "Toys &amp; &lt;more&gt;" in page and "mute: it has no density" in page and "counted" in page
    assert not re.search(r"""(src|href)=["'](?!#|data:|parts/)""", page)
    assert r"1.02 \[1.00, 1.04\] n = 5" in text
    drawing = ET.fromstring(paths["verdicts.svg"].read_text())
    assert drawing.tag == "{http://www.w3.org/2000/svg}svg"
    texts = [node.text for node in drawing.iter("{http://www.w3.org/2000/svg}text")]
    assert texts == ["1", "one is sharper", "✓ confirmed", "2", "one is sharper", "✗ refuted"]
    again = publish(ROUNDUP, results, {"toy": CLEAR}, tmp_path / "again")
    assert [path.read_bytes() for path in again.values()] == [path.read_bytes() for path in paths.values()]


@pytest.fixture
def ran(monkeypatch) -> list:
    """Replace `compare` by a stub, and record the calls."""
    calls: list = []

    def compare(matrix, registry, folder, command):
        calls.append((folder.name, matrix))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "matrix.toml").write_text("")
        return CLEAR

    monkeypatch.setattr(roundup_run, "compare", compare)
    monkeypatch.setattr(roundup_run, "_check_names", lambda roundup, planned: None)  # these methods are in no plan
    monkeypatch.setattr(roundup_run, "load_results", lambda matrix, registry, folder, command: CLEAR)
    return calls


def test_chosen_parts_run_and_others_are_read_from_the_folder(ran, tmp_path):
    registry = load_registry()
    run_roundup(ROUNDUP, registry, tmp_path, layers=[{"seeds": 3}])
    assert [name for name, _ in ran] == ["toy", "other"] and ran[0][1].seeds == (0, 1, 2)
    results = run_roundup(ROUNDUP, registry, tmp_path, ["other"])
    assert [name for name, _ in ran[2:]] == ["other"] and [one.verdict for one in results] == ["CONFIRMED", "REFUTED"]
    results = run_roundup(ROUNDUP, registry, tmp_path / "new", ["other"])
    assert {one.verdict for one in results} == {"INCONCLUSIVE"}
    assert (tmp_path / "new" / "roundup.html").is_file()


def test_results_of_a_stale_part_are_not_lost(ran, tmp_path, monkeypatch):
    """None of the part's finished cells is current and the part is not run now, so the report is not overwritten."""
    run_roundup(ROUNDUP, load_registry(), tmp_path)
    before = (tmp_path / "roundup.json").read_bytes()
    spec = CellSpec("low", "CartPole-v1", 0, "model", "0" * 64, {})
    cell = tmp_path / "parts" / "toy" / "cells" / "low"
    cell.mkdir(parents=True)
    write_cell(cell, CellFile(spec, replace(spec.empty_trial, status="finished")))
    blank = replace(CLEAR, trials=tuple(replace(trial, status="missing") for trial in CLEAR.trials))
    monkeypatch.setattr(roundup_run, "load_results", lambda matrix, registry, folder, command: blank)
    with pytest.raises(ConfigError, match="part 'toy' was run with other settings or code") as error:
        run_roundup(ROUNDUP, load_registry(), tmp_path, ["other"])
    assert "--parts toy" in error.value.fix and (tmp_path / "roundup.json").read_bytes() == before
    run_roundup(ROUNDUP, load_registry(), tmp_path, ["other", "toy"])


@pytest.mark.parametrize("column", ["failed", "parameters", "sharpness/ratio_posterior"])
def test_methods_are_ranked_only_by_rankable_quantities(column):
    roundup = read_roundup()
    (rank,) = [one for one in roundup.claims if one.quantity == "rank"]
    wrong = replace(roundup, claims=(replace(rank, columns=(column,)),))
    planned = {part.name: plan(roundup_run._part_matrix(part, []), load_registry()) for part in roundup.parts[:1]}
    with pytest.raises(ConfigError, match=f"cannot be ranked by '{column}'"):
        roundup_run._check_names(wrong, planned)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"x": "gan decodr"}, "claim 1: no method 'gan decodr' in part 'pictures'. Did you mean 'gan decoder'?"),
        ({"quantity": "bits/bond"}, "claim 1: no quantity 'bits/bond' in part 'pictures'. Did you mean 'bits/bound'?"),
        ({"y_quantity": "diversity/density"}, "claim 1: no quantity 'diversity/density' in part 'pictures'"),
    ],
)
def test_unknown_names_are_reported_before_anything_runs(monkeypatch, tmp_path, wrong, message):
    def never(*_):
        raise AssertionError("it ran")

    monkeypatch.setattr(roundup_run, "compare", never)
    roundup = read_roundup()
    first = roundup.claims[0]
    first = replace(first, predictions=(replace(first.predictions[0], **wrong), *first.predictions[1:]))
    with pytest.raises(ConfigError) as error:
        run_roundup(replace(roundup, claims=(first, *roundup.claims[1:])), load_registry(), tmp_path, ["pictures"])
    assert error.value.message.startswith(f"roundup: {message}"[:97])
    assert not any(tmp_path.iterdir())


def test_one_seed_is_written_without_an_interval(tmp_path):
    single = comparison({"high": {"toy/sharp": lambda s: 1.0}, "low": {"toy/sharp": lambda s: 0.5}}, seeds=[0])
    results = [evaluate_claim(one, {"toy": single}) for one in ROUNDUP.claims]
    paths = publish(ROUNDUP, results, {"toy": single}, tmp_path)
    found = json.loads(paths["roundup.json"].read_text())["claims"][0]["predictions"][0]
    assert found["x"]["estimate"] == 1.0 and found["x"]["low"] is None and found["difference"]["high"] is None


def test_an_interrupt_writes_the_results_so_far(ran, tmp_path, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(roundup_run, "compare", stopped)
    with pytest.raises(KeyboardInterrupt):
        run_roundup(ROUNDUP, load_registry(), tmp_path)
    assert json.loads((tmp_path / "roundup.json").read_text())["claims"][0]["verdict"] == "CONFIRMED"


def test_errors_are_reported_before_anything_runs(ran, tmp_path):
    two = replace(ROUNDUP, parts=(PARTS[0], RoundupPart("other", "", {"axes": {"env": ["CartPole", "Pendulum"]}})))
    for roundup, chosen, message in (
        (ROUNDUP, ["othr"], "no part named 'othr'. Did you mean 'other'?"),
        (two, [], "part 'other' has 2 environments"),
        (
            replace(
                ROUNDUP, parts=(PARTS[0], RoundupPart("x", "", {"axes": {"env": "CartPole", "encoder": "nobody"}}))
            ),
            [],
            "nobody",
        ),
    ):
        with pytest.raises(Exception, match=message):
            run_roundup(roundup, load_registry(), tmp_path, chosen)
    assert ran == []


def test_the_command(ran, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text(
        'title = "Mine"\n[quick]\nseeds = 2\n[[part]]\nname = "toy"\nabout = "A toy."\nmatrix.axes.env = "CartPole"\n'
        '[[claim]]\nnumber = 1\nclaim = "c"\npart = "toy"\nquantity = "toy/sharp"\n'
        'predictions = [{x = "high", is = "above", y = "low"}]\n'
    )
    assert cli.main(shlex.split("roundup mine.toml --quick --jobs 2 --out there --json")) == 0
    written = json.loads(capsys.readouterr().out)
    assert written["verdicts"] == {"1. c": "CONFIRMED"} and written["tally"] == "1 confirmed, 0 refuted, 0 inconclusive"
    assert ran[0][1].seeds == (0, 1) and ran[0][1].jobs == 2 and Path("there/roundup.html").is_file()
    assert cli.main(shlex.split("roundup mine.toml --seeds 4 --out there")) == 0
    assert ran[1][1].seeds == (0, 1, 2, 3) and " 1  CONFIRMED  c\n" in capsys.readouterr().out
    assert cli.main(shlex.split("roundup nothere.toml")) == 2


def test_a_claim_without_its_part_has_no_values():
    one = evaluate_claim(claim(prediction("a", "above", "b")), {})
    assert isinstance(one, ClaimResult) and one.method_values is None and one.verdict == "INCONCLUSIVE"
