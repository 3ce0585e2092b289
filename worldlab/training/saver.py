"""Decides when a run saves a checkpoint: at the steps that the loop chooses, by the clock, at the best evaluation."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, final

from worldlab.runs.best import keep_best
from worldlab.runs.checkpoint import list_checkpoints
from worldlab.runs.folder import RunFolder
from worldlab.runs.metrics import MetricsBus
from worldlab.training.clock import Clock
from worldlab.training.session import Session, save

SECONDS = 120.0
"""Seconds after which a checkpoint is saved even if `log.checkpoint` steps were not taken."""
SHARE = 50
"""Such a checkpoint waits for this many times the seconds that the last one took, so all take at most 2% of the time."""


@final
class Saver:
    """Saves the checkpoints of a session.

    manifest: data that every checkpoint stores besides the training state.
    """

    def __init__(
        self, session: Session, folder: RunFolder, metrics: MetricsBus, clock: Clock, manifest: dict[str, Any]
    ):
        self.session = session
        self.folder = folder
        self.metrics = metrics
        self.clock = clock
        self.manifest = manifest
        # A session that starts after step 0 was loaded from the checkpoint of exactly this step and update.
        self._saved_at = self._position() if session.counters.env_steps else None
        self._next = time.monotonic() + SECONDS
        self._newest: Path | None = None
        self._spare: Path | None = None
        """A checkpoint that only the clock or the best evaluation wanted: the next one replaces it."""

    def save(self) -> None:
        """Save a checkpoint unless this step and update is saved already."""
        counters = self.session.counters
        if self._saved_at != self._position():
            begin = time.monotonic()
            self.metrics.sync()
            counters.seconds, counters.lines = self.clock.elapsed(), self.metrics.lines
            self.folder.cover_metrics(self.metrics.digest)
            self._newest = save(self.session, self.folder.checkpoints, self.manifest, spare=self._spare)
            self._saved_at, now, self._spare = self._position(), time.monotonic(), None
            self._next = now + max(SECONDS, SHARE * (now - begin))

    def save_by_time(self) -> None:
        """Save if the last checkpoint is too old, whatever the number of steps since."""
        if time.monotonic() >= self._next:
            self._save_spare()

    def keep_best(self) -> None:
        """Save the weights of the best evaluation if this step has it, so that they outlast later checkpoints."""
        best = self.session.counters.best
        if best is not None and best["step"] == self.session.counters.env_steps and not self.session.counters.due:
            self._save_spare()  # the copy outlasts it
            keep_best(list_checkpoints(self.folder.checkpoints)[-1][1], int(best["step"]))

    def updates_since(self) -> int:
        """Return the number of updates since the last checkpoint."""
        return self.session.counters.updates - (self._saved_at or (0, 0))[1]

    def _save_spare(self) -> None:
        if self._saved_at != self._position():
            self.save()
            self._spare = self._newest

    def _position(self) -> tuple[int, int]:
        return self.session.counters.env_steps, self.session.counters.updates


__all__ = ["Saver"]
