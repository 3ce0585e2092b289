"""Stores experience: one stream of steps per environment, sampled as sequences, in files that survive a crash.

A step is arrival-aligned: `prev_action` led to `obs`; `reward` and `cont` came with that obs; `is_first` marks a reset
(prev_action and reward are 0 there); `cont` is 0 only where the episode terminated.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from worldlab.env.spaces import Schema
from worldlab.errors import CheckpointError, ConfigError, MemoryLimitError, StorageError, WorldlabError
from worldlab.experience.segments import (
    DamagedReplayError,
    SegmentLog,
    read_header,
    record_dtype,
    schema_hash,
    schema_json,
    segment_steps,
)

if TYPE_CHECKING:
    import torch

    from worldlab.env.arrivals import Arrivals

    Storage = Literal["ram", "disk"] | torch.device

PENDING_BYTES = 8 * 2**20
"""Appended bytes kept in memory before an automatic flush to disk."""
PENDING_SECONDS = 2.0
"""Seconds that an appended step may wait in memory: a kill of the process loses no older one."""


class Replay:
    """The newest `capacity` steps of `num_envs` streams.

    schema: layout of one step, from `worldlab.env.spaces.record_schema`. capacity: steps kept, divided evenly among the
    streams. folder: where each step is also appended to segment files; None writes no files. storage: where samples
    are read from: "ram", "disk" (needs a folder; sampled data is then checked against its CRC), or a torch.device, whose
    memory then holds the steps (worldlab.experience.resident). lost: number of steps that `open` with exact=False left out.

    Which steps can be sampled depends only on the number of steps appended to each stream, so a replay that is reopened
    at a cursor samples exactly what the original would have sampled.
    Raises: MemoryLimitError if "ram" does not fit; StorageError if the folder holds segments (use `open`).
    """

    def __init__(
        self,
        schema: Schema,
        capacity: int,
        num_envs: int,
        folder: Path | None = None,
        storage: Storage = "ram",
        *,
        existing: bool = False,
    ):
        if storage == "disk" and folder is None:
            raise ConfigError("replay storage 'disk' needs a folder", fix="--replay.storage ram")
        device = None if isinstance(storage, str) else storage
        if storage == "ram" or (device is not None and device.type == "cpu"):
            check_memory(schema, capacity)
        found = read_header(Path(folder)) if folder is not None else None
        if found is not None and not existing:
            raise StorageError(
                "the replay folder already holds experience",
                cause=f"{folder} has segment files of an earlier run",
                fix="continue that run with --resume, or choose another --run",
            )
        if found is not None and found.schema != schema_json(schema):
            raise CheckpointError(
                "the replay was recorded with other observations or actions",
                cause=f"expected {schema_json(schema)}, found {found.schema}"[:400],
                fix="resume with the environment settings of the run's config.toml",
            )
        self.schema = schema
        self.capacity = capacity
        self.num_envs = num_envs
        self.storage = storage
        self._dtype = record_dtype(schema)
        self._kept = max(1, capacity // num_envs)  # steps kept of each stream
        self._steps = found.steps if found else segment_steps(schema, self._kept)
        self._totals = np.zeros(num_envs, np.int64)  # steps ever appended to each stream
        self._floor = np.zeros(num_envs, np.int64)  # the oldest step available in each stream
        self._chunks: list[dict[int, np.ndarray]] = [{} for _ in range(num_envs)]
        self._scratch = np.zeros(1, self._dtype)
        self._resident = None
        if device is not None:
            from worldlab.experience.resident import ResidentSteps

            self._resident = ResidentSteps(schema, self._dtype, num_envs, self._kept, device)
        self._log = SegmentLog(Path(folder), schema, num_envs, self._steps) if folder is not None else None
        self._pending: list[list[bytes]] = [[] for _ in range(num_envs)]
        self._pending_bytes, self._pending_since = 0, 0.0
        self.lost = 0

    @classmethod
    def open(
        cls,
        folder: Path,
        schema: Schema,
        capacity: int,
        num_envs: int,
        storage: Storage = "ram",
        position: dict[str, Any] | None = None,
        exact: bool = True,
    ) -> Replay:
        """Continue a replay exactly at `position`; without one, after the last complete step of each stream.

        exact: raise on damaged records; if False, a stream begins after its last damaged record and `lost` counts the
        steps left out. Steps beyond the position and torn records are moved to folder/orphans; nothing is deleted.
        Raises: DamagedReplayError if the files lack records before the position; CheckpointError if their schema
        differs.
        """
        replay = cls(schema, capacity, num_envs, folder, storage, existing=True)
        assert replay._log is not None
        try:
            replay._continue(replay._log, position, exact)
        except BaseException:
            replay._log.close()
            raise
        return replay

    def _continue(self, log: SegmentLog, position: dict[str, Any] | None, exact: bool) -> None:
        totals = log.scan() if position is None else self._read_position(position)
        window = [self._reach(log, env, total, position) for env, total in enumerate(totals)]
        whole = [log.first_intact(env, *span) for env, span in enumerate(zip(window, totals, strict=True))]
        self.lost = sum(whole) - sum(window)
        if exact and self.lost:
            env = next(env for env in range(self.num_envs) if whole[env] > window[env])
            raise DamagedReplayError(
                f"replay record {whole[env] - 1} of environment {env} is damaged or missing",
                cause=f"{log.folder}: its checksum or its size does not match",
                fix="check the disk; restore it from a backup, or resume without it: --resume --no-strict",
            )
        log.restore(totals, whole)
        self._totals[:] = totals
        self._floor[:] = whole
        if self.storage != "disk":
            self._load()

    def _reach(self, log: SegmentLog, env: int, total: int, position: dict[str, Any] | None) -> int:
        """Return the first step of a stream that can be sampled.

        The window starts where it did before, or sampling would differ from the interrupted run; with a larger capacity
        it also covers older steps that are still on disk.
        """
        reach = log.first_kept(env)
        if position is not None:
            # Checkpoints from before 0.1.0 do not store where their streams began.
            first = position["first"][env] if "first" in position else total - position["kept"]
            reach = min(reach, first) if self._kept > position["kept"] else first
        return max(0, total - self._kept, reach)

    def append(self, env: int, record: dict[str, Any]) -> None:
        """Add one step to the stream of environment `env`.

        record: exactly the schema's keys and shapes; dtypes may differ only within a kind (float64 for float32).
        Raises: WorldlabError for a record that does not fit; StorageError.
        """
        number, offset = divmod(int(self._totals[env]), self._steps)
        row = self._chunk(env, number)[offset : offset + 1] if self.storage == "ram" else self._scratch
        self._fill(row, record)
        if self._resident is not None:
            self._resident.put(env, int(self._totals[env]), row)
        if self._log is not None:
            frame = self._log.frame(row.tobytes())
            self._pending[env].append(frame)
            if self._pending_bytes == 0:
                self._pending_since = time.monotonic()
            self._pending_bytes += len(frame)
        self._totals[env] += 1
        waited = self._pending_bytes and time.monotonic() - self._pending_since > PENDING_SECONDS
        if waited or self._pending_bytes > PENDING_BYTES:
            self.flush()

    def sample(self, batch: int, length: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Draw sequences uniformly from all runs of `length` consecutive steps of one stream.

        Returns: {key: [batch, length, ...]} in the schema's dtypes, newly allocated; is_first marks resets inside a
        sequence. The cost of a sequence does not depend on the number of steps kept.
        Raises: ConfigError if no stream is long enough yet (see `can_sample`); StorageError for a damaged file.
        """
        envs, firsts = self._draw(batch, length, rng)
        if self._resident is not None:
            return {key: value.cpu().numpy() for key, value in self._resident.gather(envs, firsts, length).items()}
        if self.storage == "disk":
            self.flush()
        out = {key: np.empty((batch, length, *shape), kind) for key, (shape, kind) in self.schema.items()}
        for row, (env, first) in enumerate(zip(envs.tolist(), firsts.tolist(), strict=True)):
            self._copy(env, first, length, row, out)
        return out

    def sample_on(
        self, device: torch.device, batch: int, length: int, rng: np.random.Generator
    ) -> dict[str, torch.Tensor]:
        """Draw what `sample` draws as tensors on a device. Steps that are stored there do not pass through the host."""
        from worldlab.experience.resident import on_device

        if self._resident is None:
            import torch

            sampled = self.sample(batch, length, rng)
            return {key: on_device(torch.from_numpy(value), device) for key, value in sampled.items()}
        gathered = self._resident.gather(*self._draw(batch, length, rng), length)
        return {key: on_device(value, device) for key, value in gathered.items()}

    def _draw(self, batch: int, length: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw the streams and the first steps of sequences, [batch] each. Raises: ConfigError (see `sample`)."""
        starts = np.maximum(self._lengths() - length + 1, 0)
        ends = np.cumsum(starts)
        if ends[-1] == 0:
            raise ConfigError(
                f"no stream of the replay has {length} steps yet; the longest has {self._lengths().max()}",
                fix="raise train.prefill, or lower train.batch_length",
            )
        picks = rng.integers(ends[-1], size=batch)
        envs = np.searchsorted(ends, picks, side="right")
        return envs, self._window()[envs] + picks - (ends - starts)[envs]

    def newest(self, env: int, count: int) -> dict[str, np.ndarray]:
        """Return the newest steps of a stream, `count` of them or all that are kept: {key: [n, ...]}."""
        count = min(count, int(self._lengths()[env]))
        out = {key: np.empty((1, count, *shape), kind) for key, (shape, kind) in self.schema.items()}
        if self.storage == "disk":
            self.flush()
        self._copy(env, int(self._totals[env]) - count, count, 0, out)
        return {key: array[0] for key, array in out.items()}

    def can_sample(self, length: int) -> bool:
        """Return whether any stream keeps `length` consecutive steps."""
        return bool(self._lengths().max() >= length)

    def __len__(self) -> int:
        """Return the number of steps that can be sampled, reset records included."""
        return int(self._lengths().sum())

    def flush(self, sync: bool = False) -> None:
        """Write appended records. sync: return only when they have reached the disk. Raises: StorageError."""
        if self._log is None:
            return
        for env, frames in enumerate(self._pending):
            if frames:
                self._log.write(env, frames)
                self._pending[env] = []
        self._pending_bytes = 0
        if sync:
            self._log.sync()

    def position(self) -> dict[str, Any]:
        """Make all appended records durable and return the cursor that a checkpoint stores: plain JSON data."""
        self.flush(sync=True)
        return {
            "format": 1,
            "schema": schema_hash(self.schema),
            "kept": self._kept,
            "totals": self._totals.tolist(),
            "first": self._window().tolist(),
        }

    def prune(self, oldest: dict[str, Any] | None = None) -> None:
        """Delete the segments that neither this replay nor a resume from the cursor `oldest` can reach.

        oldest: position of the oldest checkpoint kept. Call this after deleting old checkpoints.
        """
        if self._log is None:
            return
        self.flush()
        needed = self._window()
        if oldest is not None:
            needed = np.minimum(needed, np.array(self._read_position(oldest)) - self._kept)
        for env, step in enumerate(needed.tolist()):
            self._log.drop_before(env, step)

    def close(self) -> None:
        """Flush and close the files."""
        if self._log is not None:
            try:
                self.flush()
            finally:
                self._log.close()

    def _window(self) -> np.ndarray:
        """Return the first step of each stream that can be sampled."""
        return np.maximum(self._totals - self._kept, self._floor)

    def _lengths(self) -> np.ndarray:
        return self._totals - self._window()

    def _fill(self, row: np.ndarray, record: dict[str, Any]) -> None:
        if record.keys() != self.schema.keys():
            raise WorldlabError(
                "the keys of a replay record differ from the schema",
                cause=f"expected {list(self.schema)}, got {list(record)}"[:400],
            )
        for key, (shape, kind) in self.schema.items():
            value = np.asarray(record[key])
            # numpy would silently broadcast a wrong shape and wrap a float into a byte
            if value.shape != shape or not np.can_cast(value.dtype, kind, "same_kind"):
                raise WorldlabError(
                    f"replay record {key!r} does not fit the schema",
                    cause=f"expected {kind} {shape}, got {value.dtype} {value.shape}",
                )
            row[key][0] = value

    def _chunk(self, env: int, number: int) -> np.ndarray:
        """Return the array of a segment: a new array, or one whose segment has left the window."""
        chunks = self._chunks[env]
        if number not in chunks:
            oldest = min(chunks, default=number)
            stale = (oldest + 1) * self._steps <= self._totals[env] + 1 - self._kept
            chunks[number] = chunks.pop(oldest) if stale else np.empty(self._steps, self._dtype)
        return chunks[number]

    def _copy(self, env: int, first: int, length: int, row: int, out: dict[str, np.ndarray]) -> None:
        """Copy steps [first, first + length) of a stream to row `row` of a batch."""
        done = 0
        while done < length:
            number, offset = divmod(first + done, self._steps)
            count = min(length - done, self._steps - offset)
            if self._resident is not None:
                steps = self._resident.read(env, first + done, count)
            elif self.storage == "ram":
                steps = self._chunks[env][number][offset : offset + count]
            else:
                assert self._log is not None
                steps = self._log.read(env, first + done, first + done + count)
            for key, array in out.items():
                array[row, done : done + count] = steps[key]
            done += count

    def _read_position(self, position: dict[str, Any]) -> list[int]:
        """Return the totals of a cursor. Raises: CheckpointError when it does not belong to this replay."""
        totals = position.get("totals") if isinstance(position, dict) else None
        if (
            totals is None
            or position.get("format") != 1
            or not isinstance(position.get("kept"), int)
            or not isinstance(totals, list)
            or not all(isinstance(total, int) and total >= 0 for total in totals)
            or not isinstance(position.get("first", []), list)
            or len(position.get("first", totals)) != len(totals)
        ):
            raise CheckpointError("the checkpoint's replay position is damaged", cause=f"got {position!r}"[:300])
        expected = (schema_hash(self.schema), self.num_envs)
        found = (position.get("schema"), len(totals))
        if found != expected:
            raise CheckpointError(
                "the replay was recorded with other observations, actions or env.num_envs",
                cause=f"schema and streams: expected {expected}, found {found}",
                fix="resume with the environment settings of the run's config.toml",
            )
        return totals

    def _load(self) -> None:
        """Read the window of each stream into memory."""
        assert self._log is not None
        for env in range(self.num_envs):
            step, total = int(self._floor[env]), int(self._totals[env])
            while step < total:
                number, offset = divmod(step, self._steps)
                count = min(total - step, self._steps - offset)
                records = self._log.read(env, step, step + count)
                if self._resident is not None:
                    self._resident.put(env, step, records)
                    step += count
                    continue
                chunk = self._chunks[env].setdefault(number, np.empty(self._steps, self._dtype))
                chunk[offset : offset + count] = records
                step += count


def records(arrivals: Arrivals, prev_action: np.ndarray) -> Iterator[tuple[int, dict[str, Any]]]:
    """Convert a result of `EnvPool` to (env, replay record) pairs. Steps are aligned here and nowhere else.

    prev_action: encoded actions of this step, float32 [N, A]; on a reset, 0 is stored instead. An environment whose
    episode ended yields two records, its last step and the reset; a skipped environment yields none.
    """
    for env in np.flatnonzero(~arrivals.skipped).tolist():
        first = bool(arrivals.is_first[env])
        yield (
            env,
            {
                **{key: values[env] for key, values in arrivals.obs.items()},
                "prev_action": np.zeros_like(prev_action[env]) if first else prev_action[env],
                "reward": np.float32(0) if first else arrivals.reward[env],
                "cont": np.float32(not arrivals.terminated[env]),
                "is_first": np.bool_(first),
            },
        )
        if arrivals.done[env]:
            assert arrivals.reset_obs is not None
            yield (
                env,
                {
                    **{key: values[env] for key, values in arrivals.reset_obs.items()},
                    "prev_action": np.zeros_like(prev_action[env]),
                    "reward": np.float32(0),
                    "cont": np.float32(1),
                    "is_first": np.bool_(True),
                },
            )


def estimate_bytes(schema: Schema, capacity: int) -> int:
    """Return the bytes that `capacity` steps take in memory and, plus 8 per step, on disk."""
    return record_dtype(schema).itemsize * capacity


def check_memory(schema: Schema, capacity: int) -> None:
    """Raise MemoryLimitError, with a capacity that fits, if a replay needs more memory than is free."""
    need, free = estimate_bytes(schema, capacity), available_bytes()
    if need > free:
        fitting = int(0.8 * free / (need / capacity))
        raise MemoryLimitError(
            f"a replay of {capacity:,} steps needs {need / 1e9:.1f} GB of memory; {free / 1e9:.1f} GB are free",
            cause=f"one step takes {need // capacity:,} bytes",
            fix=f"--replay.capacity {fitting} or --replay.storage disk",
        )


def available_bytes() -> int:
    """Return the bytes this process may still allocate: free memory, or what the container's limit leaves."""
    import psutil

    free = int(psutil.virtual_memory().available)
    root = Path("/sys/fs/cgroup")
    with suppress(OSError, ValueError):  # no cgroup v2, or no limit ("max")
        used = int((root / "memory.current").read_text())
        stat = dict(line.split() for line in (root / "memory.stat").read_text().splitlines())
        used -= int(stat.get("inactive_file", 0))  # file cache that the kernel can free
        free = min(free, max(0, int((root / "memory.max").read_text()) - used))
    return free
