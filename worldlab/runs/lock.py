"""Locks a folder that only one process may write, and records which process holds the lock."""

from __future__ import annotations

import os
import socket
import time
from datetime import datetime
from pathlib import Path
from typing import Any, final

from filelock import FileLock, Timeout

from worldlab.errors import RunLockedError, one_line
from worldlab.runs import storage

__all__ = ["LOCK_FILES", "FolderLock", "holder_lives", "is_locked"]

LOCK_FILES = ("lock", "lock.json")
"""Files in a locked folder: the lock, which the system releases when its process ends, and the record of its holder."""
_LOCK, _HOLDER = LOCK_FILES


@final
class FolderLock:
    """A lock that is held from construction until `release`.

    Raises on construction: RunLockedError, which names the holder; StorageError if the folder cannot be locked.
    """

    def __init__(self, folder: Path, what: str, option: str):
        """what: the folder's name in errors, such as "run 'vae-1'". option: the flag that chooses another folder."""
        self._lock = FileLock(folder / _LOCK, thread_local=False)
        self._holder = folder / _HOLDER
        with storage.storage_errors(folder / _LOCK, "lock"):
            try:
                self._lock.acquire(timeout=0)
            except Timeout:  # itself an OSError
                raise self._held(folder / _LOCK, what, option) from None
        try:
            started = datetime.now().astimezone().isoformat(timespec="seconds")
            holder = {"pid": os.getpid(), "host": socket.gethostname(), "started": started}
            storage.atomic_write_json(self._holder, holder)
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Release the lock; a second call does nothing."""
        if self._lock.is_locked:
            self._holder.unlink(missing_ok=True)
            self._lock.release()

    def _held(self, file: Path, what: str, option: str) -> RunLockedError:
        holder = self._read_holder()
        since = str(holder.get("started", "?")).replace("T", " ")[:16]
        pid, host = holder.get("pid", "?"), str(holder.get("host", "?"))[:20]
        return RunLockedError(
            one_line(f"{what} is being written by PID {pid} on host {host} since {since}"),
            cause=f"{file} is locked: a second writer would damage the files",
            fix=f"wait for it or stop it, or choose another {option}",
        )

    def _read_holder(self) -> dict[str, Any]:
        # The holder writes its record just after it got the lock; a killed process leaves an old record behind.
        holder: dict[str, Any] = {}
        for _ in range(20):
            try:
                value = storage.read_json(self._holder, 4096)
                holder = value if isinstance(value, dict) else {}
            except (OSError, ValueError):
                holder = {}
            if holder and (holder.get("host") != socket.gethostname() or _alive(holder.get("pid"))):
                break
            time.sleep(0.02)
        return holder


def holder_lives(folder: Path) -> bool | None:
    """Return whether the process that last locked a folder still runs; None if it ran on another host.

    The lock itself is not touched: a process that starts at this moment would find it taken.
    """
    try:
        holder = storage.read_json(folder / _HOLDER, 4096)
    except (OSError, ValueError):
        return False
    if not isinstance(holder, dict):
        return False
    if holder.get("host") != socket.gethostname():
        return None
    pid = holder.get("pid")
    return _alive(pid) and not _began_after(pid, holder.get("started"))


def is_locked(file: Path) -> bool:
    """Return whether a process holds the lock of a file; False where the system cannot say.

    A process that takes the lock at this moment has to wait an instant.
    """
    try:
        import fcntl  # Windows has none

        with storage.open_regular(file) as opened:
            fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (ImportError, FileNotFoundError):
        return False
    except OSError:
        return True
    return False


def _began_after(pid: Any, locked: Any) -> bool:
    """Return whether a process is younger than a lock: a new one that got the number of the holder."""
    import psutil

    try:
        return psutil.Process(pid).create_time() > datetime.fromisoformat(locked).timestamp() + 2
    except (psutil.Error, ValueError, TypeError):
        return False


def _alive(pid: Any) -> bool:
    if type(pid) is not int or pid <= 0:
        return False
    import psutil  # not os.kill(pid, 0): on Windows it ends the process

    return psutil.pid_exists(pid)
