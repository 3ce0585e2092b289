"""A tracker as the subject of a check, and the sessions that the checks hold with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from worldlab.config.resolve import NoOptions
from worldlab.errors import PluginError
from worldlab.runs.tracking import TrackedRun, Tracker
from worldlab.testing.bench import Choice
from worldlab.testing.checks import CannotRun, CheckFailure

METHODS = ("start", "scalars", "pictures", "flush", "close")
FRAMES = np.random.default_rng(0).integers(0, 256, (3, 8, 12, 3)).astype(np.uint8)
"""An animation [T, H, W, C]."""


@dataclass(frozen=True)
class TrackerSubject:
    """What a plugin registers as a tracker: a class without arguments."""

    label: str
    make: Callable[[], Any]
    registration: Any = None
    role: str = field(default="tracker", init=False)

    @property
    def choice(self) -> Choice:
        """The class of the tracker; it has no settings."""
        return Choice(self.make if isinstance(self.make, type) else type(self.make), NoOptions())

    def build(self) -> Tracker:
        """Build the tracker. Raises: CannotRun if its package is missing; CheckFailure if it lacks a method."""
        try:
            tracker = self.make()
        except PluginError as exc:
            raise CannotRun(exc.message, exc.fix or "") from exc
        missing = [name for name in METHODS if not callable(getattr(tracker, name, None))]
        if missing:
            raise CheckFailure(
                f"it lacks {', '.join(missing)}", "give it the methods of worldlab.runs.tracking.Tracker"
            )
        return tracker

    @contextmanager
    def session(self, folder: Path, step: int = 0, *, resumed: bool = False) -> Iterator[Tracker]:
        """Start a session of one and the same run, and close it."""
        tracker = self.build()
        settings = {
            "train.batch_size": 16,
            "train.learning_rate": 4e-4,
            "strict": True,
            "env.id": "Toy-v0",
            "data": "",
        }
        tracker.start(TrackedRun(folder, "checked-run", "0123456789abcdef", "Toy-v0", settings, step, resumed))
        yield tracker
        tracker.close()
