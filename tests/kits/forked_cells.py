"""Comparisons whose cells run in forks of a process that has imported torch: the same numbers without its start."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence

import pytest
from forked_command import PRELOAD, SECONDS

from worldlab.registry.entries import Registration
from worldlab.study.compare.tasks import Event, Task


class ForkedCells:
    """A launcher that does what each task's command does, one after the other, in a fork."""

    def run(self, tasks: Sequence[Task], jobs: int, on_event: Callable[[Event], None]) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(PRELOAD))
        for task in tasks:
            on_event(Event(task.name, "started", where="here"))
            process = context.Process(target=_cell, args=(str(task.folder), dict(os.environ) | dict(task.env)))
            process.start()
            process.join(SECONDS)
            process.kill()
            process.join()
            on_event(Event(task.name, "ended", process.exitcode, "here"))


def launch_in_forks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace all launchers."""
    load = Registration.load
    monkeypatch.setattr(
        Registration, "load", lambda self: (lambda config: ForkedCells()) if self.role == "launcher" else load(self)
    )


def _cell(folder: str, environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    from worldlab.study.compare.cell import main

    sys.exit(main([folder]))
