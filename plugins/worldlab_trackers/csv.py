"""Writes metrics.csv in the run folder: a row `step,name,value` for each value, so the columns never change."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import final

import numpy as np

from worldlab.runs import storage
from worldlab.runs.tracking import TrackedRun

NAME = "metrics.csv"
HEAD = ("step", "name", "value")


@final
class CsvTracker:
    """Appends the values of each line. A resumed run first drops the rows that it repeats; pictures are left out."""

    def __init__(self) -> None:
        self._file: storage.AppendFile | None = None

    def start(self, run: TrackedRun) -> None:
        """Open the file. Raises: StorageError."""
        path = run.path / NAME
        if run.resumed and path.exists():
            _drop_after(path, run.step)
        elif not path.exists():
            storage.atomic_write_text(path, _text([HEAD]))
        self._file = storage.AppendFile(path, lines=True)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Append one row per value, sorted by name. Raises: StorageError."""
        assert self._file is not None, "start comes first"
        self._file.write(_text((step, name, repr(value)) for name, value in sorted(values.items())).encode())

    def pictures(self, step: int, name: str, frames: np.ndarray, fps: float) -> None:
        """Do nothing: a table has no pictures."""

    def flush(self) -> None:
        """Do nothing: the file is not buffered."""

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def _drop_after(path: Path, step: int) -> None:
    """Keep the rows up to a step. A row that is torn or has no step is dropped."""
    with storage.storage_errors(path, "read"), storage.open_regular(path) as file:
        lines = file.read().decode(errors="replace").splitlines(keepends=True)
    kept = [line for line in lines[1:] if line.endswith("\n") and _step_of(line) <= step]
    storage.atomic_write_text(path, _text([HEAD]) + "".join(kept))


def _step_of(line: str) -> float:
    head = line.partition(",")[0]
    return int(head) if head.isdecimal() and head.isascii() and len(head) < 20 else float("inf")


def _text(rows: Iterable[Iterable[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
