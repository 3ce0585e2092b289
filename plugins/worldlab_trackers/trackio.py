"""Sends metrics to trackio: a database on this machine, or a Space. TRACKIO_DIR and TRACKIO_SPACE_ID choose where."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import numpy as np

from worldlab.errors import import_extra
from worldlab.runs.pictures import as_frames
from worldlab.runs.tracking import TrackedRun

PROJECT = "worldlab"
SHOWN = 12
"""Frames of an animation that are shown: trackio needs ffmpeg for videos."""


@final
class TrackioTracker:
    """One run of trackio for each run folder: a resumed run continues it, by its name and the run's id."""

    def __init__(self) -> None:
        """Raises: PluginError if trackio is missing."""
        self._trackio = import_extra("trackio", "trackio", "the tracker 'trackio'")
        self._run: Any = None

    def start(self, run: TrackedRun) -> None:
        """Begin or continue the run."""
        self._run = self._trackio.init(
            project=PROJECT,
            name=f"{run.name}-{run.id[:8]}",
            config=dict(run.settings),
            resume="allow",
            embed=False,
            auto_log_cpu=False,
            auto_log_gpu=False,
        )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Send one point per name. Points that a resumed run repeats are there twice, with the same step."""
        self._run.log(dict(values), step=step)

    def pictures(self, step: int, name: str, frames: np.ndarray, fps: float) -> None:
        """Send frames beside each other as one picture; of many, evenly spaced ones."""
        video = as_frames(frames[None] if frames.ndim == 3 else frames)
        chosen = video[np.linspace(0, len(video) - 1, min(SHOWN, len(video))).round().astype(int)]
        self._run.log({name: self._trackio.Image(np.concatenate(list(chosen), 1))}, step=step)

    def flush(self) -> None:
        """Do nothing: a thread of trackio's own sends what it gets."""

    def close(self) -> None:
        """Wait until everything is sent."""
        if self._run is not None:
            self._run.finish()
