"""Runs the tasks of a comparison on a Ray cluster: one that is there, or one of this machine alone.

`worldlab_launchers.ray_cluster` connects to it and looks at its nodes; `worldlab_launchers.ray_node` is what runs on them.
Ray: Moritz et al. 2018, arXiv:1712.05889.
"""

from __future__ import annotations

import logging
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, final

from worldlab.errors import one_line
from worldlab.study.compare.tasks import Event, Task
from worldlab_launchers import ray_node
from worldlab_launchers.configs import RayConfig
from worldlab_launchers.local import PATIENCE, should_retry
from worldlab_launchers.ray_cluster import (
    FolderMark,
    check_capacity,
    check_nodes,
    check_usable,
    connect,
    mark_folders,
    node_error,
)

log = logging.getLogger("worldlab")

QUIET = 60.0
"""Seconds of silence after which it is said that nothing runs, if so."""


@dataclass
class _Attempt:
    """A task at Ray. stream: yields what its node says. host: "" until it has started."""

    task: Task
    losses: int
    stream: Any
    host: str = ""


@final
class RayLauncher:
    """Each task is a Ray task with its CPUs and GPUs, which runs the command as a process on whatever node has room.

    The process has the node's environment and the task's, not the driver's, and starts in the task's folder. What it
    prints is kept in Ray's logs of the node; if it fails, its last lines are logged here too.
    """

    def __init__(self, config: RayConfig) -> None:
        """Raises: ConfigError for an address of no use; PluginError if Ray is missing or too old."""
        self.config = config
        check_usable(config.address)

    def run(self, tasks: Sequence[Task], jobs: int, on_event: Callable[[Event], None]) -> None:
        """See worldlab.study.compare.tasks.Launcher. jobs 0: as many as the cluster has room for.

        Raises: StorageError if a node does not see the tasks' folders; ConfigError if no cluster answers, if it has
        another version, if a node lacks the tasks' program or if this machine, alone, lacks the GPUs of a task.
        """
        if not tasks:
            return
        largest = max(task.cpus for task in tasks)
        with connect(self.config.address, largest) as ray, mark_folders(tasks) as mark:
            check_capacity(ray, tasks, may_grow=bool(self.config.address))
            check_nodes(ray, tasks, mark)
            _Run(ray, mark, on_event).finish(tasks, jobs)


class _Run:
    """The tasks of one call, at a cluster. Everything that Ray knows of them is gone when `finish` ends."""

    def __init__(self, ray: Any, mark: FolderMark, on_event: Callable[[Event], None]) -> None:
        self.ray = ray
        self.mark = mark
        self.on_event = on_event
        # max_retries 0: what is lost is told, counted and run again here.
        self.remote = ray.remote(max_retries=0, scheduling_strategy="SPREAD")(ray_node.run_task)

    def finish(self, tasks: Sequence[Task], jobs: int) -> None:
        waiting = deque((task, 0) for task in tasks)
        running: list[_Attempt] = []
        try:
            while waiting or running:
                while waiting and (not jobs or len(running) < jobs):
                    running.append(self._submit(*waiting.popleft()))
                for attempt in self._ready(running):
                    event = self._read(attempt)
                    if event.what != "started":
                        running.remove(attempt)
                    if event.what == "lost":
                        waiting.appendleft((attempt.task, attempt.losses + 1))
                    self.on_event(event)
        finally:
            self._stop([attempt.stream for attempt in running])

    def _submit(self, task: Task, losses: int) -> _Attempt:
        remote = self.remote.options(name=task.name, num_cpus=task.cpus, num_gpus=task.gpus)
        return _Attempt(task, losses, remote.remote(self.mark.place(task), task.argv, dict(task.env), PATIENCE))

    def _ready(self, running: Sequence[_Attempt]) -> Iterator[_Attempt]:
        """The next attempt that has something to say. None: it took long; that nothing runs is then said."""
        ready, _ = self.ray.wait([attempt.stream for attempt in running], timeout=QUIET)
        if not ready and not any(attempt.host for attempt in running):
            log.warning("nothing runs: %d tasks wait for a node of the Ray cluster with room", len(running))
        return (attempt for attempt in list(running) if any(attempt.stream is stream for stream in ready))

    def _read(self, attempt: _Attempt) -> Event:
        """What became of an attempt. Raises: StorageError or ConfigError if its node cannot run tasks."""
        name = attempt.task.name
        try:
            what, host, code, words = self.ray.get(next(attempt.stream))
        except self.ray.exceptions.RayTaskError:
            raise  # a fault of `ray_node`, not of the place where it ran
        except self.ray.exceptions.RayError as error:
            log.info("task %s lost its place, %s: %s", name, attempt.host or "before it started", one_line(error))
            what, host, code, words = "ended", attempt.host, -signal.SIGKILL, ""
        if what == "refused":
            raise node_error([host], words, attempt.task)
        if what == "started":
            attempt.host = host
            return Event(name, "started", where=host)
        if should_retry(code, attempt.losses):
            return Event(name, "lost", code, host)
        if code:
            log.warning("task %s ended with code %d on %s: %s", name, code, host, words.strip() or "it said nothing")
        return Event(name, "ended", code, host)

    def _stop(self, left: list[Any]) -> None:
        """Cancel what was started and wait until its nodes have let it save what it has."""
        end = time.monotonic() + PATIENCE + 2 * ray_node.SETTLE
        for stream in left:
            self.ray.cancel(stream)
        while left and time.monotonic() < end:
            for stream in self.ray.wait(left, timeout=1.0)[0]:
                with suppress(self.ray.exceptions.RayError):
                    if self._is_running(stream):
                        continue
                left.remove(stream)

    def _is_running(self, stream: Any) -> bool:
        try:
            return bool(self.ray.get(next(stream)))
        except StopIteration:
            return False
