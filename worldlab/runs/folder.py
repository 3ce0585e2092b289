"""Defines the folder of a run: its layout, its lock, and the facts about the run that readers need later.

One process at a time writes a run and holds its lock; readers need no lock and never write.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import platform
import subprocess
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

import worldlab
from worldlab.errors import CheckpointError, ConfigError, StorageError, did_you_mean, one_line
from worldlab.runs import digests, storage
from worldlab.runs.checkpoint import QUARANTINE, list_checkpoints
from worldlab.runs.digests import COVERED, confirm_digest, find_altered, record_digest, record_prefix
from worldlab.runs.find import checked_run_path
from worldlab.runs.lock import LOCK_FILES, FolderLock

__all__ = ["RunFolder", "git_state", "versions"]

log = logging.getLogger("worldlab")
Status = Literal["running", "finished", "stopped", "interrupted", "failed", "diverged"]

FORMAT = "worldlab-run"
FORMAT_VERSION = 1

_PACKAGES = ("torch", "numpy", "gymnasium", "stable-baselines3", "mujoco", "box2d")
BESIDE = ("cell.json", "cell.lock", "output.txt")
"""Files that a comparison keeps in a run's folder; they exist before the run begins."""


class RunFolder:
    """The folder of a run. Get one from `create` or `open`; close it (or use `with`) to release the lock.

    Paths: `config` config.toml, `run_json`, `result` result.json, `metrics` and `perf` (.jsonl), `monitor`
    monitor.csv, `replay`, `checkpoints`, `videos`, `plugins` (folders), `report` report.html.
    """

    def __init__(self, path: Path):
        self.path = path
        self.config = path / "config.toml"
        self.run_json = path / "run.json"
        self.result = path / "result.json"
        self.metrics = path / "metrics.jsonl"
        self.perf = path / "perf.jsonl"
        self.monitor = path / "monitor.csv"
        self.replay = path / "replay"
        self.checkpoints = path / "checkpoints"
        self.videos = path / "videos"
        self.plugins = path / "plugins"
        self.report = path / "report.html"
        self._folders = (self.checkpoints, self.replay, self.videos)
        self._lock: FolderLock | None = None

    @classmethod
    def create(cls, path: str | Path) -> RunFolder:
        """Make the folder of a new run and take its lock.

        Raises: ConfigError for an unsafe name or a folder that is not empty; RunLockedError if another process writes
        it; StorageError if it cannot be created.
        """
        folder = cls(checked_run_path(str(path)))
        fix = "choose a folder you can write: --run DIR"
        try:
            folder.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            message = f"cannot create the run folder '{folder.name}': {error.strerror}"
            raise StorageError(message, cause=f"{folder.path}: {error.strerror}", fix=fix) from error
        if folder._occupied() and not (folder.path / LOCK_FILES[0]).exists():
            raise folder._exists()
        folder._acquire()
        if folder._occupied():
            folder.close()
            raise folder._exists()
        folder._prepare()
        return folder

    @classmethod
    def open(cls, path: str | Path, *, write: bool = False) -> RunFolder:
        """Open an existing run; write=True takes the lock and removes what a killed process left unfinished.

        Raises: ConfigError if there is no run; RunLockedError; StorageError.
        """
        folder = cls(Path(path))
        if not folder.run_json.is_file() and not (write and folder.began):
            raise _no_run(folder.path)
        if write:
            storage.refuse_links(folder.path)
            folder._acquire()
            folder._prepare()
        return folder

    def _prepare(self) -> None:
        """Remove what a killed process left unfinished, and create what is missing."""
        for place in (self.path, *self._folders):
            storage.clean_leftovers(place)
        for path in self._folders:
            storage.make_folder(path)

    @property
    def saved(self) -> bool:
        """Whether the folder holds a checkpoint, whole or damaged, or a result."""
        left = (self.result, self.checkpoints / QUARANTINE)
        return bool(list_checkpoints(self.checkpoints)) or any(path.exists() for path in left)

    @property
    def name(self) -> str:
        """Return the name of the run: that of its folder."""
        return self.path.resolve().name

    def close(self) -> None:
        """Release the lock; a second call does nothing."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def write_config(self, toml: str) -> str:
        """Write config.toml and return its SHA-256."""
        return self._replace(self.config, toml.encode())

    def read_run_json(self) -> dict[str, Any]:
        """Return the content of run.json, or {} if there is none yet. Raises: StorageError if it is damaged."""
        try:
            value = storage.read_json(self.run_json)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise StorageError(
                f"run '{self.name}': run.json is damaged", cause=str(error), fix="restore it from a backup"
            ) from error
        return value if isinstance(value, dict) else {}

    def write_run_json(self, values: dict[str, Any]) -> None:
        """Set top-level entries of run.json, atomically; all other entries stay.

        values: status (running, finished, stopped, interrupted, failed or diverged), step, seed, device, plugins,
        parameters, ... The first call adds format, run_id, time, library versions and the git state of the
        working folder. Never pass environment variables, command lines or absolute paths.
        """
        assert values.get("status", "running") in get_args(Status), values["status"]
        content = self.read_run_json() or self._first_entries()
        self._replace(self.run_json, storage.dump_json(content | values, indent=2) + b"\n")

    def write_result(self, values: dict[str, Any]) -> None:
        """Write result.json, atomically."""
        self._replace(self.result, storage.dump_json(values, indent=2) + b"\n")

    def read_result(self) -> dict[str, Any] | None:
        """Return the content of result.json, or None if the run has not finished.

        Raises: CheckpointError if the file is not as the run wrote it.
        """
        if not self.result.exists():
            return None
        self.check_texts((self.result.name,))
        try:
            value = storage.read_json(self.result)
        except (OSError, ValueError) as error:
            raise self._altered(f"{self.result.name} cannot be read: {error}") from error
        return value if isinstance(value, dict) else None

    def cover_metrics(self, digest: storage.FileDigest) -> None:
        """Record the digest of the beginning of metrics.jsonl (`MetricsBus.digest`)."""
        record_prefix(self.path, self.metrics.name, digest)

    def check_texts(self, names: tuple[str, ...] = COVERED) -> None:
        """Check that text files are as worldlab wrote them. Raises: CheckpointError that names the first altered one."""
        for sentence in find_altered(self.path, names):
            raise self._altered(sentence)

    def report_texts(self, *, strict: bool = False) -> None:
        """Warn of each text file that was edited or damaged. strict: raise CheckpointError instead."""
        if strict:
            self.check_texts()
        for sentence in find_altered(self.path):
            log.warning("run '%s': %s", self.name, sentence)

    def _replace(self, path: Path, data: bytes) -> str:
        """Write a text file of the run atomically, with its digest in digests.json. Returns: its SHA-256."""
        digest = storage.FileDigest(len(data), storage.sha256_bytes(data))
        record_digest(self.path, path.name, digest)
        storage.atomic_write_bytes(path, data)
        confirm_digest(self.path, path.name)
        return digest.sha256

    def _altered(self, sentence: str) -> CheckpointError:
        return CheckpointError(
            one_line(f"run '{_shorten(self.name)}': {sentence}"),
            cause=f"{self.path}: {sentence}",
            fix=f"restore the file from a backup; worldlab verify {self.path}   lists everything that is damaged",
        )

    def keep_plugin(self, source: str | Path) -> dict[str, Any]:
        """Copy a --plugin file into plugins/ and return {"file": path inside the run, "sha256": ...}.

        Raises: ConfigError if it cannot be read; StorageError.
        """
        source = Path(source)
        try:
            data = source.read_bytes()
        except OSError as error:
            message = f"plugin file '{source.name}' cannot be read: {error.strerror}"
            raise ConfigError(message, cause=str(source), fix="--plugin PATH must name a Python file") from error
        digest = storage.sha256_bytes(data)
        target = storage.make_folder(self.plugins) / checked_run_path(source.name).name
        if target.exists() and storage.sha256_file(target).sha256 != digest:
            target = target.with_stem(f"{target.stem}-{digest[:8]}")
        if not target.exists():
            storage.atomic_write_bytes(target, data)
        return {"file": target.relative_to(self.path).as_posix(), "sha256": digest}

    def _first_entries(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "run_id": str(uuid.uuid4()),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "status": "running",
            "versions": versions(),
            "platform": f"{platform.system()} {platform.machine()}",
            "git": git_state(),
        }

    @property
    def began(self) -> bool:
        """Whether a run has begun in this folder."""
        return self.run_json.is_file() or self.config.is_file()

    def _occupied(self) -> bool:
        """Whether the folder holds more than what `create`, killed half-way, or a comparison leaves in it."""
        return any(
            entry.name not in (*LOCK_FILES, *BESIDE, digests.NAME)
            and not entry.name.startswith(storage.TEMP_PREFIX)
            and not (Path(entry) in self._folders and not any(os.scandir(entry)))
            for entry in os.scandir(self.path)
        )

    def _exists(self) -> ConfigError:
        if not self.began:
            message = f"folder '{self.name}' is not empty and holds no run"
            return ConfigError(message[:100], cause=str(self.path), fix="choose another folder: --run DIR")
        steps = [step for step, _ in list_checkpoints(self.checkpoints)]
        status = "finished" if self.read_run_json().get("status") == "finished" else "stopped"
        where = f"{status} at step {steps[-1]}" if steps else f"{status}, no checkpoint"
        return ConfigError(
            f"run '{_shorten(self.name)}' exists ({where})",
            cause=f"{self.path} already holds a run",
            fix=f"continue it: --run {self.path} --resume, or choose another --run",
        )

    def _acquire(self) -> None:
        self._lock = FolderLock(self.path, f"run '{_shorten(self.name)}'", "--run")


def versions() -> dict[str, str | None]:
    """Return the versions of Python, worldlab and the libraries that results depend on; None if not installed."""
    found: dict[str, str | None] = {"python": platform.python_version(), "worldlab": worldlab.__version__}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def git_state(folder: str | Path = ".") -> dict[str, Any] | None:
    """Return {"commit", "dirty"} of the checkout around folder, or None outside a git checkout."""
    commit = _git(folder, "rev-parse", "HEAD")
    changes = _git(folder, "status", "--porcelain") if commit else None
    return {"commit": commit, "dirty": bool(changes)} if commit and changes is not None else None


def _git(folder: str | Path, *arguments: str) -> str | None:
    # fsmonitor off: the checkout's configuration must not make git start a program.
    command = ["git", "-C", os.fspath(folder), "-c", "core.fsmonitor=false", *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=5, env=os.environ | {"GIT_OPTIONAL_LOCKS": "0"}
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _no_run(path: Path) -> ConfigError:
    others = [entry.parent.name for entry in path.parent.glob("*/run.json")] if path.parent.is_dir() else []
    return ConfigError(
        f"no run in '{_shorten(str(path))}'.{did_you_mean(path.name, others)}"[:100],
        cause=f"{path / 'run.json'} does not exist",
        fix="give the folder of a run, or start one: worldlab train --run DIR",
    )


def _shorten(text: str) -> str:
    return text if len(text) <= 40 else text[:18] + "..." + text[-19:]
