"""Plays back recorded experience instead of collecting: several models can train on the same data in the same order."""

from __future__ import annotations

from typing import Any

import numpy as np

from worldlab.errors import ConfigError
from worldlab.experience.data_records import EpisodeRecords, RecordStreams, deal
from worldlab.experience.dataset import Dataset
from worldlab.experience.replay import Replay


class Playback:
    """Plays back a data set, with the interface of `Collector`.

    replay: the replay to fill; playback continues after the steps it already holds. size: side to which images are
    resized. finished: (return, length) of ended episodes; the caller reads and clears it. sha256: hash of the whole
    recording, stream by stream. decisions: decisions of its shortest stream times the number of streams.
    Raises: ConfigError if its observations, actions or env.num_envs differ, or if it is damaged.
    """

    def __init__(self, dataset: Dataset, replay: Replay, size: int | None = None):
        self.finished: list[tuple[float, int]] = []
        self._dataset = dataset
        self._replay = replay
        records = EpisodeRecords(dataset, replay.schema, size)
        self._streams = RecordStreams(records, deal(dataset, replay.num_envs))
        self.sha256, self.decisions = self._streams.sha256(), self._streams.decisions
        self._next: list[int] = list(replay.position()["totals"])
        self._so_far = [self._since_reset(env) for env in range(replay.num_envs)]

    def start(self) -> None:
        """Append the first observation of each stream, unless the replay has it already."""
        for env in range(len(self._next)):
            if self._next[env] == 0:
                self._append(env, self._peek(env))

    def begin(self, random: Any = None, *, prefill: bool = True) -> None:
        """Do nothing: the recording holds the actions. `end` must follow."""

    def end(self) -> int:
        """Append the next decision of each stream and the resets around it. Returns how many decisions were appended.

        Raises: ConfigError at the end of the recording.
        """
        for env in range(len(self._next)):
            record = self._peek(env)
            # A reset without a decision before it: the recording run was resumed here.
            while record is not None and record["is_first"]:
                self._append(env, record)
                record = self._peek(env)
            if record is None:
                raise ConfigError(
                    f"the recording ends after {self.decisions} decisions",
                    fix=f"--steps {self.decisions} at most",
                )
            self._append(env, record)
            next_record = self._peek(env)
            if next_record is not None and next_record["is_first"]:
                self.finished.append(self._so_far[env])
                self._append(env, next_record)
        return len(self._next)

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return nothing: the playback goes on after the steps that the replay holds."""
        return {}, {}

    def close(self) -> None:
        """Close the recording's files."""
        self._dataset.close()

    def _append(self, env: int, record: np.void | None) -> None:
        assert record is not None
        self._replay.append(env, {key: record[key] for key in self._replay.schema})
        self._next[env] += 1
        ret, length = self._so_far[env]
        self._so_far[env] = (0.0, 0) if record["is_first"] else (ret + float(record["reward"]), length + 1)

    def _peek(self, env: int) -> np.void | None:
        """Return the next record of a stream; None at its end."""
        return self._streams.record(env, self._next[env])

    def _since_reset(self, env: int) -> tuple[float, int]:
        """Compute return and length, so far, of the episode at the end of the replay's stream."""
        ret, length, at = 0.0, 0, self._next[env]
        for position in range(self._streams.start_of(env, at - 1) + 1 if at else 0, at):
            record = self._streams.record(env, position)
            assert record is not None
            ret, length = ret + float(record["reward"]), length + 1
        return ret, length


__all__ = ["Playback"]
