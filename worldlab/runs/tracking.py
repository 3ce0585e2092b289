"""Defines the tracker, which shows a run's metrics somewhere else, and keeps it from disturbing the run.

A tracker is a plugin of the role "tracker": `register.tracker("mine", "package.module:MyTracker", config=None, ...)`.
metrics.jsonl is the truth; what a tracker has may be lost. Each tracker works in a thread of its own: one that fails is
named once and gets nothing more, one that is slow misses points, and the run waits for neither.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, final, runtime_checkable

from worldlab.errors import one_line

if TYPE_CHECKING:
    import numpy as np

__all__ = ["TrackedRun", "Tracker", "TrackerThread"]

log = logging.getLogger("worldlab")
WAITING = 200
"""Most calls that wait for a tracker; later ones are dropped."""
CLOSE_SECONDS = 20.0
"""Seconds that the end of a run waits for its trackers, all together."""


@dataclass(frozen=True)
class TrackedRun:
    """The run that a tracker shows.

    path: the run folder, in which a tracker may keep files of its own. name: of the folder. id: stays the same when the
    run is resumed. env: id of the environment. settings: {"train.batch_size": 16, ...}. step: where this session begins,
    in environment steps. resumed: whether an earlier session has written to the tracker; the points that it wrote after
    `step` are repeated.
    """

    path: Path
    name: str
    id: str
    env: str
    settings: Mapping[str, Any]
    step: int = 0
    resumed: bool = False


@runtime_checkable
class Tracker(Protocol):
    """What a plugin registers as `tracker`: a class without arguments.

    It is built before the run begins and then raises PluginError if its package is missing. All other calls come from
    one thread, `start` first; what they raise ends the tracker, not the run.
    """

    def start(self, run: TrackedRun) -> None:
        """Begin a run, or continue the one with the same id."""
        ...

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Show one point of each curve. values: finite numbers by name, such as "loss/dyn"."""
        ...

    def pictures(self, step: int, name: str, frames: np.ndarray, fps: float) -> None:
        """Show uint8 frames [T, H, W, C] as an animation, or [H, W, C] as a picture."""
        ...

    def flush(self) -> None:
        """Pass on what is buffered; a checkpoint is about to be saved."""
        ...

    def close(self) -> None:
        """End the session. It may be continued later."""
        ...


@final
class TrackerThread:
    """Passes the calls of a run on to a tracker, in the tracker's own thread."""

    def __init__(self, name: str, tracker: Tracker, run: TrackedRun):
        self._name = name
        self._calls: queue.Queue[tuple[str, tuple[Any, ...]]] = queue.Queue(WAITING)
        self._failure = ""
        self._warned: set[str] = set()
        self._thread = threading.Thread(target=self._work, args=(tracker, run), name=f"tracker {name}", daemon=True)
        self._thread.start()

    def send(self, method: str, *arguments: Any) -> None:
        """Note a call of a method of Tracker and return at once."""
        if self._failure:
            self._report_failure()
            return
        try:
            self._calls.put_nowait((method, arguments))
        except queue.Full:
            self._warn("is slower than the run and misses points")

    def close(self, deadline: float) -> None:
        """End the tracker once it has made all calls, or at the deadline (time.monotonic). A second call does nothing."""
        if self._thread.is_alive():
            with suppress(queue.Full):
                self._calls.put(("close", ()), timeout=max(0.0, deadline - time.monotonic()))
            self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            self._warn(f"did not end within {CLOSE_SECONDS:.0f} seconds and may miss its last points")
        self._report_failure()

    def _work(self, tracker: Tracker, run: TrackedRun) -> None:
        method, arguments = "start", (run,)
        try:
            while True:
                getattr(tracker, method)(*arguments)
                if method == "close":
                    return
                method, arguments = self._calls.get()
        except BaseException as error:  # whatever a plugin raises must not end the run, or the thread without a word
            self._failure = f"failed in {method}: {type(error).__name__}: {error}"
        if method != "close":
            try:
                tracker.close()
            except BaseException as error:
                log.debug("tracker %s: %r", self._name, error)

    def _report_failure(self) -> None:
        if self._failure:
            self._warn(f"gets nothing more, it {self._failure}")

    def _warn(self, text: str) -> None:
        if text not in self._warned:
            self._warned.add(text)
            log.warning("%s; metrics.jsonl has every value", one_line(f"tracker '{self._name}' {text}", 300))


def close_all(trackers: Sequence[TrackerThread], seconds: float = CLOSE_SECONDS) -> None:
    """End trackers, and wait for all of them together at most so many seconds."""
    deadline = time.monotonic() + seconds
    for tracker in trackers:
        tracker.close(deadline)
