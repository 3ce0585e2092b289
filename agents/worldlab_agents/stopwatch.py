"""Deadlines of searches: estimates how many candidates can be dreamt in time from the durations of previous
searches.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field

SIZES = (8, 16, 32, 64, 128)
"""Numbers of candidates dreamt at once under a deadline. Small chunks stop sooner but cost more per candidate."""
HISTORY = 16
"""Number of recent durations kept per chunk size; of that many the longest is ignored as a possible outlier."""
MARGIN = 1.3
"""A chunk is started if this multiple of its typical duration remains."""
SHARE = 0.85
"""Share of the deadline for the search; the rest is for the filter before it and the fit after it."""


@dataclass
class Stopwatch:
    """Keeps the deadline of consecutive searches; `start` begins the next search. milliseconds: 0 means no deadline.

    A machine or a model may be too slow even for the smallest chunk. Then nothing is dreamt, and the smallest chunk is
    tried again after 1, 2, 4, ... searches. This recovers quickly from an outlier and rarely misses the deadline
    otherwise.
    """

    milliseconds: float
    durations: dict[int, deque[float]] = field(default_factory=lambda: {size: deque(maxlen=HISTORY) for size in SIZES})
    started_at: float = 0.0
    chunks: int = 0
    idle: int = 0
    patience: int = 1

    def start(self) -> None:
        """Start the time of the next search."""
        if self.milliseconds and self.started_at and not self.chunks:
            self.idle += 1
            if self.idle >= self.patience:
                self.idle, self.patience = 0, 2 * self.patience
                self.durations[SIZES[0]].clear()
        self.started_at, self.chunks = time.perf_counter(), 0

    def count_affordable(self, left: int) -> int:
        """Return how many of the `left` candidates can be dreamt now, at once; 0: none."""
        if not self.milliseconds:
            return left
        seconds = SHARE * self.milliseconds / 1e3 - (time.perf_counter() - self.started_at)
        return min(left, max((size for size in SIZES if self._predict_seconds(size) < seconds), default=0))

    def record(self, count: int, seconds: float) -> None:
        """Record how long `count` candidates took."""
        self.chunks += 1
        self.durations[max((size for size in SIZES if size <= count), default=SIZES[0])].append(seconds)
        if self._predict_seconds(SIZES[0]) < SHARE * self.milliseconds / 1e3:
            self.patience = 1

    def _predict_seconds(self, size: int) -> float:
        """Predict the seconds of a chunk, with the margin. An untried size is extrapolated linearly from the next two
        smaller sizes, or proportionally from a single one.
        """
        known = [one for one in SIZES if one <= size and self.durations[one]]
        if not known:
            return 0.0 if size == SIZES[0] else float("inf")
        last = self._typical_seconds(known[-1])
        each = last / known[-1]
        if len(known) > 1:
            each = max((last - self._typical_seconds(known[-2])) / (known[-1] - known[-2]), 0.1 * each)
        return MARGIN * (last + each * (size - known[-1]))

    def _typical_seconds(self, size: int) -> float:
        seen = sorted(self.durations[size])
        return seen[-2] if len(seen) == HISTORY else seen[-1]


__all__ = ["SIZES", "Stopwatch"]
