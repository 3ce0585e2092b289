"""What a launcher is: it runs tasks somewhere, several at a time, and tells what becomes of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol


@dataclass(frozen=True)
class Task:
    """One cell to be run. argv: a command that does it in `folder`, goes on where it was stopped, does nothing if it is done
    and ends with 0 unless it failed; env: environment variables it needs; cpus, gpus: what it may use."""

    name: str
    argv: tuple[str, ...]
    folder: Path
    env: tuple[tuple[str, str], ...] = ()
    cpus: int = 1
    gpus: float = 0.0


@dataclass(frozen=True)
class Event:
    """What became of a task. code: the exit code of one that ended; where: the host, for people."""

    task: str
    what: Literal["started", "ended", "lost"]
    code: int | None = None
    where: str = ""


class Launcher(Protocol):
    """Runs tasks. Built as `Cls(config)`; registered by `register.launcher`. Every place it runs on must see the folder.

    `run` returns when every task has ended. A task whose place died (a node, a killed process) is "lost" and run again;
    one that ends with another code than 0 is not. On KeyboardInterrupt it stops what it started, then raises it.
    """

    def run(self, tasks: Sequence[Task], jobs: int, tell: Callable[[Event], None]) -> None:
        """jobs: how many at a time (0: as many as fit). tell: called from this thread, as things happen."""
        ...
