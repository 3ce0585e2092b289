"""Follows the growing files of a run: each byte is read once, in bounded pieces, however long the run is.

A file may grow, be cut or replaced (a resumed run does both), or vanish at any moment; a line is read when it is whole.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from worldlab.runs import storage
from worldlab.runs.parse import parse_json

__all__ = ["Curve", "LineTail", "MetricsTail"]

POINTS = 400
"""A curve has fewer than twice as many points: then every second one is dropped."""
NAMES = 400
"""Curves of one run; names beyond are left out."""
LINE = 2**20
"""Longest line in bytes; a longer one is skipped."""


@final
class LineTail:
    """Reads the whole lines that were appended to a file since the last call.

    restarts: how often the file was cut or replaced, so that reading began anew. behind: whether more can be read.
    """

    def __init__(self, path: Path):
        self.path = path
        self.restarts = 0
        self.behind = False
        self._offset = 0
        self._file: tuple[int, int] | None = None
        self._skipping = False

    def read(self, budget: int) -> list[bytes]:
        """Return new lines without their newlines, of about `budget` bytes at most; [] if the file is not there."""
        try:
            with storage.open_regular(self.path) as file:
                return self._read(file, budget)
        except OSError:
            self.behind = False
            return []

    def _read(self, file: Any, budget: int) -> list[bytes]:
        facts = os.fstat(file.fileno())
        if self._file is not None and (self._file != (facts.st_dev, facts.st_ino) or facts.st_size < self._offset):
            self.restarts += 1
            self._offset, self._skipping = 0, False
        self._file = (facts.st_dev, facts.st_ino)
        self.behind = facts.st_size - self._offset > budget
        if facts.st_size == self._offset:
            return []
        file.seek(self._offset)
        data = file.read(budget)
        end = data.rfind(b"\n") + 1
        if end == 0 and len(data) >= min(budget, LINE):  # no newline anywhere near: not a line of ours
            self._offset += len(data)
            self._skipping = True
            return []
        self._offset += end
        lines = data[:end].split(b"\n")[:-1]
        if self._skipping and lines:
            self._skipping = False
            lines = lines[1:]
        return lines


@dataclass
class Curve:
    """Points of one metric over the environment step.

    version: changes when points are dropped; else points are only appended.
    """

    steps: array[float] = field(default_factory=lambda: array("d"))
    values: array[float] = field(default_factory=lambda: array("d"))
    version: int = 0

    def add(self, step: float, value: float) -> None:
        """Append a point."""
        self.steps.append(step)
        self.values.append(value)
        if len(self.steps) >= 2 * POINTS:  # the first point stays, and the newest
            self.steps, self.values = self.steps[:-1:2] + self.steps[-1:], self.values[:-1:2] + self.values[-1:]
            self.version += 1


@final
class MetricsTail:
    """The curves of metrics.jsonl or perf.jsonl, kept up to date by `read`.

    curves: by name. last: the values of the newest line that has any. version: changes when all curves begin anew.
    """

    def __init__(self, path: Path):
        self._tail = LineTail(path)
        self.curves: dict[str, Curve] = {}
        self.last: dict[str, float] = {}

    @property
    def version(self) -> int:
        return self._tail.restarts

    @property
    def behind(self) -> bool:
        """Whether more can be read."""
        return self._tail.behind

    def read(self, budget: int) -> bool:
        """Read new lines of about `budget` bytes at most. Returns whether there were any."""
        before = self._tail.restarts
        lines = self._tail.read(budget)
        if self._tail.restarts != before:
            self.curves, self.last = {}, {}
        for line in lines:
            self._add(line)
        return bool(lines) or self._tail.restarts != before

    def _add(self, line: bytes) -> None:
        try:
            values = parse_json(line)
        except ValueError:  # damaged: `worldlab verify` says so
            return
        if not isinstance(values, dict) or type(step := values.get("step")) is not int or not 0 <= step < 2**53:
            return
        found = dict(_numbers(values))
        for name, value in found.items():
            curve = self.curves.get(name)
            if curve is None:
                if len(self.curves) >= NAMES:
                    continue
                curve = self.curves[name] = Curve()
            curve.add(step, value)
        self.last.update(found)


def _numbers(values: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        named = name != "step" and len(name) <= 100 and name.isprintable()
        if named and type(value) in (int, float) and abs(value) < 1e300:
            yield name, float(value)
