"""Launchers with one bug each."""

from __future__ import annotations

import os
import subprocess

from worldlab.settings import Config
from worldlab.study.compare.tasks import Event
from zoo.registry import broken


class SerialConfig(Config):
    """A configuration without settings."""


class Serial:
    """The correct launcher that the broken ones change: one task after the other."""

    Config = SerialConfig

    def __init__(self, config):
        self.config = config

    def run(self, tasks, jobs, on_event):
        for task in self.ordered(tasks):
            while self.code_of(task, on_event) < 0:
                on_event(Event(task.name, "lost"))
            on_event(Event(task.name, "ended", self.code))

    def ordered(self, tasks):
        return tasks

    def variables(self, task):
        return {**os.environ, **dict(task.env)}

    def code_of(self, task, on_event):
        process = subprocess.Popen(task.argv, env=self.variables(task))
        try:
            on_event(Event(task.name, "started"))
            self.code = process.wait()
        finally:
            self.stop(process)
        return self.code

    def stop(self, process):
        process.terminate()
        process.wait()


@broken("L1", "tasks start as")
class Backwards(Serial):
    """Runs the tasks in the opposite order."""

    def ordered(self, tasks):
        return tasks[::-1]


@broken("L1", "the events of task 'first'")
class EndsUnseen(Serial):
    """Reports the end of failed tasks only."""

    def run(self, tasks, jobs, on_event):
        super().run(tasks, jobs, lambda event: None if event.code == 0 else on_event(event))


@broken("L2", "killed once")
class CountsKilledAsFailed(Serial):
    """Ends a task whose process was killed."""

    def run(self, tasks, jobs, on_event):
        for task in tasks:
            on_event(Event(task.name, "ended", self.code_of(task, on_event)))


@broken("L3", "ended with")
class LosesCodes(Serial):
    """Reports every task as a success."""

    def code_of(self, task, on_event):
        code = super().code_of(task, on_event)
        self.code = min(self.code, 0)
        return code


@broken("L4", "WORLDLAB_CHECK")
class DropsVariables(Serial):
    """Runs tasks with the variables of this process only."""

    def variables(self, task):
        return dict(os.environ)


@broken("L5", "run went on")
class LeavesProcesses(Serial):
    """Leaves its processes behind on an interrupt."""

    def stop(self, process):
        pass


@broken("L5", "run returned")
class SwallowsInterrupts(Serial):
    """Ends quietly on an interrupt."""

    def run(self, tasks, jobs, on_event):
        try:
            super().run(tasks, jobs, on_event)
        except KeyboardInterrupt:
            return
