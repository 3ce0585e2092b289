"""Trackers get what the metrics get, and whatever they do, a run neither ends nor waits."""

from __future__ import annotations

import logging
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from worldlab.runs.metrics import MetricsBus, read_metrics
from worldlab.runs.tracking import WAITING, TrackedRun, Tracker, TrackerThread, close_all


class Recorder:
    """A tracker that keeps its calls. fails: the method that raises. gate: what each call waits for."""

    def __init__(self, fails: str = "", gate: threading.Event | None = None, error: type[BaseException] = OSError):
        self.calls: list[tuple] = []
        self.threads: set[str] = set()
        self._fails, self._gate, self._error = fails, gate, error

    def _call(self, *call) -> None:
        self.calls.append(call)
        self.threads.add(threading.current_thread().name)
        if self._gate is not None:
            self._gate.wait(20)
        if call[0] == self._fails:
            raise self._error("no route\nto host")

    def start(self, run) -> None:
        self._call("start", run.id)

    def scalars(self, step, values) -> None:
        self._call("scalars", step, dict(values))

    def pictures(self, step, name, frames, fps) -> None:
        self._call("pictures", step, name, frames.shape, fps)

    def flush(self) -> None:
        self._call("flush")

    def close(self) -> None:
        self._call("close")


@pytest.fixture
def run(tmp_path):
    return TrackedRun(tmp_path, "a", "id-1", "CartPole-v1", {"seed": 0})


@pytest.fixture
def paths(tmp_path):
    return SimpleNamespace(metrics=tmp_path / "metrics.jsonl", perf=tmp_path / "perf.jsonl")


def test_a_tracker_gets_all_that_is_logged_in_order_in_its_own_thread(run, paths):
    tracker = Recorder()
    assert isinstance(tracker, Tracker)
    with MetricsBus(paths, [TrackerThread("mine", tracker, run)]) as bus:
        bus.log(3, {"loss/a": 0.5, "bad": float("nan")}, {"fps": 7.0})
        bus.pictures(3, "dream", np.zeros((2, 4, 4, 3), np.uint8), 5)
        bus.sync()
    start, scalars, *rest = tracker.calls
    assert start == ("start", "id-1") and rest == [("pictures", 3, "dream", (2, 4, 4, 3), 5), ("flush",), ("close",)]
    assert scalars[2].keys() == {"loss/a", "perf/fps", "perf/seconds", "perf/rss_mb"} and scalars[2]["perf/fps"] == 7
    assert tracker.threads == {"tracker mine"}


@pytest.mark.parametrize("method", ["start", "scalars", "pictures", "flush", "close"])
@pytest.mark.parametrize("error", [OSError, SystemExit, KeyboardInterrupt])
def test_a_tracker_that_fails_is_named_once_and_the_run_goes_on(run, paths, caplog, method, error):
    broken, whole = Recorder(method, error=error), Recorder()
    threads = [TrackerThread("broken", broken, run), TrackerThread("whole", whole, run)]
    with caplog.at_level(logging.WARNING, "worldlab"), MetricsBus(paths, threads) as bus:
        for step in range(50):
            bus.log(step, {"a": 1.0})
            bus.pictures(step, "dream", np.zeros((4, 4, 3), np.uint8))
            bus.sync()
    (record,) = caplog.records
    text = record.getMessage()
    assert text.startswith(
        f"tracker 'broken' gets nothing more, it failed in {method}: {error.__name__}: no route to host"
    )
    assert text.endswith("metrics.jsonl has every value") and text.isprintable()
    assert [line["step"] for line in read_metrics(paths.metrics)] == list(range(50))
    assert [call[1] for call in whole.calls if call[0] == "scalars"] == list(range(50))
    assert [call[0] for call in broken.calls].count(method) == 1 and broken.calls[-1][0] == "close"


def test_a_tracker_that_hangs_holds_up_nothing_and_is_named_once(run, paths, caplog):
    gate = threading.Event()
    thread = TrackerThread("slow", Recorder(gate=gate), run)
    with caplog.at_level(logging.WARNING, "worldlab"):
        bus = MetricsBus(paths, [thread])
        for step in range(2 * WAITING):
            bus.log(step, {"a": 1.0})
        thread.close(time.monotonic() + 0.02)
        close_all([thread], 0.02)
        gate.set()
        bus.close()
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2 and "is slower than the run and misses points" in messages[0]
    assert "did not end within" in messages[1]
    assert len(read_metrics(paths.metrics)) == 2 * WAITING


def test_closing_twice_ends_a_tracker_once(run):
    tracker = Recorder()
    thread = TrackerThread("mine", tracker, run)
    close_all([thread])
    close_all([thread])
    assert [call[0] for call in tracker.calls] == ["start", "close"]
