"""Counts of network calls by hand, and timings of work whose duration is known."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from measures_kit import make_subject
from model_kit import build_model
from test_recording import Short

from worldlab.study.measures import calls, speed
from worldlab.study.measures.undefined import Undefined


@pytest.mark.parametrize(
    "work",
    [
        lambda a, b: F.linear(a, b),
        lambda a, b: a @ b,
        lambda a, b: a.matmul(b),
        lambda a, b: torch.mm(a, b),
        lambda a, b: torch.einsum("ij,jk->ik", a, b),
        lambda a, b: torch.nn.Linear(4, 4)(a),
        lambda a, b: torch.nn.Conv2d(1, 1, 3)(a[None, None]),
        lambda a, b: F.conv_transpose2d(a[None, None], b[None, None]),
        lambda a, b: F.scaled_dot_product_attention(a[None], b[None], b[None]),
        lambda a, b: torch.nn.GRUCell(4, 4)(a),
        lambda a, b: torch.nn.MultiheadAttention(4, 2)(a, b, b),
        lambda a, b: torch.linalg.multi_dot([a, b, a]),
        lambda a, b: (a + b).relu().softmax(-1).sum() and F.linear(a, b),
    ],
)
def test_each_product_is_one_call(work):
    a, b = torch.ones(4, 4), torch.ones(4, 4)
    with torch.no_grad(), calls.CallCounter() as count:
        work(a, b)
    assert count.calls == 1


@pytest.mark.parametrize(("parallel", "naive"), [(False, None), (True, 3)])
def test_a_small_model_by_hand(parallel, naive):
    """A decoder of two linear layers. A step: one layer to the memory, one to the prior. Naively a step of the parallel
    one takes the layer for all steps at once, their masked sum, and the prior."""
    found = calls.measure(make_subject(build_model(parallel=parallel), recording=None))  # type: ignore[arg-type]
    assert (found["calls/frame"].value, found["calls/step"].value) == (2, 2)
    assert found["calls/naive_step"].value == naive
    assert parallel or "recurrent" in found["calls/naive_step"].why


def test_a_rate_is_rows_over_time_with_warm_up_and_what_is_between_left_out(monkeypatch):
    """By a clock that only work moves: 5 s the first time, then 0.02 s; 1 s between."""
    now = [0.0]
    monkeypatch.setattr(speed.time, "perf_counter", lambda: now[0])
    durations = iter([5.0])

    def passes(seconds):
        now[0] += seconds

    found = speed.measure_rate(lambda: passes(next(durations, 0.02)), 10, 0.1, between=lambda: passes(1.0))
    assert found.value == pytest.approx(10 / 0.02) and found.error == pytest.approx(0, abs=1e-6)
    assert speed.measure_rate(Undefined("cannot"), 1, 0.1).why == "cannot"


def test_every_rate_is_taken_and_the_ratio_is_theirs():
    found = speed.measure(make_subject(build_model(), recording=None, make_env=Short))  # type: ignore[arg-type]
    assert found["speed/naive_steps_1"].value is None
    ratio = found["speed/steps_64"].value / found["speed/simulator"].value
    assert found["speed/ratio"].value == pytest.approx(ratio)
