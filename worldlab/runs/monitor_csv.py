"""Writes monitor.csv: one line per episode, in the format of Stable-Baselines3's Monitor."""

from __future__ import annotations

import json
import time
from pathlib import Path

from worldlab.errors import StorageError
from worldlab.runs import storage


class MonitorCsv:
    """Appends episodes to a file that `stable_baselines3.common.monitor.load_results` reads.

    path: must end in "monitor.csv"; an existing file is continued and keeps its own start time. rows: number
    of episodes of an existing file to keep (a checkpoint's `episodes`); later rows belong to steps that a resumed run
    repeats. Raises: StorageError.
    """

    def __init__(self, path: str | Path, env_id: str, *, rows: int | None = None):
        path = Path(path)
        assert path.name.endswith("monitor.csv"), path
        self._start = time.time()
        kept = _read_lines(path)
        if kept:
            self._start = _start_time(path, kept[0])
            kept = kept[: None if rows is None else rows + 2]
        else:
            kept = [f"#{json.dumps({'t_start': self._start, 'env_id': env_id})}\n", "r,l,t\n"]
        storage.atomic_write_text(path, "".join(kept))
        self.episodes = len(kept) - 2
        """Number of episodes in the file."""
        self._file = storage.AppendFile(path)

    def episode(self, episode_return: float, length: int) -> None:
        """Append one finished episode: its undiscounted return and its number of environment steps."""
        seconds = round(time.time() - self._start, 6)
        self._file.write_line(f"{round(float(episode_return), 6)},{int(length)},{seconds}")
        self.episodes += 1

    def sync(self) -> None:
        """Return when all episodes have reached the disk."""
        self._file.sync()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _read_lines(path: Path) -> list[str]:
    """Return the whole lines of a file, newlines kept; [] if it has no header yet."""
    with storage.storage_errors(path, "read"):
        if not path.exists():
            return []
        with storage.open_regular(path) as file:
            lines = file.read().decode(errors="replace").splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
    return lines if len(lines) >= 2 else []


def _start_time(path: Path, header: str) -> float:
    try:
        return float(json.loads(header.lstrip("#"))["t_start"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise StorageError(
            f"'{path.name}' does not start like a monitor file of Stable-Baselines3",
            cause=f"{path}: first line {header[:60]!r}",
            fix="move the file away, then resume",
        ) from error
