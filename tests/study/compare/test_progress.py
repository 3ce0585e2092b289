"""The progress display of a comparison, and the estimate of its remaining time."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest

from worldlab.study.compare.progress import MatrixProgress, estimate_remaining
from worldlab.study.results import Method, Trial

A, B, C = ("a", "x"), ("b", "x"), ("a", "y")


def cell(key: str, env: str = "x", seed: int = 0) -> Any:
    return SimpleNamespace(name=f"{key}-{env}-{seed}", method=Method(key, key.upper(), "model"), env=env, seed=seed)


@pytest.mark.parametrize(
    ("waiting", "running", "took", "jobs", "seconds"),
    [
        ([A, A], [], {}, 2, None),  # nothing has ended yet
        ([A, A, A, A], [], {A: [10, 20]}, 1, 60),
        ([A, A, A, A], [], {A: [10, 20]}, 2, 30),
        ([A], [(A, 5.0), (A, 99.0)], {A: [10, 20]}, 2, 15),  # of the running ones 10 and 0 are left; one takes 15
        ([B], [], {A: [10], C: [30]}, 1, 10),  # unknown there: as others of its environment
        ([("d", "z")], [], {A: [10], C: [30]}, 1, 20),  # else as any
        ([], [(A, 4.0)], {A: [10]}, 4, 6),
        ([], [], {A: [10]}, 4, 0),
    ],
)
def test_the_estimate_is_made_of_durations_of_similar_cells(waiting, running, took, jobs, seconds):
    assert estimate_remaining(waiting, running, took, jobs) == seconds


def test_without_a_terminal_there_is_one_line_per_event():
    stream = io.StringIO()
    cells = [cell("a"), cell("b"), cell("a", seed=1)]
    with MatrixProgress(cells, done=2, stream=stream) as progress:
        progress.started("a-x-0")
        progress.started("b-x-0")
        progress.ended("a-x-0", Trial("a", "x", 0, "finished", returns=(1.0, 4.0)))
        progress.lost("b-x-0", "node7")
        progress.started("b-x-0")
        progress.ended("b-x-0", Trial("b", "x", 0, "failed", cause="it \x1b[2Jbroke"))
    first, lost, second = stream.getvalue().splitlines()
    assert first == "[3/5]  A on x, seed 0: return 2.5  (0 s)  eta 0:00:00"
    assert lost == "b-x-0 was lost on node7; it will run again"
    assert second == "[4/5]  B on x, seed 0: FAILED: it broke  (0 s)  1 failed  eta 0:00:00"


def test_a_host_may_die_before_it_reports_the_start():
    stream = io.StringIO()
    with MatrixProgress([cell("a")], stream=stream) as progress:
        progress.lost("a-x-0", "node7")
        progress.ended("a-x-0", Trial("a", "x", 0, "failed", cause="no node lives long enough"))
    assert stream.getvalue().splitlines()[-1].startswith("[1/1]  A on x, seed 0: FAILED: no node lives long enough")


def test_a_terminal_shows_a_status_line_that_is_erased_at_the_end():
    stream = io.StringIO()
    with MatrixProgress([cell("a")], stream=stream, live=True) as progress:
        progress.started("a-x-0")
        progress.note("hello")
    shown = stream.getvalue()
    assert "hello\n" in shown and "[0/1]  running: A x s0".replace("  running", "    running") in shown
    assert shown.endswith("\r\x1b[2K")
