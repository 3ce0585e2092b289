"""Reads frames of video files by PyAV, in order, without holding a whole video in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, final

import numpy as np

from worldlab_data.files import needs, refuse

LARGEST_SIDE = 4096
"""Largest side of a frame in pixels: a decoder allocates what the file claims."""


@final
class VideoFile:
    """The frames of a video file from a time on: uint8 [H, W, 3] each. extra: which extra installs PyAV."""

    def __init__(self, path: Path, extra: str, start: float = 0.0):
        self._av = needs("av", extra)
        self.path = path
        try:
            self._container = self._av.open(str(path), "r")
            self._stream = self._container.streams.video[0]
        except (OSError, IndexError, ValueError) as error:
            raise refuse(path, "it is no video", fix="leave it out, or encode it again") from error
        width, height = self._stream.codec_context.width, self._stream.codec_context.height
        if not (0 < width <= LARGEST_SIDE and 0 < height <= LARGEST_SIDE):
            raise refuse(path, f"its frames are {width} x {height} pixels")
        self.shape = (height, width, 3)
        self._start = start
        self._frames = self._decode()
        self.at = 0

    def _decode(self) -> Iterator[np.ndarray]:
        rate = float(self._stream.average_rate or 30)
        if self._start > 0:
            base = float(self._stream.time_base or 1)
            self._container.seek(int(self._start / base), stream=self._stream)
        try:
            for frame in self._container.decode(self._stream):
                if frame.time is not None and frame.time < self._start - 0.5 / rate:
                    continue
                pixels = frame.to_ndarray(format="rgb24")
                if pixels.shape != self.shape:
                    raise refuse(self.path, f"a frame has the size {pixels.shape}, the first ones {self.shape}")
                yield pixels
        except self._av.error.FFmpegError as error:
            raise refuse(self.path, f"it is damaged ({type(error).__name__})") from error

    def frames(self, start: int, stop: int) -> np.ndarray:
        """Read frames [start, stop), which must not lie before the last one read: uint8 [T, H, W, 3]."""
        out = []
        while self.at < stop:
            frame = next(self._frames, None)
            if frame is None:
                raise refuse(self.path, f"it has {self.at} frames, {stop} are needed", fix="correct actions.csv")
            if self.at >= start:
                out.append(frame)
            self.at += 1
        return np.stack(out)

    def count(self) -> int:
        """Return the number of frames that are left, decoding all of them."""
        return sum(1 for _ in self._frames)

    def close(self) -> None:
        self._container.close()


@final
class VideoPieces:
    """Reads pieces of many clips, in order within a clip; the frame between two pieces is read once and kept."""

    def __init__(self, extra: str):
        self._extra = extra
        self._key: Any = None
        self._clip: VideoFile | None = None
        self._last: np.ndarray | None = None

    def frames(self, path: Path, begin: float, start: int, stop: int) -> np.ndarray:
        """Read frames [start, stop), counted from the time `begin` in seconds."""
        key = (path, begin)
        again = self._clip is None or self._key != key or start < self._clip.at - 1
        if again or (self._clip is not None and start < self._clip.at and self._last is None):
            self.close()
            self._key, self._clip = key, VideoFile(path, self._extra, begin)
        assert self._clip is not None
        kept = [self._last] if self._last is not None and start == self._clip.at - 1 else []
        rest = self._clip.frames(start + len(kept), stop) if stop > start + len(kept) else None
        pieces = [*(piece[None] for piece in kept if piece is not None), *([rest] if rest is not None else [])]
        values = np.concatenate(pieces)
        self._last = values[-1]
        return values

    def close(self) -> None:
        if self._clip is not None:
            self._clip.close()
        self._clip, self._last, self._key = None, None, None


__all__ = ["VideoFile", "VideoPieces"]
