"""Measures the wall-clock time of a run by activity."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Measures wall-clock time by activity, and speeds. before: seconds that the run took before it was resumed."""

    def __init__(self, before: float) -> None:
        self.last = time.perf_counter()
        self.start = self.last - before
        self.spent: dict[str, float] = defaultdict(float)
        self.mark = (0, 0)

    @contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        """Add the time spent within the context to the activity `what`."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.spent[what] += time.perf_counter() - begin

    def elapsed(self) -> float:
        """Return the seconds of the whole run, including those before a resume."""
        return time.perf_counter() - self.start

    def rates(self, steps: int, updates: int) -> dict[str, float]:
        """Return speeds and seconds by activity since the last call. steps, updates: totals of the run."""
        now = time.perf_counter()
        span = max(now - self.last, 1e-9)
        out = {
            "env_steps_per_s": (steps - self.mark[0]) / span,
            "updates_per_s": (updates - self.mark[1]) / span,
            **{f"seconds_{what}": value for what, value in self.spent.items()},
        }
        self.last, self.mark, self.spent = now, (steps, updates), defaultdict(float)
        return out
