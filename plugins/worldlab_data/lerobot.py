"""LeRobot's data sets, version 3: tables in parquet, pictures in mp4 files or in the tables. Cadene et al. 2024, Hugging Face.

The package lerobot is not needed, pyarrow and PyAV suffice. A row holds an observation, the action taken there, and what
followed (`next.reward`, `next.done`). The last row of an episode has no observation after its action, which is left out.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from gymnasium import spaces

from worldlab.errors import ConfigError, one_line
from worldlab.experience.dataset import CHUNK, CHUNK_BYTES, Dataset, DatasetFacts, EpisodeFacts, Steps, check_facts
from worldlab.runs.storage import read_json
from worldlab_data.clips import VideoPieces
from worldlab_data.files import (
    as_part,
    described,
    guessed_actions,
    inside,
    needs,
    obs_part,
    obs_space,
    read_description,
    refuse,
    shown_name,
)

INFO = "meta/info.json"
PREFIX = "observation."
GROUP_BYTES = 4 * CHUNK_BYTES
"""Largest row group, unpacked: parquet is read by row groups."""


@final
class LeRobotFormat:
    """Reads and writes LeRobot's version 3."""

    def recognises(self, name: str) -> bool:
        return (Path(name) / INFO).is_file()

    def open(self, name: str) -> LeRobotEpisodes:
        return LeRobotEpisodes(Path(name))

    def write(self, source: Dataset, path: Path) -> None:
        from worldlab_data.lerobot_writer import write

        write(source, path)


@final
class ParquetRows:
    """Reads columns of a parquet file by rows, in order. What needs much memory to be read is refused."""

    def __init__(self, path: Path, columns: list[str] | None = None):
        self.path, self._columns = path, columns
        parquet = needs("pyarrow.parquet", "lerobot")
        self._arrow = needs("pyarrow", "lerobot")
        try:
            self._file = parquet.ParquetFile(path, memory_map=False, pre_buffer=False)
        except (OSError, self._arrow.ArrowException) as error:
            raise refuse(path, "it is no parquet file", fix="download it again") from error
        metadata = self._file.metadata
        self.rows = metadata.num_rows
        for group in range(metadata.num_row_groups):
            if metadata.row_group(group).total_byte_size > GROUP_BYTES:
                raise refuse(
                    path, f"a row group unpacks to more than {GROUP_BYTES:,} bytes", fix="write smaller groups"
                )
        self.names = set(self._file.schema_arrow.names)
        self._at, self._batches, self._batch = 0, self._iterate(), None

    def _iterate(self) -> Iterator[Any]:
        columns = None if self._columns is None else [name for name in self._columns if name in self.names]
        try:
            yield from self._file.iter_batches(batch_size=CHUNK, columns=columns)
        except (OSError, self._arrow.ArrowException) as error:
            raise refuse(self.path, f"it is damaged ({type(error).__name__})") from error

    def read(self, start: int, stop: int) -> Any:
        """Return rows [start, stop) as a table. Reading on is cheap, reading backwards begins anew."""
        if start < self._at:
            self._at, self._batches, self._batch = 0, self._iterate(), None
        pieces = []
        while start < stop:
            if self._batch is None or start >= self._at + self._batch.num_rows:
                self._at += 0 if self._batch is None else self._batch.num_rows
                self._batch = next(self._batches, None)
                if self._batch is None:
                    raise refuse(self.path, f"it has {self._at} rows, {stop} are needed")
                continue
            count = min(stop, self._at + self._batch.num_rows) - start
            pieces.append(self._batch.slice(start - self._at, count))
            start += count
        return self._arrow.Table.from_batches(pieces)

    def close(self) -> None:
        self._file.close()


@dataclass(frozen=True)
class _Place:
    """Where an episode is: rows [first, first + length] of a data file; the file and the first second of each video."""

    data: tuple[int, int]
    first: int
    videos: dict[str, tuple[tuple[int, int], float]]


@final
class LeRobotEpisodes(Dataset):
    """The episodes of a LeRobot data set."""

    def __init__(self, folder: Path):
        self._folder = folder
        try:
            self._info = read_json(inside(folder, INFO))
            self._features = {str(key): dict(value) for key, value in self._info["features"].items()}
            version = str(self._info["codebase_version"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise refuse(folder / INFO, "it is damaged", fix="download the data set again") from error
        if not version.startswith("v3"):
            raise refuse(folder, f"its version is {version[:10]}, read is v3", fix="convert it by lerobot's own script")
        if "action" not in self._features:
            raise refuse(folder / INFO, "it lists no feature 'action'")
        self._keys = [key for key in self._features if key == "observation" or key.startswith(PREFIX)]
        self._table: ParquetRows | None = None
        self._reader = VideoPieces("lerobot")
        self._places: list[_Place] = []
        self.episodes: list[EpisodeFacts] = []
        self._index()
        self.facts = self._read_facts()
        check_facts(self.facts, self.episodes)

    def _index(self) -> None:
        """Read where the episodes are, and how each ended."""
        rows: list[dict[str, Any]] = []
        folder = self._folder / "meta" / "episodes"
        for path in sorted(folder.glob("chunk-*/file-*.parquet")):
            table = ParquetRows(inside(self._folder, str(path.relative_to(self._folder))))
            names = [name for name in sorted(table.names) if not name.startswith("stats/")]
            table = ParquetRows(table.path, names)
            for start in range(0, table.rows, CHUNK):
                rows += table.read(start, min(table.rows, start + CHUNK)).to_pylist()
        try:
            firsts: dict[tuple[int, int], int] = {}
            for row in sorted(rows, key=lambda row: int(row["dataset_from_index"])):
                firsts.setdefault(
                    (int(row["data/chunk_index"]), int(row["data/file_index"])), int(row["dataset_from_index"])
                )
            for row in rows:
                data = (int(row["data/chunk_index"]), int(row["data/file_index"]))
                start, stop = int(row["dataset_from_index"]), int(row["dataset_to_index"])
                if not 0 <= start < stop:
                    raise ValueError("an empty episode")
                self._places.append(_Place(data, start - firsts[data], {key: _video(row, key) for key in self._videos}))
                name = str(int(row["episode_index"]))
                self.episodes.append(EpisodeFacts(name, stop - start - 1, False, True))
        except (KeyError, TypeError, ValueError) as error:
            raise refuse(folder, f"its table lacks {one_line(error, 40)}", fix="download the data set again") from error
        if "next.terminated" in self._features:
            for number, facts in enumerate(self.episodes):
                rest = self._rows(number, max(0, facts.length - 1), facts.length) if facts.length else None
                ended = bool(rest is not None and self._column(rest, "next.terminated")[-1])
                cut = bool(rest is not None and self._column(rest, "next.done")[-1]) and not ended
                self.episodes[number] = EpisodeFacts(facts.name, facts.length, ended, cut)

    @property
    def _videos(self) -> list[str]:
        return [key for key in self._keys if self._features[key].get("dtype") == "video"]

    def _read_facts(self) -> DatasetFacts:
        parts = {key.removeprefix(PREFIX): self._part(key) for key in self._keys}
        if not parts:
            raise refuse(self._folder / INFO, "it lists no feature 'observation...'")
        env_id, action, names = described(read_description(self._folder / "meta"))
        shown = {key: names.get(key, name) for key, name in shown_name(parts).items()}
        self._names = {key: shown[key.removeprefix(PREFIX)] for key in self._keys}
        missing = [] if "next.terminated" in self._features else ["terminations: all episodes count as cut off"]
        missing += [] if "next.reward" in self._features else ["rewards: they are taken as 0"]
        if action is None:
            action = self._guess_actions()
            missing.append("the action space: it is taken from the actions")
            missing.append("the observation after an episode's last decision, which is left out")
        if not env_id:
            missing.append("the environment")
        space = obs_space({shown[key]: part for key, part in parts.items()})
        return DatasetFacts("lerobot", space, action, env_id, tuple(missing))

    def _part(self, key: str) -> spaces.Box:
        feature = self._features[key]
        try:
            shape = tuple(int(side) for side in feature["shape"])
            dtype = str(feature["dtype"])
            if dtype in ("video", "image"):
                names = feature.get("names")
                first = names[0] if isinstance(names, list) and names else ""
                return obs_part(
                    key, shape[1:] + shape[:1] if str(first).startswith("channel") else shape, np.dtype(np.uint8)
                )
            return obs_part(key, shape, np.dtype(dtype if dtype != "uint8" else "float32"))
        except (KeyError, TypeError, ValueError) as error:
            raise refuse(self._folder / INFO, f"feature {key!r} is damaged") from error

    def _guess_actions(self) -> spaces.Space:
        whole = np.dtype(str(self._features["action"].get("dtype"))).kind in "iu"
        low, high = np.array([np.inf]), np.array([-np.inf])
        for number, facts in enumerate(self.episodes):
            for start in range(0, facts.length, CHUNK):
                rows = self._rows(number, start, min(facts.length, start + CHUNK))
                values = self._column(rows, "action")
                flat = values.reshape(len(values), -1)
                low, high = np.minimum(low, flat.min(0)), np.maximum(high, flat.max(0))
        return guessed_actions(low, high, False, np.dtype(np.int64 if whole else np.float32))[0]

    def _rows(self, episode: int, start: int, stop: int) -> Any:
        place = self._places[episode]
        pattern = str(self._info.get("data_path", "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"))
        path = inside(self._folder, _filled(pattern, place.data))
        if self._table is None or self._table.path != path:
            if self._table is not None:
                self._table.close()
            columns = [key for key in self._keys if key not in self._videos]
            self._table = ParquetRows(path, [*columns, "action", "next.reward", "next.done", "next.terminated"])
        return self._table.read(place.first + start, place.first + stop)

    def _column(self, rows: Any, key: str) -> np.ndarray:
        if key not in rows.column_names:
            raise refuse(self._folder, f"a data file lacks the column {key!r}")
        try:
            values = rows.column(key).combine_chunks()
            flat = values
            while hasattr(flat, "flatten") and str(flat.type).split("<")[0] in (
                "list",
                "fixed_size_list",
                "large_list",
            ):
                flat = flat.flatten()
            return np.asarray(flat.to_numpy(zero_copy_only=False)).reshape(len(values), -1)
        except (ValueError, TypeError) as error:
            raise ConfigError(
                one_line(f"LeRobot: the rows of {key!r} have mixed shapes"), fix="give all rows the same shape"
            ) from error

    def read(self, episode: int, start: int, stop: int) -> Steps:
        rows = self._rows(episode, start, stop + 1)
        obs = {}
        for key in self._keys:
            part = self.facts.observation_space[self._names[key]]
            if key in self._videos:
                file, begin = self._places[episode].videos[key]
                pattern = str(self._info.get("video_path") or "")
                path = inside(self._folder, _filled(pattern, file, key))
                values = self._reader.frames(path, begin, start, stop + 1)
            elif self._features[key].get("dtype") == "image":
                values = _pictures(self._folder, rows.column(key).to_pylist(), part)
            else:
                values = self._column(rows, key)
            if part.dtype == np.uint8 and values.shape[1:] != part.shape:
                raise refuse(self._folder, f"{key!r} has pictures of {values.shape[1:]}, declared is {part.shape}")
            obs[self._names[key]] = as_part(part, values)
        taken = rows.slice(0, stop - start)
        action = self._column(taken, "action")
        if isinstance(self.facts.action_space, spaces.Discrete):
            action = action[:, 0]
        else:
            action = action.reshape(len(action), *(self.facts.action_space.shape or ()))
        reward = self._column(taken, "next.reward")[:, 0] if "next.reward" in self._features else np.zeros(stop - start)
        return Steps(obs, action, np.asarray(reward, np.float32))

    def close(self) -> None:
        self._reader.close()
        if self._table is not None:
            self._table.close()


def _video(row: dict[str, Any], key: str) -> tuple[tuple[int, int], float]:
    file = (int(row[f"videos/{key}/chunk_index"]), int(row[f"videos/{key}/file_index"]))
    return file, float(row[f"videos/{key}/from_timestamp"])


def _filled(pattern: str, file: tuple[int, int], key: str = "") -> str:
    """Return a path of the data set; its pattern is replaced, not formatted, since a stranger wrote it."""
    chunk, number = file
    return (
        pattern.replace("{chunk_index:03d}", f"{chunk:03d}")
        .replace("{file_index:03d}", f"{number:03d}")
        .replace("{video_key}", key)
    )


def _pictures(folder: Path, cells: list[Any], part: spaces.Space) -> np.ndarray:
    """Decode pictures kept in a table, each of which must have the declared size."""
    from PIL import Image

    assert part.shape is not None
    out = []
    try:
        for cell in cells:
            with Image.open(io.BytesIO(cell["bytes"]), formats=("PNG", "JPEG")) as picture:
                if picture.size != (part.shape[1], part.shape[0]):
                    raise ValueError(f"a picture of {picture.size}")
                out.append(np.asarray(picture, np.uint8).reshape(part.shape))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise refuse(folder, f"a picture in its tables is damaged ({type(error).__name__})") from error
    return np.stack(out)


__all__ = ["LeRobotFormat", "ParquetRows"]
