"""The runs of worldlab and what `worldlab record` writes: replay/ with segment files, and run.json or recording.json."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
from gymnasium import spaces

from worldlab.env.spaces import STEP_FIELDS, Schema, action_spec, record_schema
from worldlab.env.spaces_json import from_json
from worldlab.errors import ConfigError, StorageError, one_line
from worldlab.experience.data_records import EpisodeRecords
from worldlab.experience.dataset import (
    CHUNK,
    CHUNK_BYTES,
    Dataset,
    DatasetFacts,
    EpisodeFacts,
    Steps,
    check_facts,
    chunks,
)
from worldlab.experience.replay import Replay
from worldlab.experience.segments import SegmentLog, read_header, record_dtype, segment_name
from worldlab.runs.storage import atomic_write_json, make_folder, read_json
from worldlab_data.files import RECORDING, description, parse_schema, refuse


@final
class RunFolderFormat:
    """Reads and writes replay/ in the folder of a run; a folder of segment files itself is read, too."""

    def recognises(self, name: str) -> bool:
        return any(_replay(Path(name)).glob("seg-*.log"))

    def open(self, name: str) -> RecordedRun:
        return RecordedRun(Path(name))

    def write(self, source: Dataset, path: Path) -> None:
        facts = source.facts
        schema = record_schema(facts.observation_space, action_spec(facts.action_space))
        records, total = EpisodeRecords(source, schema), sum(episode.length + 1 for episode in source.episodes)
        make_folder(path)
        replay = Replay(schema, total, 1, path / "replay", "disk")
        for episode in range(len(source.episodes)):
            for piece in records.records(episode):
                for record in piece:
                    replay.append(0, {key: record[key] for key in schema})
        replay.flush(sync=True)
        replay.close()
        entry = description(facts.env_id, facts.observation_space, facts.action_space)
        last = source.episodes[-1]
        atomic_write_json(path / RECORDING, entry | {"whole_episodes": last.terminated or last.truncated})


@final
class RecordedRun(Dataset):
    """The episodes of a run, as its replay keeps them. Actions are stored encoded.

    Raises: ConfigError for a folder without segments, one that lacks its beginning, or damaged records.
    """

    def __init__(self, path: Path):
        folder = _replay(path)
        header = read_header(folder) if folder.is_dir() else None
        if header is None:
            raise ConfigError(
                f"no recorded experience in {one_line(path, 60)!r}",
                cause="a run folder has segment files under replay/",
                fix="--data runs/NAME",
            )
        schema = parse_schema(header.schema)
        if header.steps < 1:
            raise refuse(folder, "its segments hold no records")
        largest = header.size + header.steps * (8 + record_dtype(schema).itemsize)
        if largest > CHUNK_BYTES or any(file.stat().st_size > largest for file in folder.glob("seg-*.log")):
            raise refuse(folder, "a segment is larger than its header allows, or than is read at once")
        names = [found for file in folder.glob("seg-*.log") if (found := segment_name(file))]
        count = 1 + max(stream for stream, _ in names)
        self._log = SegmentLog(folder, schema, count, header.steps)
        if any(self._log.first_kept(stream) > 0 for stream in range(count)):
            raise ConfigError(
                "the recording lacks its beginning",
                cause=f"{one_line(folder, 200)} keeps the newest steps only: replay.capacity of that run was too small",
                fix="record with a --replay.capacity somewhat larger than --steps",
            )
        described = _described(path) or _described(folder.parent)
        whole = described.get("whole_episodes") is True
        self._places: list[tuple[int, int]] = []
        self.episodes: list[EpisodeFacts] = []
        self._streams = [self._index(stream, total, whole) for stream, total in enumerate(self._log.scan())]
        self.facts = self._read_facts(described, schema)
        check_facts(self.facts, self.episodes)

    def read(self, episode: int, start: int, stop: int) -> Steps:
        stream, first = self._places[episode]
        records = self._records(stream, first + start, first + stop + 1)
        obs = {key: records[key] for key in records.dtype.names or () if key not in STEP_FIELDS}
        return Steps(obs, records["prev_action"][1:], records["reward"][1:])

    def streams(self) -> Sequence[Sequence[int]]:
        return self._streams

    def close(self) -> None:
        self._log.close()

    def _records(self, stream: int, start: int, stop: int) -> np.ndarray:
        try:
            return self._log.read(stream, start, stop)
        except StorageError as error:
            raise ConfigError(error.message, cause=error.cause, fix="worldlab verify RUN lists all damage") from error

    def _index(self, stream: int, total: int, whole: bool) -> list[int]:
        """Note where each episode of a stream begins and how it ended. Returns the numbers of these episodes.

        whole: the last episode has ended, too; otherwise it is in progress unless it terminated.
        """
        starts: list[int] = []
        conts = np.ones(total, bool)
        for start in range(0, total, CHUNK):
            records = self._records(stream, start, min(total, start + CHUNK))
            starts += (start + np.flatnonzero(records["is_first"])).tolist()
            conts[start : start + len(records)] = records["cont"] > 0
        found = []
        for first, stop in zip(starts, [*starts[1:], total], strict=True):
            found.append(len(self.episodes))
            self._places.append((stream, first))
            terminated = bool(stop > first + 1 and not conts[stop - 1])
            name = f"{len(self.episodes)} (stream {stream}, record {first})"
            self.episodes.append(
                EpisodeFacts(name, stop - first - 1, terminated, (whole or stop < total) and not terminated)
            )
        return found

    def _read_facts(self, described: dict[str, Any], schema: Schema) -> DatasetFacts:
        forms = {key: form for key, form in schema.items() if key not in STEP_FIELDS}
        obs = spaces.Dict({key: from_json({"shape": shape, "dtype": kind}) for key, (shape, kind) in forms.items()})
        missing = []
        if "action_space" in described:
            action = from_json(described["action_space"])
        else:
            action = self._guess_action(schema["prev_action"][0][0])
            missing.append("the bounds of the actions: they are taken as -1 to 1, or as numbers from 0")
        env_id = described.get("env")
        if not isinstance(env_id, str):
            env_id = ""
            missing.append("the environment")
        return DatasetFacts("run", obs, action, env_id, tuple(missing), encoded=True)

    def _guess_action(self, dim: int) -> spaces.Space:
        for index, episode in enumerate(self.episodes):
            for start, stop in chunks(episode.length):
                action = self.read(index, start, stop).action
                if not (np.isin(action, (0, 1)).all() and (action.sum(1) == 1).all()):
                    return spaces.Box(-1, 1, (dim,), np.float32)
        return spaces.Discrete(dim) if dim > 1 else spaces.Box(-1, 1, (dim,), np.float32)


def _replay(path: Path) -> Path:
    return path / "replay" if (path / "replay").is_dir() else path


def _described(folder: Path) -> dict[str, Any]:
    """Return recording.json or run.json of a folder; {} if there is none that can be read."""
    for name in (RECORDING, "run.json"):
        try:
            content = read_json(folder / name)
        except (OSError, ValueError):
            continue
        if isinstance(content, dict):
            return content
    return {}


__all__ = ["RunFolderFormat"]
