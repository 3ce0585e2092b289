"""Sends metrics to Weights & Biases. WANDB_PROJECT, WANDB_ENTITY and WANDB_MODE choose where to; offline it keeps files."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from typing import Any, final

import numpy as np

from worldlab.errors import PluginError, import_extra
from worldlab.runs.pictures import gif_bytes
from worldlab.runs.tracking import CLOSE_SECONDS, TrackedRun

PROJECT = "worldlab"
"""The project, unless WANDB_PROJECT names one."""


@final
class WandbTracker:
    """One run of Weights & Biases for each run folder: a resumed run continues it, by the run's id."""

    def __init__(self) -> None:
        """Raises: PluginError if wandb is missing, or would stop to ask for a key."""
        self._wandb = import_extra("wandb", "wandb", "the tracker 'wandb'")
        self._run: Any = None
        self._offline = os.environ.get("WANDB_MODE", "").lower() in ("offline", "dryrun", "disabled")
        if not self._offline and not self._wandb.login(prompt=False, verify=False):
            raise PluginError(
                "the tracker 'wandb' has no key for Weights & Biases",
                cause="a run cannot stop to ask for one",
                fix="wandb login; or WANDB_MODE=offline keeps the metrics in the run folder",
            )

    def start(self, run: TrackedRun) -> None:
        """Begin or continue the run. Offline, a resumed run is a second folder with the same id; `wandb sync` joins them."""
        settings = self._wandb.Settings(
            symlink=False,  # no folder of a run is written through a link
            console="off",
            quiet=True,
            save_code=False,
            disable_git=True,
            x_disable_stats=True,
            init_timeout=CLOSE_SECONDS,  # wandb waits for both at the end of the process, too
            finish_timeout=CLOSE_SECONDS,
        )
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            name=run.name,
            id=run.id,
            resume=None if self._offline else "allow",
            dir=str(run.path),
            config=dict(run.settings),
            settings=settings,
        )
        # Their own step may only grow, and a resumed run repeats some.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Send one point per name, over the environment step."""
        self._run.log({**values, "step": step})

    def pictures(self, step: int, name: str, frames: np.ndarray, fps: float) -> None:
        """Send frames as an animated GIF, a single one as a picture."""
        wandb = self._wandb
        shown = (
            wandb.Image(frames) if frames.ndim == 3 else wandb.Video(io.BytesIO(gif_bytes(frames, fps)), format="gif")
        )
        self._run.log({name: shown, "step": step})

    def flush(self) -> None:
        """Do nothing: a process of wandb's own sends what it gets."""

    def close(self) -> None:
        """Wait until everything is sent, for CLOSE_SECONDS at most."""
        if self._run is not None:
            self._run.finish()
