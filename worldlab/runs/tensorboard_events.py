"""Writes TensorBoard's event files with TensorBoard's own protocol buffers, without torch or TensorFlow.

torch's SummaryWriter is not used: its `add_video` needs a version of moviepy that no longer exists, and readers of
metrics should not have to import torch.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugins.hparams import plugin_data_pb2
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from worldlab.runs import storage

if TYPE_CHECKING:
    import numpy as np

# protobuf creates these classes at import, invisible to a type checker.
_event: Any = event_pb2
_summary: Any = summary_pb2
_hparams: Any = plugin_data_pb2

_RGB = 3


class EventWriter:
    """Writes one event file into a folder. Points appear in TensorBoard within `flush_seconds`.

    Raises: StorageError from every method if the file cannot be written.
    """

    def __init__(self, folder: Path, flush_seconds: int = 30):
        self._folder = folder
        self._wrote_hparams = False
        with storage.storage_errors(folder, "write TensorBoard events to"):
            self._writer = EventFileWriter(str(folder), flush_secs=flush_seconds)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write one point per name; values must be finite."""
        points = [_summary.Summary.Value(tag=name, simple_value=value) for name, value in sorted(values.items())]
        self._add(step, summary=_summary.Summary(value=points))

    def pictures(self, step: int, name: str, frames: np.ndarray, fps: float) -> None:
        """Write uint8 [T, H, W, C] as an animated GIF, [H, W, C] as a PNG."""
        from worldlab.runs import pictures

        single = frames.ndim == 3
        video = pictures.as_frames(frames[None] if single else frames)
        data = pictures.png_bytes(video[0]) if single else pictures.gif_bytes(video, fps)
        height, width = video.shape[1:3]
        image = _summary.Summary.Image(height=height, width=width, colorspace=_RGB, encoded_image_string=data)
        self._add(step, summary=_summary.Summary(value=[_summary.Summary.Value(tag=name, image=image)]))

    def hparams(self, values: Mapping[str, Any]) -> None:
        """Write the settings for the HPARAMS tab, once."""
        if self._wrote_hparams:
            return
        self._wrote_hparams = True
        data = _hparams.HParamsPluginData(version=0)
        data.session_start_info.start_time_secs = time.time()
        for name, value in values.items():
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

    def restart_after(self, step: int) -> None:
        """Make TensorBoard discard points after `step`, which an earlier process wrote."""
        # TensorBoard purges events at and after the step of a START record.
        self._add(step + 1, session_log=_event.SessionLog(status=_event.SessionLog.START))

    def flush(self) -> None:
        """Pass all events to the operating system."""
        with storage.storage_errors(self._folder, "write TensorBoard events to"):
            self._writer.flush()

    def close(self) -> None:
        """Flush and close the file."""
        with storage.storage_errors(self._folder, "write TensorBoard events to"):
            self._writer.close()

    def _add(self, step: int, **content: Any) -> None:
        with storage.storage_errors(self._folder, "write TensorBoard events to"):
            self._writer.add_event(_event.Event(wall_time=time.time(), step=step, **content))
