"""Keeps what is known of the runs of a folder up to date, by reading what changed since the last look."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, final

from worldlab.errors import one_line
from worldlab.runs import storage
from worldlab.runs.follow import Curve, MetricsTail
from worldlab.runs.index import RunRow, find_folders, read_row

LIST_SECONDS = 5.0
"""Seconds between two looks for new runs."""
ALIVE_SECONDS = 10.0
"""Seconds between two looks whether the process of a training run is alive; nothing in its folder says so."""
FOLLOWED = 300
"""The curves of so many of the newest runs are read; of older ones only when a page shows the run."""
PIECE, BUDGET = 2**18, 2**22
"""Bytes of metrics read in one look, of one run and of all."""
SPARK = 40
"""Points of the small curve beside a run."""
LOG_BYTES = 4096
PICTURES = 300
"""The newest dreams that a page can choose from."""
PICTURE_BYTES = 2**26
_FILES = ("run.json", "metrics.jsonl", "perf.jsonl", "result.json", "lock.json", "cell.json", "cell.lock")
_PICTURE = re.compile(r"(dream-(\d{9,18})|evaluation)\.(png|webp)", re.ASCII)


@final
class WatchedRun:
    """One run. version: the look at which anything about it changed last."""

    def __init__(self, number: int, path: Path, root: Path):
        self.number = number
        self.path = path
        self.version = 0
        self.metrics = MetricsTail(path / "metrics.jsonl")
        self.perf = MetricsTail(path / "perf.jsonl")
        self._root = root
        self._signature: tuple[Any, ...] = ()
        self._checked = 0.0
        self.row = RunRow(path, path.name, "waiting")

    def refresh(self, look: int, now: float) -> None:
        """Read the row again if a file of the run changed, or the process may have died."""
        signature = tuple(map(_stamp, (self.path / name for name in _FILES)))
        dated = self.row.state == "training" and now - self._checked >= ALIVE_SECONDS
        if signature == self._signature and not dated:
            return
        changed, self._signature, self._checked = signature != self._signature, signature, now
        row = read_row(self.path, self._root, now)
        if changed or row != self.row:
            self.version = look
        self.row = row

    def read(self, look: int) -> None:
        """Read a piece of the metrics, if there is more."""
        if any([self.metrics.read(PIECE), self.perf.read(PIECE)]):
            self.version = look

    @property
    def behind(self) -> bool:
        """Whether more can be read."""
        return self.metrics.behind or self.perf.behind

    @property
    def speed(self) -> float | None:
        """Environment steps a second, at the last log line; None unless the run trains."""
        return self.perf.last.get("env_steps_per_s") if self.row.state == "training" else None

    def summary(self) -> dict[str, Any]:
        """Return the row of the list, as plain data."""
        row, speed = self.row, self.speed
        left = None
        if speed and row.step is not None and row.steps is not None:
            left = max(0.0, (row.steps - row.step) / speed)
        names = ("state", "env", "parts", "agent", "seed", "step", "steps", "scored", "started", "changed", "error")
        return {
            "id": self.number,
            "name": one_line(row.name, 300),
            **{name: getattr(row, name) for name in (*names, "problem", "method")},
            "score": _short(row.score),
            "alarms": len(row.alarms),
            "comparison": one_line(self._comparison, 300),
            "speed": _short(speed),
            "left": _short(left),
            "spark": _sampled(self._returns),
        }

    def details(self) -> dict[str, Any]:
        """Return what only the page of the run shows, without the curves."""
        row = self.row
        return {
            "encoder": row.encoder,
            "dynamics": row.dynamics,
            "decoder": row.decoder,
            "alarms": list(row.alarms),
            "perf": {name: _short(value) for name, value in self.perf.last.items()},
            "pictures": self._pictures(),
            "log": self._log() if row.state in ("failed", "killed", "diverged") else "",
        }

    def picture(self, name: str) -> bytes | None:
        """Return a picture of the run by the name that `details` lists; None for any other name."""
        if not _PICTURE.fullmatch(name) or (self.path / "videos").is_symlink():
            return None
        try:
            return storage.read_regular(self.path / "videos" / name, PICTURE_BYTES)
        except (OSError, ValueError):
            return None

    @property
    def _comparison(self) -> str:
        """The folder of the comparison that the run is a cell of, or ""."""
        if not self.row.method or self.path.parent.name != "cells":
            return ""
        folder = self.path.parents[1]
        return folder.name if folder == self._root else str(folder.relative_to(self._root))

    @property
    def _returns(self) -> Curve:
        evaluated, trained = (self.metrics.curves.get(name) for name in ("eval/return", "episode/return"))
        if evaluated is not None and len(evaluated.steps) > 1:
            return evaluated
        return trained or evaluated or Curve()

    def _pictures(self) -> list[str]:
        """Return the names of the newest pictures, the oldest first."""
        videos = self.path / "videos"
        try:
            if videos.is_symlink():
                return []
            found = [name for name in os.listdir(videos) if _PICTURE.fullmatch(name)]
        except OSError:
            return []
        return sorted(found)[-2 * PICTURES :]

    def _log(self) -> str:
        """Return the end of what a cell printed, without control characters."""
        try:
            with storage.open_regular(self.path / "output.txt") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_BYTES))
                text = file.read(LOG_BYTES).decode(errors="replace")
        except OSError:
            return ""
        return "".join(c if c.isprintable() or c == "\n" else " " for c in text)


@final
class WatchedRuns:
    """The runs of a folder. look: counts the looks that found a change. gone: numbers of runs that are no longer there."""

    def __init__(self, root: Path):
        self.root = root
        self.runs: dict[int, WatchedRun] = {}
        self.look = 0
        self.behind = False
        self.problem = ""
        self.gone: dict[int, int] = {}
        """The look at which each run vanished."""
        self._numbers: dict[Path, int] = {}
        self._listed = float("-inf")

    def refresh(self, now: float, shown: Iterable[int] = ()) -> None:
        """Read what changed. now: seconds since 1970. shown: runs whose curves a page shows."""
        self.look += 1
        if not 0 <= now - self._listed < LIST_SECONDS:
            self._listed = now
            self._list()
        for run in self.runs.values():
            run.refresh(self.look, now)
        self._read_curves(set(shown))

    def _list(self) -> None:
        try:
            found, self.problem = find_folders(self.root), ""
        except OSError as error:
            found, self.problem = [], one_line(f"the folder cannot be listed: {error.strerror}")
        for path in found:
            if path not in self._numbers:
                number = self._numbers[path] = len(self._numbers) + len(self.gone)
                self.runs[number] = WatchedRun(number, path, self.root)
        for path in set(self._numbers) - set(found):
            number = self._numbers.pop(path)
            del self.runs[number]
            self.gone[number] = self.look

    def _read_curves(self, shown: set[int]) -> None:
        newest = sorted(self.runs.values(), key=lambda run: -(run.row.started or 0))
        wanted = [run for run in newest if run.number in shown]
        wanted += [run for run in newest[:FOLLOWED] if run.number not in shown]
        left = BUDGET
        self.behind = False
        for run in wanted:
            if left > 0:
                run.read(self.look)
                left -= PIECE if run.behind else 0
            self.behind |= run.behind or left <= 0


def points_of(curve: Curve, start: int = 0) -> dict[str, Any]:
    """Return the points of a curve from an index on, as plain data."""
    return {
        "from": start,
        "x": [int(step) for step in curve.steps[start:]],
        "y": [_short(value) for value in curve.values[start:]],
    }


def _sampled(curve: Curve) -> list[list[float | None]]:
    count = len(curve.steps)
    chosen = range(count) if count <= SPARK else [round(k * (count - 1) / (SPARK - 1)) for k in range(SPARK)]
    return [[curve.steps[k], _short(curve.values[k])] for k in chosen]


def _short(value: float | None) -> float | None:
    """Return a number with six digits, which are enough to draw it."""
    return None if value is None else float(f"{value:.6g}")


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        facts = os.lstat(path)
    except OSError:
        return None
    return facts.st_mtime_ns, facts.st_size, facts.st_ino
