"""Shows the progress of a comparison on stderr: a line per finished cell and, on a terminal, a live status line."""

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
"""Seconds between two updates of the status line on a terminal."""
CellGroup = tuple[str, str]
"""The key of a method and an environment. Cells that share both take about as long as each other."""


def estimate_remaining(
    waiting: Iterable[CellGroup],
    running: Iterable[tuple[CellGroup, float]],
    durations: Mapping[CellGroup, Sequence[float]],
    jobs: int,
) -> float | None:
    """Estimate the seconds until all cells have ended, with `jobs` running at once; None before any has ended.

    running: groups of running cells, with the seconds since their start. durations: seconds of the cells that have
    ended. The estimate for a cell is the mean duration in its group; else the mean on its environment; else the mean
    of all cells.
    """
    all_durations = [seconds for row in durations.values() for seconds in row]
    if not all_durations:
        return None

    def expected(group: CellGroup) -> float:
        near = [seconds for (_, env), row in durations.items() for seconds in row if env == group[1]]
        return mean(durations.get(group) or near or all_durations)

    left = [expected(group) for group in waiting]
    left += [max(0.0, expected(group) - elapsed) for group, elapsed in running]
    # The whole cannot take less time than its longest cell.
    return max(sum(left) / max(1, jobs), max(left, default=0.0))


class MatrixProgress:
    """Prints the progress of cells as they start and end. Use as a context manager.

    cells: the cells to run. done: how many other cells are done already. durations: seconds of the done cells, by
    group. stream: the output; None means stderr. live: whether to show the status line; None means only if stream is a
    terminal.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        done: int = 0,
        durations: Mapping[CellGroup, Sequence[float]] | None = None,
        *,
        stream: TextIO | None = None,
        live: bool | None = None,
    ):
        self._stream = stream if stream is not None else sys.stderr
        self._live = is_terminal(self._stream) if live is None else live
        self._waiting = {cell.name: cell for cell in cells}
        self._running: dict[str, tuple[Cell, float]] = {}
        self._durations: dict[CellGroup, list[float]] = defaultdict(list)
        for group, seconds in (durations or {}).items():
            self._durations[group] += seconds
        self._total, self._ended, self._failed, self._most_running = len(cells) + done, done, 0, 1
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
        """Record that a cell has started."""
        with self._lock:
            self._running[name] = (self._waiting.pop(name), time.monotonic())
            self._most_running = max(self._most_running, len(self._running))

    def lost(self, name: str, where: str) -> None:
        """Record that the process or host of a cell died; the cell will be run again."""
        with self._lock:
            cell, _ = self._remove(name)
            self._waiting[name] = cell
        self.note(f"{name} was lost on {where}; it will run again")

    def ended(self, name: str, trial: Trial) -> None:
        """Record that a cell has ended, and print its outcome."""
        with self._lock:
            cell, start = self._remove(name)
            seconds = time.monotonic() - start
            self._ended += 1
            if trial.status == "finished":
                self._durations[_group(cell)].append(seconds)
                outcome = f"return {trial.score:.1f}"
            else:
                self._failed += 1
                outcome = f"FAILED: {trial.cause}"
        what = f"{cell.method.label} on {cell.env}, seed {cell.seed}: {outcome}"
        self.note(f"{self._count()}  {what}  ({seconds:.0f} s)  {self._forecast()}".rstrip())

    def _remove(self, name: str) -> tuple[Cell, float]:
        """Remove a cell from the running ones.

        A host may die before it reports the start, so the cell may still be waiting.
        """
        return self._running.pop(name, None) or (self._waiting.pop(name), time.monotonic())

    def note(self, text: str) -> None:
        """Print a permanent line above the status line."""
        with self._lock:
            self._write(f"\r\x1b[2K{plain_text(text)}\n" if self._live else f"{plain_text(text)}\n")
        if self._live:
            self._draw()

    def _count(self) -> str:
        width = len(str(self._total))
        return f"[{self._ended:{width}}/{self._total}]"

    def _forecast(self) -> str:
        with self._lock:
            now = time.monotonic()
            running = [(_group(cell), now - start) for cell, start in self._running.values()]
            seconds = estimate_remaining(
                map(_group, self._waiting.values()), running, self._durations, self._most_running
            )
            left = len(self._waiting) + len(running)
        failed = f"{self._failed} failed  " if self._failed else ""
        return failed + (f"eta {timedelta(seconds=round(seconds))}" if left and seconds is not None else "")

    def _draw(self) -> None:
        names = ", ".join(f"{cell.method.label} {cell.env} s{cell.seed}" for cell, _ in list(self._running.values()))
        line = plain_text(f"{self._count()}  {self._forecast()}  running: {names or 'nothing'}")
        with self._lock:
            self._write(f"\r\x1b[2K{line[: shutil.get_terminal_size((100, 24)).columns - 1]}")

    def _tick(self) -> None:
        while not self._over.wait(REFRESH):
            self._draw()

    def _write(self, text: str) -> None:
        write_to(self._stream, text)


def _group(cell: Cell) -> CellGroup:
    return cell.method.key, cell.env
