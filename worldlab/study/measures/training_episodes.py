"""Loads the first episodes of a run's replay, which its model was trained on, as a recording."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import NoReturn

import numpy as np

from worldlab.experience.segments import SegmentLog, read_header
from worldlab.study.measures.recording import Recording, pad_episodes
from worldlab.study.measures.undefined import Undefined
from worldlab.training.loaded import LoadedRun


def load_training_episodes(run: LoadedRun, episodes: int, length: int) -> Recording:
    """Load up to `episodes` episodes that a run trained on, the first `length` observations of each.

    The earliest episodes are chosen: they are random play, like the test episodes, and the model trained on them most
    often. Raises: Undefined if the run has no replay; StorageError.
    """
    folder = run.folder.path / "replay"
    header = read_header(folder) if folder.is_dir() else None
    loaded: list[dict[str, np.ndarray]] = []
    if header is not None:
        streams = len({path.stem.split("-")[1] for path in folder.glob("seg-*.log")})
        log = SegmentLog(folder, run.schema, streams, header.steps)
        try:
            loaded += islice(_read_episodes(log, length), episodes)
        finally:
            log.close()
    return pad_episodes(loaded, length) if loaded else raise_no_replay()


def raise_no_replay() -> NoReturn:
    """Raises: Undefined."""
    raise Undefined("the run folder holds no replay")


def _read_episodes(log: SegmentLog, length: int) -> Iterator[dict[str, np.ndarray]]:
    """Yield whole episodes, and the unfinished last episode of each stream, as arrays [t, ...]."""
    for stream, total in enumerate(log.scan()):
        start = 0
        for at in range(1, total + 1):
            if at == total or bool(log.read(stream, at, at + 1)[0]["is_first"]):
                records = log.read(stream, start, min(at, start + length))
                yield {key: np.ascontiguousarray(records[key]) for key in log.schema}
                start = at
