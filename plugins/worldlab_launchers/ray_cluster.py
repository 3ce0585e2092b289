"""Connects to a Ray cluster and checks before a run whether its nodes can run the tasks."""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
import os
import platform
import re
import secrets
import signal
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldlab.errors import ConfigError, PluginError, StorageError, WorldlabError, one_line
from worldlab.runs.machine import available_cores
from worldlab.runs.storage import atomic_write_text, make_folder
from worldlab.study.compare.tasks import Task
from worldlab_launchers import ray_node

log = logging.getLogger("worldlab")

OLDEST = (2, 60)
"""Oldest tested version of Ray; pyproject.toml requires it."""
OBJECT_STORE = 80 * 2**20
"""Bytes of Ray's shared memory, about the minimum that Ray accepts; we do not use it."""
ANSWER = 60.0
"""Seconds a node has to report whether it can run tasks. A slower node is checked again by its first task."""
INSTALL = 'pip install "worldlab[ray]"'
LOCAL = "--launcher local"


def check_usable(address: str) -> None:
    """Raise PluginError if Ray is missing or has an untested version, ConfigError for an unusable address."""
    try:
        version = importlib.metadata.version("ray")
    except importlib.metadata.PackageNotFoundError:
        cause = "it is an extra, not installed by default"
        raise PluginError("launcher 'ray' needs the package ray", cause=cause, fix=INSTALL) from None
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    if not OLDEST <= numbers < (3,):
        cause = f"it was tested with {'.'.join(map(str, OLDEST))} and newer, below 3"
        raise PluginError(f"launcher 'ray' cannot use ray {version}", cause=cause, fix=f"{INSTALL} --upgrade")
    if address.startswith("ray://"):
        raise ConfigError(
            f"launcher 'ray' cannot use the address '{one_line(address, 40)}'",
            cause="a Ray Client runs outside of the cluster, which may not see the comparison's folder",
            fix="run the command on a node of the cluster, with --launcher.address auto",
        )


@contextmanager
def connect(address: str, cpus: int) -> Iterator[Any]:
    """Yield the module ray, connected to a cluster. address "": to a cluster of this machine, which stops with the
    block and has this machine's cores, or `cpus` if that is more, so that one task always fits.

    An existing connection is used and kept open. Raises: PluginError, ConfigError.
    """
    ray = _import_ray()
    if ray.is_initialized():
        yield ray
        return
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM) if main else None
    try:
        _connect(ray, address, cpus)
        if callable(before):  # Ray has just set a handler that exits; the previous handler takes precedence
            signal.signal(signal.SIGTERM, before)
        yield ray
    finally:
        ray.shutdown()
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def _import_ray() -> Any:
    # Ray reads this variable at import. Without it, a node that dies prints pages of its log between our lines.
    name, silent = "RAY_DEDUP_LOGS_SKIP_REGEX", ".*"
    chosen = os.environ.setdefault(name, silent) is not silent
    try:
        ray: Any = importlib.import_module("ray")
        importlib.import_module("ray.util.scheduling_strategies")
    except ImportError as error:
        raise PluginError("the package ray cannot be imported", cause=one_line(error, 300), fix=INSTALL) from error
    finally:
        if not chosen:
            del os.environ[name]
    ray.cloudpickle.register_pickle_by_value(ray_node)  # nodes need no worldlab in Ray's own Python
    return ray


def _connect(ray: Any, address: str, cpus: int) -> None:
    where: dict[str, Any] = {"address": address}
    if not address:
        cores = max(cpus, available_cores())
        where = {"address": "local", "num_cpus": cores, "include_dashboard": False, "object_store_memory": OBJECT_STORE}
    try:
        ray.init(**where, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # Ray raises ConnectionError, RuntimeError, ValueError and Exception itself
        raise _connection_error(ray, address, str(error)) from error


def _connection_error(ray: Any, address: str, reason: str) -> ConfigError:
    where = f"the Ray cluster at '{one_line(address, 40)}'"
    if "Version mismatch" in reason:
        found = re.search(r"started with:\s*Ray: (\S+)\s*Python: (\S+)", reason)
        versions = f"Ray {found[1]} and Python {found[2]}" if found else "other versions"
        return ConfigError(
            f"{where} runs another version of Ray or Python",
            cause=f"it runs {versions}; here are Ray {ray.__version__} and Python {platform.python_version()}",
            fix=f'{INSTALL} "ray=={found[1] if found else ray.__version__}"   in the same Python on every node',
        )
    if not address:
        return ConfigError("Ray cannot start a cluster on this machine", cause=one_line(reason, 300), fix=LOCAL)
    return ConfigError(
        f"{where} does not answer",
        cause=one_line(reason, 300),
        fix=f"start it: ray start --head, and on other nodes: ray start --address HEAD:6379; or {LOCAL}",
    )


@dataclass(frozen=True)
class FolderMark:
    """Files that show whether a node sees the driver's folders. files: by folder of tasks' folders; token: their
    content.
    """

    files: Mapping[Path, Path]
    token: str

    def place(self, task: Task) -> tuple[str, str, str]:
        """Return a task's folder, the marker file beside it, and that file's content."""
        folder = absolute(task.folder)
        return str(folder), str(self.files[folder.parent]), self.token


@contextmanager
def mark_folders(tasks: Sequence[Task]) -> Iterator[FolderMark]:
    """Create the tasks' folders and, within the block, a marker file beside them. Raises: StorageError."""
    folders = [make_folder(absolute(task.folder)) for task in tasks]
    token = secrets.token_hex(16)
    mark = FolderMark({folder.parent: folder.parent / f".ray-{token[:8]}" for folder in folders}, token)
    try:
        for file in mark.files.values():
            atomic_write_text(file, token)
        yield mark
    finally:
        for file in mark.files.values():
            with suppress(OSError):
                file.unlink()


def absolute(folder: Path) -> Path:
    """Return the absolute path. Links are not resolved: another node may reach the folder through other links."""
    return Path(os.path.abspath(folder))


def check_capacity(ray: Any, tasks: Sequence[Task], *, may_grow: bool) -> None:
    """Warn about a task that no node can hold. Raises: ConfigError if the cluster cannot grow."""
    nodes = ray.nodes()
    task = next((task for task in tasks if not any(_has_capacity(node, task) for node in nodes)), None)
    if task is None:
        return
    needs = f"{task.cpus} CPUs and {task.gpus:g} GPUs"
    if may_grow:
        log.warning("task %s waits for a node with %s: the Ray cluster has none", task.name, needs)
        return
    has = nodes[0]["Resources"]
    raise ConfigError(
        one_line(f"this machine is too small for task {task.name}"),
        cause=f"it needs {needs}; Ray found {has.get('CPU', 0):g} CPUs and {has.get('GPU', 0):g} GPUs",
        fix="reduce its resources, or use --launcher.address HEAD:6379 of a larger Ray cluster",
    )


def _has_capacity(node: Mapping[str, Any], task: Task) -> bool:
    has = node["Resources"]
    return bool(node["Alive"]) and has.get("CPU", 0) >= task.cpus and has.get("GPU", 0) >= task.gpus


def check_nodes(ray: Any, tasks: Sequence[Task], mark: FolderMark) -> None:
    """Check on each node with capacity for a task whether it sees the folders and has the program. Raises: see
    `node_error`.
    """
    remote = ray.remote(num_cpus=0, max_retries=0)(ray_node.check_node)
    pinned = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
    questions = {(*mark.place(task)[1:], task.argv[0]): task for task in tasks}
    pending: dict[Any, Task] = {}
    for node in ray.nodes():
        if any(_has_capacity(node, task) for task in tasks):
            there = remote.options(scheduling_strategy=pinned(node["NodeID"], soft=False))
            pending.update({there.remote(*question): task for question, task in questions.items()})
    answered = ray.wait(list(pending), num_returns=len(pending), timeout=ANSWER)[0] if pending else []
    hosts: dict[str, set[str]] = defaultdict(set)
    example = {}
    for answer in answered:
        with suppress(ray.exceptions.RayError):  # the node died, so it needs no check
            host, problem = ray.get(answer)
            hosts[problem].add(host)
            example[problem] = pending[answer]
    for problem in sorted(filter(None, hosts)):
        raise node_error(sorted(hosts[problem]), problem, example[problem])


def node_error(hosts: Sequence[str], problem: str, task: Task) -> WorldlabError:
    """Return the error for nodes that cannot run a task: a StorageError for "folder", a ConfigError for "program"."""
    names = ", ".join(hosts)
    if problem == "folder":
        return StorageError(
            one_line(f"the folder of the comparison is not shared with Ray node {names}"),
            cause=f"{absolute(task.folder).parent} is missing there, or is another folder",
            fix=f"use a folder on a shared file system (--out DIR), or {LOCAL}",
        )
    return ConfigError(
        one_line(f"the program of the tasks is missing on Ray node {names}"),
        cause=f"{task.argv[0]} does not exist",
        fix=f"install worldlab at the same path on every node, or {LOCAL}",
    )
