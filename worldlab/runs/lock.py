"""The lock of a folder that one process writes at a time, and beside it the name of who holds it."""

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

__all__ = ["LOCK_FILES", "FolderLock"]

LOCK_FILES = ("lock", "lock.json")
"""What lies in a locked folder: the lock, which the system drops together with its process, and its holder."""
_LOCK, _HOLDER = LOCK_FILES


@final
class FolderLock:
    """Held from when it is made until `release`.

    Raises on creation: RunLockedError, which names who holds it; StorageError where there can be no lock.
    """

    def __init__(self, folder: Path, what: str, option: str):
        """what: names the folder in an error, as "run 'vae-1'"; option: the flag that chooses another one."""
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
        """Give it up; a second call does nothing."""
        if self._lock.is_locked:
            self._holder.unlink(missing_ok=True)
            self._lock.release()

    def _held(self, file: Path, what: str, option: str) -> RunLockedError:
        holder = self._read_holder()
        since = str(holder.get("started", "?")).replace("T", " ")[:16]
        pid, host = holder.get("pid", "?"), str(holder.get("host", "?"))[:20]
        return RunLockedError(
            one_line(f"{what} is being written by PID {pid} on host {host} since {since}"),
            cause=f"{file} is held: two writers would ruin what it holds",
            fix=f"wait for it or stop it, or choose another {option}",
        )

    def _read_holder(self) -> dict[str, Any]:
        # The holder writes its name a moment after it got the lock; a killed one leaves an old name behind.
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


def _alive(pid: Any) -> bool:
    if type(pid) is not int or pid <= 0:
        return False
    import psutil  # os.kill(pid, 0), the usual probe, ends the process on Windows

    return psutil.pid_exists(pid)
