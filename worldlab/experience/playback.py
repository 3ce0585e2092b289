"""Plays back recorded experience instead of collecting: several models can train on the same data in the same order."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from worldlab.errors import ConfigError
from worldlab.experience.replay import Replay
from worldlab.experience.segments import SegmentLog, read_header, schema_json

CHUNK = 256
"""Records read at a time."""


class Playback:
    """Plays back the experience of another run, with the interface of `Collector`.

    source: a run folder or its replay/, which is only read. replay: the replay to fill; playback continues after the
    steps it already holds. finished: (return, length) of ended episodes; the caller reads and clears it. sha256: hash
    of the whole recording, stream by stream. decisions: decisions of its shortest stream times the number of streams.
    Raises: ConfigError if there is no recording, or if its observations, actions or env.num_envs differ; StorageError.
    """

    def __init__(self, source: Path, replay: Replay):
        folder = source / "replay" if (source / "replay").is_dir() else source
        header = read_header(folder) if folder.is_dir() else None
        if header is None:
            raise ConfigError(
                f"no recorded experience in {str(source)[-60:]!r}",
                cause="replay.source must be the folder of a run, which has segment files under replay/",
                fix="--replay.source runs/NAME, or leave it out to collect",
            )
        if header.schema != schema_json(replay.schema):
            raise ConfigError(
                "the recorded experience has other observations or actions than this run",
                cause=f"expected {schema_json(replay.schema)}, found {header.schema}"[:400],
                fix="record it with the same env, env.size, env.pixels and env.repeat",
            )
        streams = len({path.stem.split("-")[1] for path in folder.glob("seg-*.log")})
        if streams != replay.num_envs:
            raise ConfigError(
                f"the experience was recorded with env.num_envs {streams}, this run has {replay.num_envs}",
                fix=f"--env.num-envs {streams}",
            )
        self.finished: list[tuple[float, int]] = []
        self._replay = replay
        self._log = SegmentLog(folder, replay.schema, streams, header.steps)
        if any(self._log.first_kept(env) > 0 for env in range(streams)):
            raise ConfigError(
                "the recording lacks its beginning",
                cause=f"{str(folder)[-200:]} keeps the newest steps only: replay.capacity of that run was too small",
                fix="record with a --replay.capacity somewhat larger than --steps",
            )
        self._totals = self._log.scan()
        self.sha256, self.decisions = self._read_through()
        self._next: list[int] = list(replay.position()["totals"])
        self._so_far = [self._since_reset(env) for env in range(streams)]

    def start(self) -> None:
        """Append the first observation of each stream, unless the replay has it already."""
        for env in range(len(self._next)):
            if self._next[env] == 0:
                self._append(env, self._peek(env))

    def begin(self, random: Any = None) -> None:
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
        self._log.close()

    def _append(self, env: int, record: np.void | None) -> None:
        assert record is not None
        self._replay.append(env, {key: record[key] for key in self._replay.schema})
        self._next[env] += 1
        ret, length = self._so_far[env]
        self._so_far[env] = (0.0, 0) if record["is_first"] else (ret + float(record["reward"]), length + 1)

    def _peek(self, env: int) -> np.void | None:
        """Return the next record of a stream; None at its end."""
        at = self._next[env]
        return self._log.read(env, at, at + 1)[0] if at < self._totals[env] else None

    def _read_through(self) -> tuple[str, int]:
        """Return the hash of all records and the number of decisions."""
        digest, decisions = hashlib.sha256(), []
        for env, total in enumerate(self._totals):
            count = 0
            for start in range(0, total, CHUNK):
                records = self._log.read(env, start, min(total, start + CHUNK))
                digest.update(records.tobytes())
                count += int((~records["is_first"]).sum())
            decisions.append(count)
        return digest.hexdigest(), min(decisions) * len(decisions)

    def _since_reset(self, env: int) -> tuple[float, int]:
        """Compute return and length, so far, of the episode at the end of the replay's stream."""
        rewards: list[float] = []
        for at in range(self._next[env] - 1, -1, -1):
            record = self._log.read(env, at, at + 1)[0]
            if record["is_first"]:
                break
            rewards.append(float(record["reward"]))
        total = 0.0
        for reward in reversed(rewards):  # added as in `_append`: Python's sum rounds differently
            total += reward
        return total, len(rewards)


__all__ = ["Playback"]
