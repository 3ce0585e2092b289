"""The interface of launchers, which run tasks somewhere, several at once, and report the events of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol


@dataclass(frozen=True)
class Task:
    """A cell to run.

    argv: a command that runs the cell in `folder`. It resumes an interrupted cell, does nothing for a finished one,
    and exits with 0 unless the cell fails. env: environment variables that it needs. cpus, gpus: the resources that it
    may use.
    """

    name: str
    argv: tuple[str, ...]
    folder: Path
    env: tuple[tuple[str, str], ...] = ()
    cpus: int = 1
    gpus: float = 0.0


@dataclass(frozen=True)
class Event:
    """An event of a task. code: the exit code of a task that ended. where: the host, for display."""

    task: str
    what: Literal["started", "ended", "lost"]
    code: int | None = None
    where: str = ""


class Launcher(Protocol):
    """Runs tasks. Built as `Cls(config)`; registered by `register.launcher`. Every host must have access to the folder.

    `run` returns when every task has ended. A task whose node or process was killed is "lost" and run again; a task
    that exits with a code other than 0 is not. On KeyboardInterrupt `run` stops the tasks that it started, then
    re-raises it.
    """

    def run(self, tasks: Sequence[Task], jobs: int, on_event: Callable[[Event], None]) -> None:
        """Run the tasks.

        jobs: how many tasks run at once; 0 lets the launcher decide. on_event: called with each event, in this thread.
        """
        ...
