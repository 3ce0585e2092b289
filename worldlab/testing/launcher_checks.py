"""Checks of launchers, with tasks that take milliseconds."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from worldlab.study.compare.tasks import Event
from worldlab.testing.checks import CheckFailure, check
from worldlab.testing.launcher_subject import CODE, LauncherSubject, task

TASKS = ("first", "fails", "killed", "variable")


@check("L1", role="launcher", title="every task starts once more than it is lost, in order, and ends once")
def order(subject: LauncherSubject) -> None:
    """With one job at a time, tasks start in the given order; every task has a "started" event before each "lost" and
    before its one "ended" event, and run returns after the last of them.

    Catches tasks that are forgotten or run twice, events without a start, and more tasks at a time than `jobs`. Fix:
    report "started" when the process starts and "ended" when it has ended; return when nothing is left.
    """
    events = subject.report.events
    starts = list(dict.fromkeys(event.task for event in events if event.what == "started"))
    if starts != list(TASKS):
        raise CheckFailure(f"tasks start as {starts}, given were {list(TASKS)}", "start tasks in the given order")
    for name in TASKS:
        kinds = subject.report.of(name)
        if kinds != ["started", *["lost", "started"] * kinds.count("lost"), "ended"]:
            raise CheckFailure(
                f"the events of task '{name}' are {kinds}",
                'report "started", then "ended"; "lost" in between, if it was',
            )
    running = 0
    for event in events:
        running += 1 if event.what == "started" else -1
        if running > 1:
            raise CheckFailure("two tasks run at a time with jobs = 1", "run at most `jobs` tasks at a time")


@check("L2", role="launcher", title="a killed task is lost and runs again")
def lost(subject: LauncherSubject) -> None:
    """A task whose process is killed once gives "lost", runs again and ends with code 0.

    Catches a launcher that counts a killed process as a failed cell: the cell would be missing from the comparison. Fix:
    report "lost" for processes that a signal killed, and for hosts that died, and start the task again.
    """
    kinds = subject.report.of("killed")
    codes = [event.code for event in subject.report.events if event.task == "killed" and event.what == "ended"]
    if "lost" not in kinds or codes != [0]:
        raise CheckFailure(
            f"the events of a task that was killed once are {kinds}, its exit code {codes}",
            'report "lost" and run it again',
        )


@check("L3", role="launcher", title="a task that fails by itself ends with its own code, once")
def ended(subject: LauncherSubject) -> None:
    """A task that exits with code 7 gives "started" and "ended" with code 7; a task that exits well has code 0.

    Catches a launcher that repeats a failing cell for ever, and exit codes that are lost. Fix: report the exit code of
    the process, and do not run it again.
    """
    found = {name: [e.code for e in subject.report.events if e.task == name and e.what == "ended"] for name in TASKS}
    if found["first"] != [0] or found["fails"] != [CODE] or subject.report.of("fails") != ["started", "ended"]:
        raise CheckFailure(
            f"tasks that exit with 0 and {CODE} ended with {found['first']} and {found['fails']}",
            "report the exit code of the process, and do not run the task again",
        )


@check("L4", role="launcher", title="a task sees its environment variables")
def environment(subject: LauncherSubject) -> None:
    """A task runs with the variables of Task.env.

    Catches a launcher that drops them: they set the threads of a cell. Fix: pass {**os.environ, **dict(task.env)}.
    """
    if subject.report.variable != "set":
        raise CheckFailure(
            f"the variable WORLDLAB_CHECK of Task.env is {subject.report.variable!r} in the task, not 'set'",
            "pass {**os.environ, **dict(task.env)} to the process",
        )


@check("L5", role="launcher", title="an interrupt stops the tasks and comes out of run")
def interrupt(subject: LauncherSubject) -> None:
    """When on_event raises KeyboardInterrupt at the first start, as Ctrl-C does, run stops what it started, starts nothing
    else and raises KeyboardInterrupt.

    Catches a launcher that goes on after Ctrl-C, and processes that are left behind. Fix: terminate the processes in a
    `finally`, and let the exception pass.
    """
    # A process that is left behind may still write there, which must not replace the failure.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        events: list[Event] = []

        def stop(event: Event) -> None:
            events.append(event)
            if len(events) == 1:
                _wait_for(folder / "begun")
                raise KeyboardInterrupt

        tasks = [task(folder, "slow", _SLOW.format(folder=name)), task(folder, "later", "pass")]
        try:
            subject.build().run(tasks, 1, stop)
        except KeyboardInterrupt:
            pass
        else:
            raise CheckFailure("run returned after a KeyboardInterrupt", "let the exception pass")
        before = (folder / "beat").read_text()
        time.sleep(0.5)
        if (folder / "beat").read_text() != before or [event for event in events if event.task == "later"]:
            raise CheckFailure(
                "run went on after a KeyboardInterrupt", "terminate what it started, and start nothing else"
            )


_SLOW = """
import pathlib, time
for beat in range(1000):
    pathlib.Path({folder!r}, "beat").write_text(str(beat))
    pathlib.Path({folder!r}, "begun").touch()
    time.sleep(0.01)
"""


def _wait_for(path: Path) -> None:
    """Wait until a file exists, at most ten seconds."""
    end = time.monotonic() + 10
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.005)
