"""Trackers with one bug each."""

from __future__ import annotations

import threading
import time

from zoo.registry import broken


class Lines:
    """The correct tracker that the broken ones change: it keeps lines in memory and writes them at the end."""

    def start(self, run):
        self.path = run.path / "lines.txt"
        self.lines = self.path.read_text().splitlines() if self.path.exists() else []

    def scalars(self, step, values):
        self.lines += [f"{step} {name} {value}" for name, value in values.items()]

    def pictures(self, step, name, frames, fps):
        self.lines.append(f"{step} {name} {frames.shape}")

    def flush(self):
        self.path.write_text("\n".join(self.lines))

    def close(self):
        self.flush()


@broken("K1", "FileNotFoundError")
class NamesBecomeFiles(Lines):
    """Writes each curve to a file of its name."""

    def scalars(self, step, values):
        for name, value in values.items():
            (self.path.parent / name).write_text(str(value))


@broken("K1", "ValueError")
class OneShape(Lines):
    """Knows animations only."""

    def pictures(self, step, name, frames, fps):
        _, _, _, _ = frames.shape


@broken("K2", "AttributeError")
class OpensLate(Lines):
    """Opens its file at the first point."""

    def scalars(self, step, values):
        self.file = (self.path.parent / "late").open("a")

    def close(self):
        self.file.close()


@broken("K3", "FileExistsError")
class NewEachTime(Lines):
    """Makes a folder that is there already when a run is resumed."""

    def start(self, run):
        super().start(run)
        (run.path / "own").mkdir()


@broken("K3", "steps must grow")
class StepsMustGrow(Lines):
    """Refuses a step at or below the last one."""

    def scalars(self, step, values):
        last = max((int(line.split()[0]) for line in self.lines), default=-1)
        if step <= last:
            raise ValueError("steps must grow")
        super().scalars(step, values)


@broken("K4", "changes the values")
class TakesSecondsAway(Lines):
    """Removes a value from the others' dict."""

    def scalars(self, step, values):
        values.pop("perf/seconds", None)


@broken("K4", "changes the values")
class Brightens(Lines):
    """Brightens the frames in place."""

    def pictures(self, step, name, frames, fps):
        frames |= 1


@broken("K5", "threads are left")
class LeavesAThread(Lines):
    """Leaves a thread behind."""

    def close(self):
        super().close()
        threading.Thread(target=time.sleep, args=(1.0,), name="sender").start()


@broken("K1", "it lacks pictures")
class Incomplete:
    """Has no pictures."""

    start = Lines.start
    scalars = Lines.scalars
    flush = Lines.flush
    close = Lines.close
