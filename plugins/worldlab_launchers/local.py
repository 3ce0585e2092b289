"""Runs the tasks of a comparison as processes on this machine, a few at a time."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import final

from worldlab.runs.machine import available_cores
from worldlab.study.compare.tasks import Event, Task
from worldlab_launchers.configs import LocalConfig

LOSSES = 3
"""How often a task is run again after its process was killed. After that the task has ended, with that code."""
KILLED = {128 + number for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)}
"""Exit codes of programs that stopped on a signal; a negative code means that the signal killed the process."""
PATIENCE = 60.0
"""Seconds that a terminated task has to save its state."""
POLL = 0.05
"""Seconds between two checks for ended processes."""


@dataclass(frozen=True)
class _Running:
    task: Task
    losses: int
    process: subprocess.Popen[bytes]


@final
class LocalLauncher:
    """Runs processes, each with the threads that its task allows. Their output goes to this process's stderr."""

    def __init__(self, config: LocalConfig) -> None:
        self.config = config

    def run(self, tasks: Sequence[Task], jobs: int, on_event: Callable[[Event], None]) -> None:
        """Run tasks. See worldlab.study.compare.tasks.Launcher. jobs 0: as many as the cores allow, at least one."""
        waiting = deque((task, 0) for task in tasks)
        running: list[_Running] = []
        try:
            while waiting or running:
                while waiting and _fits(waiting[0][0], running, jobs):
                    running.append(_start(*waiting.popleft()))
                    on_event(Event(running[-1].task.name, "started", where=socket.gethostname()))
                ended = [item for item in running if item.process.poll() is not None]
                for item in ended:
                    running.remove(item)
                    event = _event(item)
                    if event.what == "lost":
                        waiting.appendleft((item.task, item.losses + 1))
                    on_event(event)
                if not ended:
                    time.sleep(POLL)
        finally:
            _stop([item.process for item in running])


def _fits(task: Task, running: Sequence[_Running], jobs: int) -> bool:
    if jobs:
        return len(running) < jobs
    cores = available_cores()
    return not running or sum(item.task.cpus for item in running) + task.cpus <= cores


def _start(task: Task, losses: int) -> _Running:
    # In this process's group, so that a signal to the group, such as Ctrl-C, reaches all processes.
    process = subprocess.Popen(task.argv, env={**os.environ, **dict(task.env)}, stdin=subprocess.DEVNULL, stdout=2)
    return _Running(task, losses, process)


def should_retry(code: int, losses: int) -> bool:
    """Return whether a process that ended with `code` was killed from outside, and may be run again."""
    return (code < 0 or code in KILLED) and losses < LOSSES


def _event(item: _Running) -> Event:
    code = item.process.returncode
    what = "lost" if should_retry(code, item.losses) else "ended"
    return Event(item.task.name, what, code, socket.gethostname())


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Terminate the processes, wait for them, and kill those that take too long or all on a second interrupt."""
    for process in processes:
        # Not SIGINT: the terminal may have sent one already, and a second one means to stop without saving.
        process.terminate()
    end = time.monotonic() + PATIENCE
    try:
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, end - time.monotonic()))
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
