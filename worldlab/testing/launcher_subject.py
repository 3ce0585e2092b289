"""A launcher as the subject of a check, and what it reports when it runs a few tasks."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from worldlab.study.compare.tasks import Event, Launcher, Task
from worldlab.testing.bench import Choice

CODE = 7
"""Exit code of the task that fails."""
_DIES_ONCE = """
import os, pathlib, signal
mark = pathlib.Path({mark!r})
if not mark.exists():
    mark.touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""
_NAMES = """
import os, pathlib
pathlib.Path({place!r}).write_text(os.environ.get("WORLDLAB_CHECK", "nothing"))
"""


@dataclass(frozen=True)
class Report:
    """The events of a run, in order; what the task "variable" found in its environment."""

    events: tuple[Event, ...]
    variable: str

    def of(self, task: str) -> list[str]:
        """Return the kinds of events of a task."""
        return [event.what for event in self.events if event.task == task]


@dataclass(frozen=True)
class LauncherSubject:
    """A launcher class with its configuration."""

    label: str
    choice: Choice
    registration: Any = None
    role: str = field(default="launcher", init=False)

    def build(self) -> Launcher:
        """Build the launcher."""
        return self.choice.cls(self.choice.config)

    @cached_property
    def report(self) -> Report:
        """What the launcher reports of four tasks, one at a time: two end well, one exits with CODE, one is killed once."""
        events: list[Event] = []
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            tasks = [
                task(folder, "first", "pass"),
                task(folder, "fails", f"raise SystemExit({CODE})"),
                task(folder, "killed", _DIES_ONCE.format(mark=str(folder / "mark"))),
                task(folder, "variable", _NAMES.format(place=str(folder / "seen")), (("WORLDLAB_CHECK", "set"),)),
            ]
            self.build().run(tasks, 1, events.append)
            seen = folder / "seen"
            return Report(tuple(events), seen.read_text() if seen.exists() else "nothing")


def task(folder: Path, name: str, code: str, env: tuple[tuple[str, str], ...] = ()) -> Task:
    """Return a task that runs Python code, without site-packages."""
    return Task(name, (sys.executable, "-S", "-c", code), folder, env=env)
