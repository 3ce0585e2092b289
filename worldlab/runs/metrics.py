"""Writes and reads metrics: JSON lines that are byte for byte identical in equal runs.

metrics.jsonl holds values that depend only on seed and configuration. Values that depend on the clock or the machine
(speed, memory, time) go to perf.jsonl. Trackers, such as TensorBoard, get both.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from worldlab.errors import StorageError
from worldlab.runs import storage
from worldlab.runs.parse import parse_json
from worldlab.runs.tracking import TrackerThread, close_all

if TYPE_CHECKING:
    import numpy as np

NONFINITE = "/nonfinite"
"""Suffix of the entry that holds "nan", "inf" or "-inf" beside a value that is null because it is not finite."""


class MetricsPaths(Protocol):
    """Paths of the metrics files; `RunFolder` satisfies it."""

    @property
    def metrics(self) -> Path: ...
    @property
    def perf(self) -> Path: ...


class MetricsBus:
    """Writes the metrics of a run. Close it, or use `with`.

    folder: the paths metrics and perf. trackers: what also gets the metrics. lines: number of lines of metrics.jsonl.
    Existing files are continued; a torn last line is cut off. Raises: StorageError.
    """

    def __init__(self, folder: MetricsPaths, trackers: Sequence[TrackerThread] = ()):
        self._paths = folder
        self._start = time.monotonic()
        self._metrics = storage.AppendFile(folder.metrics, lines=True)
        self._perf = storage.AppendFile(folder.perf, lines=True)
        self._count_metrics()
        self._trackers = trackers

    def log(self, step: int, values: Mapping[str, Any], perf: Mapping[str, Any] | None = None) -> None:
        """Write one line to metrics.jsonl and one to perf.jsonl, and send all of it to the trackers.

        step: environment steps so far. values: deterministic numbers (Python, NumPy or one-element tensors) by
        name, such as "loss/image". perf: numbers that depend on the machine; wall-clock time (Unix), seconds
        since this process began and resident memory (MB) are added. Raises: StorageError.
        """
        fixed = _numbers(values)
        own = {"time": round(time.time(), 3), "seconds": round(time.monotonic() - self._start, 3), "rss_mb": _rss_mb()}
        measured = _numbers({**own, **(perf or {})})
        line = _line(step, fixed)
        self._metrics.write_line(line)
        self._digest.update(line.encode() + b"\n")
        self._perf.write_line(_line(step, measured))
        self.lines += 1
        measured.pop("time")
        scalars = fixed | {f"perf/{name}": value for name, value in measured.items()}
        self._send("scalars", step, {name: value for name, value in scalars.items() if math.isfinite(value)})

    def pictures(self, step: int, name: str, frames: np.ndarray, fps: float = 10) -> None:
        """Send uint8 [T, H, W, C] as an animation, or [H, W, C] as an image, to the trackers."""
        self._send("pictures", step, name, frames, fps)

    @property
    def digest(self) -> storage.FileDigest:
        """Return size and SHA-256 of metrics.jsonl."""
        return storage.FileDigest(self._metrics.position, self._digest.hexdigest())

    def truncate_after(
        self, step: int, lines: int | None = None, announce: Callable[[storage.FileDigest], object] = lambda _: None
    ) -> int:
        """Drop lines of steps after `step`, and lines after the first `lines` of each file: a resumed run repeats them.

        announce: called with the digest of what stays in metrics.jsonl,
        before anything is dropped. Returns: the number of dropped lines.
        """
        dropped = 0
        for name in ("_metrics", "_perf"):
            file: storage.AppendFile = getattr(self, name)
            file.close()
            dropped += _truncate(file.path, step, lines, announce if name == "_metrics" else lambda _: None)
            setattr(self, name, storage.AppendFile(file.path, lines=True))
        self._count_metrics()
        return dropped

    def sync(self) -> None:
        """Return when every line has reached the disk; call this before a checkpoint is reported as saved."""
        self._metrics.sync()
        self._perf.sync()
        self._send("flush")

    def close(self) -> None:
        """Close all files, then end the trackers; a second call does nothing."""
        try:
            self._metrics.close()
            self._perf.close()
        finally:
            close_all(self._trackers)

    def _send(self, method: str, *arguments: Any) -> None:
        for tracker in self._trackers:
            tracker.send(method, *arguments)

    def _count_metrics(self) -> None:
        with storage.storage_errors(self._paths.metrics, "read"):
            data = _read(self._paths.metrics)
        self.lines = data.count(b"\n")
        self._digest = hashlib.sha256(data)

    def __enter__(self) -> MetricsBus:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """Read metrics.jsonl or perf.jsonl: one dict per line, non-finite values as None.

    A torn last line is left out, since the run may be writing it. Raises: StorageError if the file is missing or
    another line is damaged.
    """
    path = Path(path)
    with storage.storage_errors(path, "read"):
        *lines, _ = _read(path).split(b"\n")
    return [_parse(path, number, line) for number, line in enumerate(lines, 1)]


def _read(path: Path) -> bytes:
    with storage.open_regular(path) as file:
        return file.read()


def _parse(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        value = parse_json(line)
        if not isinstance(value, dict) or type(value.get("step")) is not int:
            raise ValueError("no object with a step")
    except ValueError as error:
        raise StorageError(
            f"{path.name} line {number} is damaged", cause=f"{path}: {error}", fix=f"delete line {number} of the file"
        ) from error
    return value


def _truncate(path: Path, step: int, most: int | None, announce: Callable[[storage.FileDigest], object]) -> int:
    """Keep the lines of steps up to `step`, `most` of them, byte for byte; return how many were dropped."""
    with storage.storage_errors(path, "read"):
        lines = _read(path).splitlines(keepends=True)
    kept = [line for number, line in enumerate(lines, 1) if _parse(path, number, line)["step"] <= step][:most]
    if len(kept) < len(lines):
        data = b"".join(kept)
        announce(storage.FileDigest(len(data), storage.sha256_bytes(data)))
        storage.atomic_write_bytes(path, data)
    return len(lines) - len(kept)


def _numbers(values: Mapping[str, Any]) -> dict[str, float | int]:
    """Turn NumPy scalars and one-element tensors into Python numbers; whole numbers stay whole."""
    numbers = {}
    for name, value in values.items():
        assert name.isprintable() and name and name != "step" and not name.endswith(NONFINITE), repr(name)
        item = value.item() if hasattr(value, "item") else value
        numbers[name] = int(item) if isinstance(item, bool | int) else float(item)
    return numbers


def _line(step: int, numbers: Mapping[str, float | int]) -> str:
    line: dict[str, Any] = {"step": int(step)}
    for name, value in numbers.items():
        line[name] = value if math.isfinite(value) else None
        if line[name] is None:
            line[name + NONFINITE] = str(value)
    return storage.dump_json(line, sort_keys=True).decode()


def _rss_mb() -> float:
    import psutil

    return round(psutil.Process(os.getpid()).memory_info().rss / 1e6, 1)
