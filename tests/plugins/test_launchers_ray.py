"""The ray launcher on a real cluster: several nodes on this machine, some of which are killed while they work."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from warm_process import warm_cells
from worldlab_launchers import ray_cluster, ray_node
from worldlab_launchers.configs import RayConfig
from worldlab_launchers.ray import RayLauncher

from worldlab.errors import ConfigError, PluginError, StorageError
from worldlab.registry import load_registry
from worldlab.study.compare.matrix import matrix_of
from worldlab.study.compare.run import compare
from worldlab.study.compare.tasks import Event, Task
from worldlab.testing import run_checks

ray: Any = pytest.importorskip("ray")

STORE = 80 * 2**20
"""Bytes of shared memory of a node."""


# ---- the cluster and its tasks ----


class Nodes:
    """A cluster whose head runs no tasks, and nodes with room for one task each."""

    def __init__(self) -> None:
        head = {"num_cpus": 0, "include_dashboard": False, "no_monitor": True, "include_log_monitor": False}
        self.cluster = importlib.import_module("ray.cluster_utils").Cluster(
            True, head_node_args={**head, "object_store_memory": STORE}
        )
        self.address = self.cluster.address
        self.alive: list[Any] = []

    def ask_for(self, count: int) -> None:
        """Have that many nodes, or more. Tried again: Ray gives a node up whose agents take 15 s to start."""
        node = {"num_cpus": 1, "num_gpus": 1, "object_store_memory": STORE}
        for _ in range(count + 3):
            if len(self.alive) < count:
                with suppress(Exception):  # Ray raises Exception itself
                    self.alive.append(self.cluster.add_node(**node))
        assert len(self.alive) >= count, "no more nodes can be started"

    def keep(self, count: int) -> None:
        """Have no more than that many nodes: a launcher starts a Ray worker on each."""
        for node in self.alive[count:]:
            self.remove(node)

    def under(self, worker: int) -> Any:
        """The node that a Ray worker belongs to."""
        parent = psutil.Process(worker).ppid()
        return next(node for node in self.alive if _raylet(node).pid == parent)

    def remove(self, node: Any) -> None:
        self.alive.remove(node)
        self.cluster.remove_node(node)

    def kill(self, node: Any) -> None:
        """The node's power fails: its manager ends at once and says nothing."""
        _raylet(node).kill()
        _raylet(node).wait()
        self.remove(node)


def _raylet(node: Any) -> Any:
    return node.all_processes["raylet"][0].process


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        nodes = Nodes()
        yield nodes
        nodes.cluster.shutdown()
    signal.signal(signal.SIGTERM, before)


def wait_for(happened: Callable[[], bool], seconds: float = 300.0) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def runs(process: int) -> bool:
    """Whether a process can still do something. One whose end nobody has asked about yet, as in a container, cannot."""
    try:
        return bool(psutil.Process(process).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def kill_with_children(process: int) -> None:
    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(process)
        for one in (parent, *parent.children(recursive=True)):
            one.kill()


def task(folder: Path, name: str, program: str, **more: Any) -> Task:
    """A task that runs a few lines of Python, having noted in its folder that it did: its process, its parent, the time."""
    note = 'import os, sys, time\nopen("tries", "a").write(f"{os.getpid()} {os.getppid()} {time.time()}\\n")\n'
    argv = (sys.executable, "-S", "-c", note + textwrap.dedent(program))
    return Task(name, argv, folder / "cells" / name, **more)


def tries(one: Task) -> list[tuple[int, int, float]]:
    """(process, its parent, when) of each time a task was run: at least once, perhaps a moment ago."""
    file = one.folder / "tries"
    wait_for(lambda: file.exists() and file.read_text().endswith("\n"))
    lines = file.read_text().splitlines()
    return [(int(a), int(b), float(c)) for a, b, c in map(str.split, lines)]


def launch(nodes: Nodes, tasks: list[Task], jobs: int = 0, hear: Callable[[Event], None] | None = None) -> list[Event]:
    """Run tasks to their end; what was told."""
    told: list[Event] = []

    def on_event(event: Event) -> None:
        told.append(event)
        if hear is not None:
            hear(event)

    RayLauncher(RayConfig(address=nodes.address)).run(tasks, jobs, on_event)
    return told


def of(told: list[Event], name: str) -> list[tuple[str, int | None]]:
    return [(event.what, event.code) for event in told if event.task == name]


# ---- what a task gets, and what is told of it ----


def test_a_task_has_its_folder_environment_and_resources(nodes, tmp_path):
    nodes.ask_for(2)
    report = 'open("got", "w").write(repr((os.getcwd(), os.environ["WORD"], os.environ.get("CUDA_VISIBLE_DEVICES"))))'
    env = (("WORD", "two words"),)
    one = task(tmp_path, "one", report, env=env, gpus=1.0)
    bad = task(tmp_path, "bad", "print('the reason'); sys.exit(3)")
    told = launch(nodes, [one, bad])
    assert of(told, "one") == [("started", None), ("ended", 0)]
    assert of(told, "bad") == [("started", None), ("ended", 3)]
    assert (one.folder / "got").read_text() == repr((str(one.folder), "two words", "0"))
    assert len(tries(bad)) == 1
    assert {event.where for event in told} == {os.uname().nodename}
    assert {path.name for path in (tmp_path / "cells").iterdir()} == {"one", "bad"}


def test_why_a_task_failed_is_logged(nodes, tmp_path, caplog):
    nodes.ask_for(1)
    launch(nodes, [task(tmp_path, "bad", "print('the reason', file=sys.stderr); sys.exit(3)")])
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "bad ended with code 3" in line and "the reason" in line


def test_tasks_wait_for_room(nodes, tmp_path):
    """Two nodes with room for one task each: of five, never more than two at a time, and with jobs=1 one."""
    nodes.ask_for(2)
    program = 'time.sleep(0.3); open("end", "w").write(str(time.time()))'
    for jobs, most in ((0, len(nodes.alive)), (1, 1)):
        tasks = [task(tmp_path / str(jobs), f"t{number}", program) for number in range(len(nodes.alive) + 2)]
        told = launch(nodes, tasks, jobs)
        assert Counter((event.what, event.code) for event in told) == {
            ("started", None): len(tasks),
            ("ended", 0): len(tasks),
        }
        spans = [(tries(one)[0][2], float((one.folder / "end").read_text())) for one in tasks]
        assert max(sum(begin <= start < end for begin, end in spans) for start, _ in spans) == most
        assert most == 1 or len({tries(one)[0][1] for one in tasks}) == most  # one Ray worker a node


# ---- losses ----


def test_a_node_that_dies_costs_its_own_tasks(nodes, tmp_path):
    """One node is shut down and one loses power, each while it runs a task: these two are run again, all others once."""
    nodes.ask_for(3)
    go = tmp_path / "go"
    program = f'while not os.path.exists("{go}"): time.sleep(0.05)\nopen("done", "a").write("x")'
    tasks = [task(tmp_path, f"t{number}", program) for number in range(5)]
    by_name = {one.name: one for one in tasks}
    victims: list[str] = []
    started: list[str] = []

    def hear(event: Event) -> None:
        if event.what == "started":
            started.append(event.task)
        if len(started) == 3 and not victims:
            victims.extend(started[:2])
            found = [tries(by_name[name])[0] for name in victims]
            shut, dark = [nodes.under(worker) for _, worker, _ in found]
            nodes.remove(shut)
            nodes.kill(dark)
            wait_for(lambda: not any(runs(process) for process, _, _ in found))  # nobody told them to end
            go.touch()

    told = launch(nodes, tasks, hear=hear)
    for one in tasks:
        again = [("lost", -signal.SIGKILL), ("started", None)] if one.name in victims else []
        assert of(told, one.name) == [("started", None), *again, ("ended", 0)]
        assert len(tries(one)) == (2 if one.name in victims else 1)
        assert (one.folder / "done").read_text() == "x"
    assert len(victims) == 2


SMALL = {
    "axes": {"env": "CartPole", "encoder": ["vae", "cpc"]},
    "seeds": 1,
    "presets": "laptop",
    "baselines": "none",
    "measures": "none",
    "settings": {
        "steps": 64, "env.time_limit": 60, "train.prefill": 32, "train.pretrain": 1, "train.ratio": 0.05, "train.batch_size": 2,
        "train.batch_length": 8, "train.starts": 4, "agent.horizon": 2, "agent.units": 8, "encoder.units": 8, "dynamics.memory": 8,
        "dynamics.units": 8, "decoder.units": 8, "model.units": 8, "eval.every": 32, "eval.episodes": 1,
        "eval.final_episodes": 3, "eval.dream_horizon": 0,
    },
}  # fmt: skip
"""Cells of a few seconds each."""


@pytest.mark.slow
def test_a_comparison_has_the_numbers_of_one_on_this_machine_though_a_node_died(nodes, tmp_path, monkeypatch):
    registry = load_registry()
    warm_cells(monkeypatch)
    here = compare(matrix_of(SMALL, {"jobs": 1}), registry, tmp_path / "here")
    nodes.ask_for(3)
    folder = tmp_path / "there"
    killed: list[str] = []

    def kill_one() -> None:
        """The node of the first model's cell that trains."""

        def training() -> list[psutil.Process]:
            cells = [place.parent.name for place in folder.glob("cells/*-CartPole-v1-*/run.json")]
            found = []
            for process in psutil.process_iter(["cmdline"]):
                line = process.info["cmdline"] or []
                if "worldlab.study.compare.cell" in line and Path(line[-1]).name in cells:
                    found.append(process)
            return found

        wait_for(lambda: bool(training()))
        for process in training():
            with suppress(psutil.NoSuchProcess, StopIteration):
                killed.append(Path(process.cmdline()[-1]).name)
                nodes.kill(nodes.under(process.ppid()))
                return

    killer = threading.Thread(target=kill_one)
    killer.start()
    launcher = {"name": "ray", "address": nodes.address}
    there = compare(matrix_of(SMALL, {"launcher": launcher}), registry, folder)
    killer.join()
    assert len(killed) == 1
    for one, other in zip(here.trials, there.trials, strict=True):
        assert other.status == "finished"
        assert (one.method, one.seed, one.returns, one.curve) == (other.method, other.seed, other.returns, other.curve)


def test_a_killed_worker_takes_its_task_along(nodes, tmp_path):
    """Its process must not write on beside the one that is started in its place."""
    nodes.ask_for(1)
    nodes.keep(1)
    program = """
        own = len(open("tries").readlines())
        while own == 1:
            open("ticks", "a").write(f"{time.time()}\\n")
            time.sleep(0.01)
    """
    one = task(tmp_path, "one", program)

    def hear(event: Event) -> None:
        if len(told) == 0:
            wait_for((one.folder / "ticks").exists)
            os.kill(tries(one)[0][1], signal.SIGKILL)
        told.append((event.what, event.code))

    told: list[tuple[str, int | None]] = []
    launch(nodes, [one], hear=hear)
    assert told == [("started", None), ("lost", -signal.SIGKILL), ("started", None), ("ended", 0)]
    (first, _, _), (_, _, second_began) = tries(one)
    assert not runs(first)
    assert max(map(float, (one.folder / "ticks").read_text().split())) < second_began


def test_a_task_is_given_up_after_three_losses(nodes, tmp_path):
    nodes.ask_for(1)
    one = task(tmp_path, "one", "os.kill(os.getpid(), 9)")
    lost = [("started", None), ("lost", -signal.SIGKILL)]
    assert of(launch(nodes, [one]), "one") == [*lost * 3, ("started", None), ("ended", -signal.SIGKILL)]
    assert len(tries(one)) == 4


# ---- what keeps tasks from running ----


def test_a_folder_that_nodes_do_not_see_is_refused(nodes, tmp_path, monkeypatch):
    """/proc/self/cwd is another folder in each process: the driver's here, the one it was started in for a node."""
    nodes.ask_for(1)
    monkeypatch.setattr(ray_node, "SETTLE", 0.1)
    monkeypatch.chdir(tmp_path)
    one = task(Path("/proc/self/cwd"), "one", "")
    with pytest.raises(StorageError, match=f"not shared with Ray node {os.uname().nodename}") as caught:
        launch(nodes, [one])
    assert "shared file system" in str(caught.value.fix) and "--launcher local" in str(caught.value.fix)
    assert not (one.folder / "tries").exists()
    assert [path.name for path in (tmp_path / "cells").iterdir()] == ["one"]


def test_a_node_that_comes_later_is_checked_too(nodes, tmp_path, monkeypatch):
    nodes.ask_for(1)
    monkeypatch.setattr(ray_node, "SETTLE", 0.1)
    monkeypatch.setattr("worldlab_launchers.ray.check_nodes", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StorageError, match="not shared with Ray node"):
        launch(nodes, [task(Path("/proc/self/cwd"), "one", "")])


def test_a_program_that_a_node_lacks_is_named(nodes, tmp_path):
    nodes.ask_for(1)
    one = replace(task(tmp_path, "one", ""), argv=("/opt/elsewhere/python", "-c", ""))
    with pytest.raises(ConfigError, match="program of the tasks is missing") as caught:
        launch(nodes, [one])
    assert "/opt/elsewhere/python" in str(caught.value.cause)


def test_another_version_of_ray_is_named_with_its_cure(nodes, tmp_path, monkeypatch):
    ours = ray.__version__
    monkeypatch.setattr(ray, "__version__", "2.0.1")
    with pytest.raises(ConfigError, match="another version of Ray") as caught:
        launch(nodes, [task(tmp_path, "one", "")])
    assert f'pip install "worldlab[ray]" "ray=={ours}"' in str(caught.value.fix)
    assert "here are Ray 2.0.1" in str(caught.value.cause)


def test_ray_is_asked_for_where_it_is_missing_or_old(monkeypatch):
    def version(name: str) -> str:
        raise ray_cluster.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(ray_cluster.importlib.metadata, "version", version)
    with pytest.raises(PluginError, match="needs the package ray") as caught:
        RayLauncher(RayConfig())
    assert caught.value.fix == 'pip install "worldlab[ray]"'
    for old in ("2.9.3", "1.13.0", "3.0.0"):
        monkeypatch.setattr(ray_cluster.importlib.metadata, "version", lambda name, old=old: old)
        with pytest.raises(PluginError, match=f"cannot use ray {old}"):
            RayLauncher(RayConfig())


def test_the_oldest_ray_is_the_one_that_the_extra_asks_for():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    oldest = ".".join(map(str, ray_cluster.OLDEST))
    assert project["optional-dependencies"]["ray"] == [f"ray>={oldest},<3"]


def test_a_ray_client_is_refused():
    with pytest.raises(ConfigError, match="ray://head:10001"):
        RayLauncher(RayConfig(address="ray://head:10001"))


def test_a_task_too_large_for_any_node_is_named(tmp_path, caplog):
    """Alone, no larger machine will come; a cluster may grow."""
    node = {"Alive": True, "Resources": {"CPU": 4.0, "GPU": 1.0}}
    cluster = SimpleNamespace(nodes=lambda: [node, {"Alive": False, "Resources": {"CPU": 64.0}}])
    fits, big = task(tmp_path, "fits", "", cpus=4, gpus=1.0), task(tmp_path, "big", "", cpus=8)
    ray_cluster.check_capacity(cluster, [fits], may_grow=False)
    with pytest.raises(ConfigError, match="too small for task big") as caught:
        ray_cluster.check_capacity(cluster, [fits, big], may_grow=False)
    assert caught.value.cause == "it needs 8 CPUs and 0 GPUs; Ray found 4 CPUs and 1 GPUs"
    ray_cluster.check_capacity(cluster, [fits, big], may_grow=True)
    assert "task big waits for a node with 8 CPUs" in caplog.text


# ---- a cluster of this machine alone ----

DRIVER = """
import json, signal, sys
from pathlib import Path
from worldlab.study.compare.tasks import Task
from worldlab_launchers.configs import RayConfig
from worldlab_launchers.ray import RayLauncher

def mine(number, frame):
    raise KeyboardInterrupt

signal.signal(signal.SIGTERM, mine)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
try:
    tasks = [Task(name, tuple(argv), Path(folder)) for name, argv, folder in json.loads(sys.argv[1])]
    RayLauncher(RayConfig()).run(tasks, 0, lambda event: print(event.task, event.what, event.code, flush=True))
except KeyboardInterrupt:
    print("interrupted", signal.getsignal(signal.SIGTERM) is mine, flush=True)
"""


def test_an_interrupt_lets_tasks_save_what_they_have(tmp_path):
    """On a cluster that the launcher starts: it ends with it, and with everything it ran."""
    program = """
        import signal
        def save(number, frame):
            time.sleep(0.5)
            open("saved", "w").write(str(number))
            sys.exit(143)
        signal.signal(signal.SIGTERM, save)
        open("ready", "w")
        time.sleep(600)
    """
    quick = task(tmp_path, "quick", "")
    cores = len(os.sched_getaffinity(0))
    long = [task(tmp_path, f"long{number}", program) for number in range(cores + 1)]
    asked = json.dumps([(one.name, one.argv, str(one.folder)) for one in (quick, *long)])
    command = [sys.executable, "-c", DRIVER, asked]
    output = tmp_path / "said"

    def busy() -> bool:
        """The quick task is over and has been told of; every core has a long one."""
        return "quick ended" in output.read_text() and sum((one.folder / "ready").exists() for one in long) == cores

    with output.open("w") as said:
        driver = subprocess.Popen(command, stdout=said, start_new_session=True)
    try:
        wait_for(lambda: driver.poll() is not None or busy())
        assert driver.poll() is None
        family = psutil.Process(driver.pid).children(recursive=True)
        os.killpg(driver.pid, signal.SIGINT)  # as a terminal does
        driver.wait(timeout=300)
    finally:
        kill_with_children(driver.pid)
    lines = output.read_text().splitlines()
    assert lines[-1] == "interrupted True"
    assert [line for line in lines if line.startswith("quick")] == ["quick started None", "quick ended 0"]
    ran = [one for one in long if (one.folder / "tries").exists()]
    assert len(ran) == cores and all((one.folder / "saved").read_text() == str(int(signal.SIGTERM)) for one in ran)
    assert len(family) > cores
    wait_for(lambda: not any(runs(one.pid) for one in family), 60)
    assert not list((tmp_path / "cells").glob(".*"))


def test_it_passes_the_checks_of_launchers(nodes):
    nodes.ask_for(1)
    found = run_checks("launcher", RayLauncher, RayConfig(address=nodes.address))
    assert [f"{result.check}: {result.cause}" for result in found if not result.passed] == [] and len(found) >= 5
