"""The launcher decides where the cells of a comparison run."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Sequence
from typing import final

from worldlab.study.compare.tasks import Event, Task

from worldlab_parts.configs import NiceConfig


@final
class NiceLauncher:
    """Runs cells one after the other at a low priority, so that a machine can be used meanwhile."""

    Config = NiceConfig

    def __init__(self, config: NiceConfig) -> None:
        self.config = config

    def run(self, tasks: Sequence[Task], jobs: int, on_event: Callable[[Event], None]) -> None:
        """Run all tasks, one at a time whatever `jobs` is, and report each event."""
        for task in tasks:
            for attempt in range(1, self.config.attempts + 1):
                code = self.run_once(task, on_event)
                killed = code < 0  # by a signal: the cell did not fail, and resumes where it was
                if not killed or attempt == self.config.attempts:
                    on_event(Event(task.name, "ended", code, socket.gethostname()))
                    break
                on_event(Event(task.name, "lost", code, socket.gethostname()))

    def run_once(self, task: Task, on_event: Callable[[Event], None]) -> int:
        """Run a task and return its exit code; a negative one is a signal."""
        command = [
            "nice",
            "-n",
            str(self.config.niceness),
            *task.argv,
        ]  # nice becomes the task: one process, its exit code
        process = subprocess.Popen(command, env={**os.environ, **dict(task.env)}, stdin=subprocess.DEVNULL, stdout=2)
        try:
            on_event(Event(task.name, "started", where=socket.gethostname()))
            return process.wait()
        finally:  # on Ctrl-C, too: the cell saves its state and ends
            process.terminate()
            process.wait()
