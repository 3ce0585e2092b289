"""What a person sees while a comparison runs: a line for every cell that ends and, on a terminal, one that is kept up to date.

All of it goes to stderr.
"""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from statistics import mean
from typing import TextIO

from worldlab.study.compare.plan import Cell
from worldlab.study.results import Trial
from worldlab.training.panel import is_terminal, plain_text, write_to

REFRESH = 1.0
"""Seconds between two looks at the clock, on a terminal."""
Kind = tuple[str, str]
"""Cells of a method on an environment take about as long as each other."""


def remaining(
    waiting: Iterable[Kind], running: Iterable[tuple[Kind, float]], took: Mapping[Kind, Sequence[float]], jobs: int
) -> float | None:
    """Seconds until all cells have ended, `jobs` at a time; None before one has.

    running: cells with the seconds they have run. took: seconds of those that ended. A cell takes as long as others of its
    method and environment did on average, else of its environment, else as any.
    """
    everything = [seconds for row in took.values() for seconds in row]
    if not everything:
        return None

    def expected(kind: Kind) -> float:
        near = [seconds for (_, env), row in took.items() for seconds in row if env == kind[1]]
        return mean(took.get(kind) or near or everything)

    left = [expected(kind) for kind in waiting]
    left += [max(0.0, expected(kind) - elapsed) for kind, elapsed in running]
    # No schedule is shorter than its longest cell.
    return max(sum(left) / max(1, jobs), max(left, default=0.0))


class MatrixProgress:
    """Tells of cells as they start and end. Use as a context manager.

    cells: those to be run; done: how many others are done already; took: seconds of those, by kind.
    stream: where to; unset is stderr. live: unset decides by whether stream is a terminal.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        done: int = 0,
        took: Mapping[Kind, Sequence[float]] | None = None,
        *,
        stream: TextIO | None = None,
        live: bool | None = None,
    ):
        self._stream = stream if stream is not None else sys.stderr
        self._live = is_terminal(self._stream) if live is None else live
        self._waiting = {cell.name: cell for cell in cells}
        self._running: dict[str, tuple[Cell, float]] = {}
        self._took: dict[Kind, list[float]] = defaultdict(list)
        for kind, seconds in (took or {}).items():
            self._took[kind] += seconds
        self._total, self._ended, self._failed, self._most = len(cells) + done, done, 0, 1
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._ticker = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> MatrixProgress:
        if self._live:
            self._ticker.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        if self._live:
            self._ticker.join()
            self._write("\r\x1b[2K")

    def started(self, name: str) -> None:
        """A cell began."""
        with self._lock:
            self._running[name] = (self._waiting.pop(name), time.monotonic())
            self._most = max(self._most, len(self._running))

    def lost(self, name: str, where: str) -> None:
        """The place where a cell ran is gone; it will be run again."""
        with self._lock:
            cell, _ = self._take(name)
            self._waiting[name] = cell
        self.note(f"{name} was lost on {where}; it is run again")

    def ended(self, name: str, trial: Trial) -> None:
        """A cell ended; trial: what came of it."""
        with self._lock:
            cell, start = self._take(name)
            seconds = time.monotonic() - start
            self._ended += 1
            if trial.status == "finished":
                self._took[_kind(cell)].append(seconds)
                found = f"return {trial.score:.1f}"
            else:
                self._failed += 1
                found = f"FAILED: {trial.cause}"
        what = f"{cell.method.label} on {cell.env}, seed {cell.seed}: {found}"
        self.note(f"{self._count()}  {what}  ({seconds:.0f} s)  {self._outlook()}".rstrip())

    def _take(self, name: str) -> tuple[Cell, float]:
        """A place may be gone before it could say that the cell began there."""
        return self._running.pop(name, None) or (self._waiting.pop(name), time.monotonic())

    def note(self, text: str) -> None:
        """Print a line that stays."""
        with self._lock:
            self._write(f"\r\x1b[2K{plain_text(text)}\n" if self._live else f"{plain_text(text)}\n")
        if self._live:
            self._draw()

    def _count(self) -> str:
        width = len(str(self._total))
        return f"[{self._ended:{width}}/{self._total}]"

    def _outlook(self) -> str:
        with self._lock:
            now = time.monotonic()
            running = [(_kind(cell), now - start) for cell, start in self._running.values()]
            seconds = remaining(map(_kind, self._waiting.values()), running, self._took, self._most)
            left = len(self._waiting) + len(running)
        failed = f"{self._failed} failed  " if self._failed else ""
        return failed + (f"eta {timedelta(seconds=round(seconds))}" if left and seconds is not None else "")

    def _draw(self) -> None:
        names = ", ".join(f"{cell.method.label} {cell.env} s{cell.seed}" for cell, _ in list(self._running.values()))
        line = plain_text(f"{self._count()}  {self._outlook()}  running: {names or 'nothing'}")
        with self._lock:
            self._write(f"\r\x1b[2K{line[: shutil.get_terminal_size((100, 24)).columns - 1]}")

    def _tick(self) -> None:
        while not self._over.wait(REFRESH):
            self._draw()

    def _write(self, text: str) -> None:
        write_to(self._stream, text)


def _kind(cell: Cell) -> Kind:
    return cell.method.key, cell.env
