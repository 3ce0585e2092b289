"""Runs the tasks of a comparison on a Ray cluster, an existing cluster or one started on this machine.

`worldlab_launchers.ray_cluster` connects to it and checks its nodes; `worldlab_launchers.ray_node` runs on the nodes.
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
"""Seconds without events after which a warning is logged if no task runs."""


@dataclass
class _Attempt:
    """A task submitted to Ray. stream: yields the messages of its node. host: "" until the task has started."""

    task: Task
    losses: int
    stream: Any
    host: str = ""


@final
class RayLauncher:
    """Runs each task as a Ray task with its CPUs and GPUs; the Ray task runs the command as a process on any node with
    capacity.

    The process has the environment of the node and of the task, not of the driver, and starts in the task's folder. Ray
    keeps its output in the logs of the node; if it fails, its last lines are logged here too.
    """

    def __init__(self, config: RayConfig) -> None:
        """Check the address. Raises: ConfigError for an unusable address; PluginError if Ray is missing or too old."""
        self.config = config
        check_usable(config.address)

    def run(self, tasks: Sequence[Task], jobs: int, on_event: Callable[[Event], None]) -> None:
        """Run tasks. See worldlab.study.compare.tasks.Launcher. jobs 0: as many as the cluster has capacity for.

        Raises: StorageError if a node does not see the tasks' folders; ConfigError if no cluster answers, if it has
        another version, if a node lacks the tasks' program or if a cluster of this machine lacks the GPUs of a task.
        """
        if not tasks:
            return
        largest = max(task.cpus for task in tasks)
        with connect(self.config.address, largest) as ray, mark_folders(tasks) as mark:
            check_capacity(ray, tasks, may_grow=bool(self.config.address))
            check_nodes(ray, tasks, mark)
            _Run(ray, mark, on_event).finish(tasks, jobs)


class _Run:
    """The tasks of one call on a cluster. When `finish` ends, Ray holds none of them."""

    def __init__(self, ray: Any, mark: FolderMark, on_event: Callable[[Event], None]) -> None:
        self.ray = ray
        self.mark = mark
        self.on_event = on_event
        # max_retries 0: lost tasks are reported, counted and run again here.
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
        """Return the attempts that have a message. None after a long silence, which is logged if no task runs."""
        ready, _ = self.ray.wait([attempt.stream for attempt in running], timeout=QUIET)
        if not ready and not any(attempt.host for attempt in running):
            log.warning("no task runs: %d tasks wait for a node of the Ray cluster with free resources", len(running))
        return (attempt for attempt in list(running) if any(attempt.stream is stream for stream in ready))

    def _read(self, attempt: _Attempt) -> Event:
        """Return the next event of an attempt. Raises: StorageError or ConfigError if its node cannot run tasks."""
        name = attempt.task.name
        try:
            what, host, code, words = self.ray.get(next(attempt.stream))
        except self.ray.exceptions.RayTaskError:
            raise  # an error in `ray_node`, not in the node
        except self.ray.exceptions.RayError as error:
            log.info("task %s lost its node, %s: %s", name, attempt.host or "before it started", one_line(error))
            what, host, code, words = "ended", attempt.host, -signal.SIGKILL, ""
        if what == "refused":
            raise node_error([host], words, attempt.task)
        if what == "started":
            attempt.host = host
            return Event(name, "started", where=host)
        if should_retry(code, attempt.losses):
            return Event(name, "lost", code, host)
        if code:
            log.warning("task %s ended with code %d on %s: %s", name, code, host, words.strip() or "it printed nothing")
        return Event(name, "ended", code, host)

    def _stop(self, left: list[Any]) -> None:
        """Cancel the running tasks and wait until their nodes have let them save their state."""
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
