"""The score references: which returns define scores 0 and 1."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from worldlab.registry import load_registry
from worldlab.settings import EnvSettings
from worldlab.study.compare.cell_file import CellFile, CellSpec, write_cell
from worldlab.study.compare.collect import MIN_EPISODES, collect, find_reference, reward_threshold
from worldlab.study.compare.matrix import matrix_of
from worldlab.study.compare.plan import plan
from worldlab.study.results import Measurement, Method, Trial


def config(env="Unknown-v0", **settings) -> Any:
    return SimpleNamespace(core=SimpleNamespace(env=EnvSettings(id=env, **settings)))


def found(kind: str, label: str, *returns: float, status="finished", env="Unknown-v0") -> Any:
    cell = SimpleNamespace(kind=kind, method=Method(label, label, "model"), config=config(env), env=env)
    return cell, Trial(label, env, 0, status, returns=returns)


def test_0_is_random_play_and_1_the_best_mean():
    play = [found("random", "r", *[1, 3] * 3), found("random", "r", *[5, 7] * 3)]
    rows = [*play, found("model", "a", 8, 10), found("model", "a", 20)]
    reference = find_reference([*rows, found("model", "b", 13), found("model", "c", 99, status="failed")])
    assert reference is not None and (reference.zero, reference.one) == (4.0, 14.5)
    assert (
        reference.why
        == "0: mean return of 12 episodes of random actions; 1: the best mean return in this comparison (a)"
    )


def test_1_is_the_reward_threshold_if_there_is_one():
    rows = [found("random", "r", 20, env="CartPole-v1"), found("model", "a", 500, env="CartPole-v1")]
    reference = find_reference(rows)
    assert reference is not None and (reference.zero, reference.one) == (20.0, 475.0)
    assert "reward threshold in Gymnasium" in reference.why


def test_1_is_a_standard_deviation_above_random_play_if_no_model_is_better():
    rows = [found("random", "r", *[1, 3] * 5), found("model", "a", -5)]
    reference = find_reference(rows)
    assert reference is not None and (reference.zero, reference.one) == (2.0, 3.0)
    assert reference.why.endswith("1: a standard deviation above it, as no mean return is higher")
    assert find_reference([found("model", "a", 5)]) is None


def test_there_is_no_reference_with_few_episodes_of_random_play():
    """With few episodes the standard deviation is unreliable: random agents were seven of them below random play."""
    few = [found("random", "r", *[0.58] * (MIN_EPISODES - 1)), found("model", "a", -6.4)]
    assert find_reference(few) is None
    assert find_reference([*few, found("random", "r", 0.58)]) is not None


@pytest.mark.parametrize("least", [5.5, np.nextafter(4.0, 5.0), 4.0])
def test_1_is_at_least_a_standard_deviation_above_0(least):
    """A best mean within a standard deviation of random play does not define score 1; neither does random play."""
    rows = [
        found("random", "r", *[2, 6] * 2),
        found("random", "r", *[4, 4] * 2),
        found("random", "r", *[2, 6] * 2),
        found("model", "a", least),
    ]
    reference = find_reference(rows)
    assert reference is not None and reference.zero == 4.0 and reference.one == pytest.approx(4.0 + (16 / 6) ** 0.5)


def test_returns_that_are_equal_up_to_rounding_have_no_spread():
    rows = [found("random", "r", *[-1.97404] * 50), found("model", "a", -1.97404 + 1e-15)]
    reference = find_reference(rows)
    assert reference is not None and reference.one == pytest.approx(reference.zero + 1.0)
    assert "1: a return of 1 above it" in reference.why


@pytest.mark.parametrize(
    ("env", "settings", "threshold"),
    [
        ("CartPole-v1", {}, 475.0),
        ("CartPole-v1", {"time_limit": 200}, None),  # a return of 475 is impossible in 200 steps
        ("CartPole-v1", {"time_limit": 200, "repeat": 3}, 475.0),
        ("CartPole-v1", {"time_limit": 500}, 475.0),
        ("Pendulum-v1", {}, None),
        ("some.module:Nothing-v0", {}, None),
    ],
)
def test_a_threshold_holds_only_for_the_task_as_registered(env, settings, threshold):
    assert reward_threshold(config(env, **settings)) == threshold


def test_measures_of_other_sizes_are_dropped(tmp_path):
    table = {
        "axes": {"env": "CartPole"},
        "seeds": 1,
        "presets": "debug",
        "measures": ["latent/kl"],
        "baselines": "none",
    }
    measured = {}
    for sizes in ("quick", "full"):
        planned = plan(matrix_of({**table, "sizes": sizes}), load_registry())
        (cell,) = [cell for cell in planned.cells if cell.kind == "model"]
        folder = tmp_path / "cells" / cell.name
        if sizes == "quick":
            spec = CellSpec("vae", cell.env, 0, "model", cell.hash, {}, ("latent/kl",), "quick")
            trial = replace(
                spec.empty_trial, status="finished", returns=(1.0,), measures={"latent/kl": Measurement(2.0)}
            )
            folder.mkdir(parents=True)
            write_cell(folder, CellFile(spec, trial, sizes="quick"))
        places = {one.name: tmp_path / "cells" / one.name for one in planned.cells}
        (trial,) = collect(planned, tmp_path, places).trials
        measured[sizes] = (trial.score, dict(trial.measures))
    assert measured == {"quick": (1.0, {"latent/kl": Measurement(2.0)}), "full": (1.0, {})}


def test_unfinished_cells_are_missing_and_the_hidden_reference_is_no_method(tmp_path):
    table = {"axes": {"env": "CartPole"}, "seeds": 2, "presets": "debug", "measures": "none", "baselines": "none"}
    planned = plan(matrix_of(table), load_registry())
    comparison = collect(
        planned, tmp_path, {cell.name: tmp_path / "cells" / cell.name for cell in planned.cells}, "typed"
    )
    assert [method.key for method in comparison.methods] == ["vae"]
    assert [(t.method, t.seed, t.status) for t in comparison.trials] == [("vae", s, "missing") for s in (0, 1)]
    assert comparison.references == {} and comparison.about["command"] == "typed" and comparison.about["strict"] is True
    assert comparison.budgets["CartPole-v1"]["env_steps"] == 600 and "updates" not in comparison.budgets["CartPole-v1"]
