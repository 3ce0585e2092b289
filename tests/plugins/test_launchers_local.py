"""The local launcher with tasks that sleep, fail, are killed, or write down what they see."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from worldlab_launchers import local
from worldlab_launchers.configs import LocalConfig
from worldlab_launchers.local import LocalLauncher

from worldlab.study.compare.tasks import Event, Task


def task(folder: Path, name: str, code: str, **more) -> Task:
    return Task(name, (sys.executable, "-S", "-c", code), folder, **more)


class Heard:
    """Listens to events; does something at the first one of a kind."""

    def __init__(self, at: str = "", do: Callable[[Event], None] = lambda event: None):
        self.events: list[Event] = []
        self.running, self.most = 0, 0
        self._at, self._do = at, do

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        self.running += 1 if event.what == "started" else -1
        self.most = max(self.most, self.running)
        if event.what == self._at:
            self._at = ""
            self._do(event)

    def of(self, name: str) -> list[tuple[str, int | None]]:
        return [(event.what, event.code) for event in self.events if event.task == name]


def run(tasks, jobs=2, heard: Heard | None = None) -> Heard:
    heard = heard or Heard()
    LocalLauncher(LocalConfig()).run(tasks, jobs, heard)
    return heard


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_every_task_ends_once_with_its_own_code(tmp_path):
    tasks = [task(tmp_path, f"t{code}", f"raise SystemExit({code})") for code in (0, 1, 70)]
    heard = run(tasks)
    assert {f"t{code}": heard.of(f"t{code}") for code in (0, 1, 70)} == {
        f"t{code}": [("started", None), ("ended", code)] for code in (0, 1, 70)
    }
    assert all(event.where for event in heard.events)


@pytest.mark.parametrize("jobs", [1, 3])
def test_so_many_run_at_a_time_and_no_more(tmp_path, jobs):
    code = f"import os, pathlib; pathlib.Path({str(tmp_path)!r}, str(os.getpid())).touch()"
    heard = run([task(tmp_path, str(n), code) for n in range(5)], jobs)
    assert heard.most == jobs and len(list(tmp_path.iterdir())) == 5


@pytest.mark.parametrize(("cores", "cpus", "most"), [(4, 1, 3), (4, 2, 2), (1, 2, 1)])
def test_zero_jobs_are_as_many_as_the_cores_are_enough_for(tmp_path, monkeypatch, cores, cpus, most):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
    assert run([task(tmp_path, str(n), "pass", cpus=cpus) for n in range(3)], jobs=0).most == most


def test_a_task_sees_its_own_variables_beside_those_of_this_process(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLDLAB_TEST_OUTER", "outer")
    names = ("OMP_NUM_THREADS", "WORLDLAB_TEST_OUTER")
    code = f"import os, pathlib; pathlib.Path({str(tmp_path / 'seen')!r}).write_text(','.join(os.environ[n] for n in {names!r}))"
    run([task(tmp_path, "a", code, env=(("OMP_NUM_THREADS", "3"),))])
    assert (tmp_path / "seen").read_text() == "3,outer"


DIES = """
import os, pathlib, signal
tries = pathlib.Path({tries!r})
tries.write_text(tries.read_text() + "x" if tries.exists() else "x")
if len(tries.read_text()) <= {deaths}:
    {dies}
"""


@pytest.mark.parametrize(
    ("dies", "code"), [("os.kill(os.getpid(), signal.SIGKILL)", -9), ("raise SystemExit(143)", 143), ("os.abort()", -6)]
)
def test_a_killed_task_is_lost_and_run_again(tmp_path, dies, code):
    source = DIES.format(tries=str(tmp_path / "tries"), deaths=2, dies=dies)
    heard = run([task(tmp_path, "a", source)])
    started = ("started", None)
    assert heard.of("a") == [started, ("lost", code), started, ("lost", code), started, ("ended", 0)]


def test_one_that_is_always_killed_ends_after_three_more_tries(tmp_path):
    source = DIES.format(tries=str(tmp_path / "tries"), deaths=99, dies="os.kill(os.getpid(), signal.SIGKILL)")
    heard = run([task(tmp_path, "a", source), task(tmp_path, "b", "pass")], jobs=1)
    assert [what for what, _ in heard.of("a")] == ["started", "lost"] * 3 + ["started", "ended"]
    assert heard.of("a")[-1] == ("ended", -9) and (tmp_path / "tries").read_text() == "xxxx"
    assert heard.of("b") == [("started", None), ("ended", 0)]


SAVES = """
import os, pathlib, signal, sys, time
place = pathlib.Path({place!r})
def save(number, frame):
    (place / f"saved-{{number}}").touch()
    sys.exit(128 + number)
signal.signal(signal.SIGTERM, save)
(place / f"pid-{{os.getpid()}}").touch()
time.sleep(60)
"""


def test_an_interrupt_lets_tasks_save_and_leaves_none_behind(tmp_path):
    """As Ctrl-C does: KeyboardInterrupt comes out of whatever the launcher is at."""
    saves = task(tmp_path, "a", SAVES.format(place=str(tmp_path)))

    def when_it_runs():
        until = time.monotonic() + 60
        while not list(tmp_path.glob("pid-*")) and time.monotonic() < until:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=when_it_runs)
    heard = Heard("started", lambda event: thread.start())
    with pytest.raises(KeyboardInterrupt):
        run([saves, task(tmp_path, "later", "pass")], jobs=1, heard=heard)
    thread.join()
    assert (tmp_path / "saved-15").exists() and heard.of("later") == []
    (pid,) = (int(path.name[4:]) for path in tmp_path.glob("pid-*"))
    assert not alive(pid)


DEAF = """
import os, pathlib, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path({place!r}, f"pid-{{os.getpid()}}").touch()
time.sleep(60)
"""


def test_one_that_does_not_stop_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "PATIENCE", 0.1)
    deaf = DEAF.format(place=str(tmp_path))

    def stop(event):
        until = time.monotonic() + 60
        while not list(tmp_path.glob("pid-*")) and time.monotonic() < until:
            time.sleep(0.01)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run([task(tmp_path, "a", deaf)], heard=Heard("started", stop))
    (pid,) = (int(path.name[4:]) for path in tmp_path.glob("pid-*"))
    assert not alive(pid)


def test_it_is_registered_with_its_settings():
    from worldlab.registry import load_registry

    entry = load_registry().get("launcher", "local")
    assert entry.load() is LocalLauncher and entry.config is LocalConfig
