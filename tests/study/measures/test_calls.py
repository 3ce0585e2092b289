"""Network calls counted by hand, and timings of work with known duration."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from measures_kit import Short, make_subject
from model_kit import build_model

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
def test_calls_of_a_small_model_match_counting_by_hand(parallel, naive):
    """The decoder has two linear layers. A step uses one layer for the memory and one for the prior. A naive step of
    the parallel dynamics uses one layer for all steps, their masked sum, and the prior."""
    found = calls.measure(make_subject(build_model(parallel=parallel), recording=None))  # type: ignore[arg-type]
    assert (found["calls/frame"].value, found["calls/step"].value) == (2, 2)
    assert found["calls/naive_step"].value == naive
    assert parallel or "recurrent" in found["calls/naive_step"].why


def test_rate_excludes_warm_up_and_time_between_timings(monkeypatch):
    """The fake clock advances by 5 s in the warm-up, 0.02 s per timing and 1 s between timings."""
    now = [0.0]
    monkeypatch.setattr(speed.time, "perf_counter", lambda: now[0])
    durations = iter([5.0])

    def passes(seconds):
        now[0] += seconds

    found = speed.measure_rate(lambda: passes(next(durations, 0.02)), 10, 0.1, between=lambda: passes(1.0))
    assert found.value == pytest.approx(10 / 0.02) and found.error == pytest.approx(0, abs=1e-6)
    assert speed.measure_rate(Undefined("cannot"), 1, 0.1).why == "cannot"


def test_ratio_is_imagined_steps_over_simulator_decisions():
    found = speed.measure(make_subject(build_model(), recording=None, make_env=Short))  # type: ignore[arg-type]
    assert found["speed/naive_steps_1"].value is None
    ratio = found["speed/steps_64"].value / found["speed/simulator"].value
    assert found["speed/ratio"].value == pytest.approx(ratio)
