"""Writes TensorBoard's event files with TensorBoard's own protocol buffers, without torch or TensorFlow.

torch's SummaryWriter is not used: its `add_video` needs a version of moviepy that no longer exists, and readers of
metrics should not have to import torch.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import numpy as np
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugins.hparams import plugin_data_pb2
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from worldlab.runs import pictures, storage
from worldlab.runs.tracking import TrackedRun

# protobuf creates these classes at import, invisible to a type checker.
_event: Any = event_pb2
_summary: Any = summary_pb2
_hparams: Any = plugin_data_pb2

_RGB = 3
FLUSH_SECONDS = 30
"""Seconds within which points appear in TensorBoard."""


@final
class TensorBoardTracker:
    """Writes one event file for each session into tb/ of the run folder. It may be deleted.

    Raises: StorageError from every method if the file cannot be written.
    """

    def __init__(self) -> None:
        self._folder = Path()
        self._writer: EventFileWriter | None = None

    def start(self, run: TrackedRun) -> None:
        """Open a new event file and write the settings for the HPARAMS tab. A resumed run discards later points."""
        self._folder = run.path / "tb"
        with storage.storage_errors(self._folder, "write TensorBoard events to"):
            self._writer = EventFileWriter(str(self._folder), flush_secs=FLUSH_SECONDS)
        if run.resumed:
            # TensorBoard purges events at and after the step of a START record.
            self._add(run.step + 1, session_log=_event.SessionLog(status=_event.SessionLog.START))
        self._write_settings(run.settings)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write one point per name."""
        points = [_summary.Summary.Value(tag=name, simple_value=value) for name, value in sorted(values.items())]
        self._add(step, summary=_summary.Summary(value=points))

    def pictures(self, step: int, name: str, frames: np.ndarray, fps: float) -> None:
        """Write uint8 [T, H, W, C] as an animated GIF, [H, W, C] as a PNG."""
        single = frames.ndim == 3
        video = pictures.as_frames(frames[None] if single else frames)
        data = pictures.png_bytes(video[0]) if single else pictures.gif_bytes(video, fps)
        height, width = video.shape[1:3]
        image = _summary.Summary.Image(height=height, width=width, colorspace=_RGB, encoded_image_string=data)
        self._add(step, summary=_summary.Summary(value=[_summary.Summary.Value(tag=name, image=image)]))

    def flush(self) -> None:
        """Pass all events to the operating system."""
        assert self._writer is not None, "start comes first"
        with storage.storage_errors(self._folder, "write TensorBoard events to"):
            self._writer.flush()

    def close(self) -> None:
        """Flush and close the file."""
        if self._writer is not None:
            with storage.storage_errors(self._folder, "write TensorBoard events to"):
                self._writer.close()

    def _write_settings(self, settings: Mapping[str, Any]) -> None:
        data = _hparams.HParamsPluginData(version=0)
        data.session_start_info.start_time_secs = time.time()
        for name, value in settings.items():
            entry = data.session_start_info.hparams[name]
            if isinstance(value, bool):
                entry.bool_value = value
            elif isinstance(value, int | float):
                entry.number_value = value
            else:
                entry.string_value = str(value)
        plugin = _summary.SummaryMetadata.PluginData(plugin_name="hparams", content=data.SerializeToString())
        value = _summary.Summary.Value(
            tag="_hparams_/session_start_info", metadata=_summary.SummaryMetadata(plugin_data=plugin)
        )
        self._add(0, summary=_summary.Summary(value=[value]))

    def _add(self, step: int, **content: Any) -> None:
        assert self._writer is not None, "start comes first"
        with storage.storage_errors(self._folder, "write TensorBoard events to"):
            self._writer.add_event(_event.Event(wall_time=time.time(), step=step, **content))
