"""What a run was trained on: the first episodes of its replay, in the form of a recording."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import NoReturn

import numpy as np

from worldlab.experience.segments import SegmentLog, read_header
from worldlab.study.measures.recording import Recording, padded
from worldlab.study.measures.undefined import Undefined
from worldlab.training.loaded import LoadedRun


def experience_of(run: LoadedRun, episodes: int, length: int) -> Recording:
    """Up to `episodes` episodes that a run learned from, the first `length` observations of each. The earliest: they are random
    play, as the judged ones are, and what it saw most often. Raises: Undefined if the run kept none; StorageError."""
    folder = run.folder.path / "replay"
    header = read_header(folder) if folder.is_dir() else None
    found: list[dict[str, np.ndarray]] = []
    if header is not None:
        streams = len({path.stem.split("-")[1] for path in folder.glob("seg-*.log")})
        log = SegmentLog(folder, run.schema, streams, header.steps)
        try:
            found += islice(_episodes(log, length), episodes)
        finally:
            log.close()
    return padded(found, length) if found else none_kept()


def none_kept() -> NoReturn:
    """Raises: Undefined."""
    raise Undefined("the run folder holds no replay")


def _episodes(log: SegmentLog, length: int) -> Iterator[dict[str, np.ndarray]]:
    """Whole episodes, and the last one of each stream as far as it came, as arrays [t, ...]."""
    for stream, total in enumerate(log.scan()):
        begun = 0
        for at in range(1, total + 1):
            if at == total or bool(log.read(stream, at, at + 1)[0]["is_first"]):
                records = log.read(stream, begun, min(at, begun + length))
                yield {key: np.ascontiguousarray(records[key]) for key in log.schema}
                begun = at
