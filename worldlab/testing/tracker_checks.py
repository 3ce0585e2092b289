"""Checks of trackers, with short sessions in an empty folder."""

from __future__ import annotations

import tempfile
import threading
import time
from pathlib import Path

from worldlab.testing.checks import CheckFailure, check
from worldlab.testing.tracker_subject import FRAMES, TrackerSubject

GRACE = 0.5
"""Seconds that a tracker's threads have to end after `close`."""


@check("K1", role="tracker", title="a session takes every kind of point and picture")
def session(subject: TrackerSubject) -> None:
    """A session takes 300 names with "/", ".", spaces and other letters, values from 1e-300 to 1e300, an animation, a single
    picture and two flushes, and ends.

    Catches names that become paths of files, fixed lists of names, and pictures of one shape only. Fix: treat a name as any
    printable text; look at `frames.ndim`.
    """
    with tempfile.TemporaryDirectory() as folder, subject.session(Path(folder)) as tracker:
        tracker.scalars(250, {"loss/decoder/image": 1e300, 'a name, quoted "so"': -1e-300, "λ.ü": 0.0, "updates": 3})
        tracker.scalars(500, {f"latent/{number}": float(number) for number in range(300)})
        tracker.flush()
        tracker.pictures(500, "dream", FRAMES, 10)
        tracker.pictures(500, "one", FRAMES[0], 10)
        tracker.flush()


@check("K2", role="tracker", title="a session may be empty")
def empty(subject: TrackerSubject) -> None:
    """A session that is closed right after its start ends like any other: a run may be stopped before its first log line.

    Catches files that are opened at the first point and closed without it. Fix: let `close` do nothing if there is nothing.
    """
    with tempfile.TemporaryDirectory() as folder, subject.session(Path(folder)):
        pass


@check("K3", role="tracker", title="a resumed run goes on")
def resumed(subject: TrackerSubject) -> None:
    """A second session of the same run, resumed at a step before the last point of the first one, takes the steps in between
    once more.

    Catches trackers that create what is there already, and those that refuse a step below the last one. Fix: continue the run
    with the same `run.id`, and log the step as a value of its own where the library's step may only grow.
    """
    with tempfile.TemporaryDirectory() as folder:
        with subject.session(Path(folder)) as tracker:
            for step in (250, 500, 750):
                tracker.scalars(step, {"loss/dyn": 1.0})
        with subject.session(Path(folder), 500, resumed=True) as tracker:
            tracker.scalars(750, {"loss/dyn": 2.0, "loss/new": 3.0})


@check("K4", role="tracker", title="values and frames stay as they are")
def arguments(subject: TrackerSubject) -> None:
    """The values and frames that a tracker is given are unchanged after the call.

    Catches changes in place: other trackers of the run get the same objects. Fix: copy before changing.
    """
    values, frames = {"loss/dyn": 1.0, "perf/seconds": 2.0}, FRAMES.copy()
    with tempfile.TemporaryDirectory() as folder, subject.session(Path(folder)) as tracker:
        tracker.scalars(250, values)
        tracker.pictures(250, "dream", frames, 10)
    if values != {"loss/dyn": 1.0, "perf/seconds": 2.0} or (frames != FRAMES).any():
        raise CheckFailure("it changes the values or frames that it is given", "copy them before changing them")


@check("K5", role="tracker", title="no thread outlives the session")
def threads(subject: TrackerSubject) -> None:
    """Half a second after `close`, no thread is left that would keep the process from ending.

    Catches threads that wait for more after the end: the command would print its result and never return. Fix: end them in
    `close`, or make them daemons.
    """
    before = set(threading.enumerate())
    with tempfile.TemporaryDirectory() as folder, subject.session(Path(folder)) as tracker:
        tracker.scalars(250, {"loss/dyn": 1.0})
    deadline = time.monotonic() + GRACE
    while left := [one.name for one in set(threading.enumerate()) - before if not one.daemon]:
        if time.monotonic() > deadline:
            raise CheckFailure(f"threads are left after close: {', '.join(left)}", "end them in `close`")
        time.sleep(0.01)
