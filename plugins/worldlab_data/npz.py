"""A folder of .npz files, one an episode, as DreamerV3 writes them: arrays with one row a step, named by key.

`action`, `reward` and the observations have a row for each step; `is_first`, `is_last`, `is_terminal` (or `discount`) mark
the ends. A file of several episodes is split at `is_first`. Files are read row by row, also out of a compressed file.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, final

import numpy as np

from worldlab.errors import ConfigError
from worldlab.experience.dataset import Dataset, DatasetFacts, EpisodeFacts, Steps, check_facts, chunks, native_actions
from worldlab.runs.storage import atomic_write_json, make_folder, open_regular, write_new
from worldlab_data.alignment import SAMPLED, Alignment, Ends, action_range, find_alignment
from worldlab_data.files import (
    RECORDING,
    as_part,
    described,
    description,
    files_of,
    guessed_actions,
    obs_part,
    obs_space,
    read_description,
    refuse,
    shown_name,
)

FLAGS = ("is_first", "is_last", "is_terminal")
NOT_OBSERVED = {*FLAGS, "action", "reward", "discount", "reset", "stepid", "consec", "logprob", "truncated"}
"""Arrays of DreamerV3's episodes that are no observations; neither are those whose name begins with "log_"."""
FILE_BYTES = 2**31
"""Largest size in bytes of a file, unpacked: what claims more is no episode."""
MEMBERS = 256
"""Most arrays in a file."""
MOST_ROWS = 2**22
"""Most steps in a file."""


@final
class NpzFormat:
    """Reads and writes folders of .npz episodes."""

    def recognises(self, name: str) -> bool:
        path = Path(name)
        return path.is_dir() and any(path.glob("*.npz"))

    def open(self, name: str) -> NpzEpisodes:
        return NpzEpisodes(Path(name))

    def write(self, source: Dataset, path: Path) -> None:
        facts = source.facts
        make_folder(path)
        for number, episode in enumerate(source.episodes):
            if episode.length:
                data = io.BytesIO()
                np.savez_compressed(data, **_arrays(source, number))
                name = f"{number:06d}-{episode.length}.npz"
                write_new(path / name, [data.getvalue()])
        atomic_write_json(path / RECORDING, description(facts.env_id, facts.observation_space, facts.action_space))


def _arrays(source: Dataset, number: int) -> dict[str, Any]:
    """Return an episode in DreamerV3's form: arrival-aligned, with a row for the reset, whose action is 0."""
    episode = source.episodes[number]
    pieces = [source.read(number, *piece) for piece in chunks(episode.length)]
    out: dict[str, Any] = {
        key: np.concatenate([pieces[0].obs[key][:1], *(piece.obs[key][1:] for piece in pieces)])
        for key in pieces[0].obs
    }
    actions = np.concatenate([native_actions(source, piece) for piece in pieces])
    rewards = np.concatenate([np.asarray(piece.reward, np.float32) for piece in pieces])
    out["action"] = np.concatenate([np.zeros_like(actions[:1]), actions])
    out["reward"] = np.concatenate([np.zeros(1, np.float32), rewards])
    rows = np.arange(episode.length + 1)
    out["is_first"] = rows == 0
    out["is_last"] = (rows == episode.length) & (episode.terminated or episode.truncated)
    out["is_terminal"] = (rows == episode.length) & episode.terminated
    return out


@dataclass(frozen=True)
class _Header:
    """The declared form of an array in a file. offset: bytes before its data."""

    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int


@final
class NpzFile:
    """Reads the arrays of one .npz file by rows. Raises: ConfigError for a file that is damaged or made up to harm."""

    def __init__(self, path: Path):
        self.path = path
        try:
            self._file = open_regular(path)
            self._zip = zipfile.ZipFile(self._file)
            infos = self._zip.infolist()
        except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise refuse(
                path, f"it is no .npz file ({type(error).__name__})", fix="leave it out, or write it again"
            ) from error
        if len(infos) > MEMBERS:
            raise refuse(path, f"it has {len(infos)} arrays, at most {MEMBERS} are accepted")
        self._infos = {info.filename.removesuffix(".npy"): info for info in infos if info.filename.endswith(".npy")}
        total = sum(info.file_size for info in infos)
        if total > FILE_BYTES:
            raise refuse(path, f"it unpacks to {total:,} bytes, at most {FILE_BYTES:,} are accepted")
        self.headers = {key: self._header(key) for key in self._infos}
        self._open: dict[str, tuple[IO[bytes], int]] = {}

    def _header(self, key: str) -> _Header:
        if not key.isprintable() or "/" in key:
            raise refuse(self.path, "an array's name has control characters or a folder")
        info = self._infos[key]
        try:
            with self._zip.open(info) as file:
                version = np.lib.format.read_magic(file)
                read: Any = {
                    (1, 0): np.lib.format.read_array_header_1_0,
                    (2, 0): np.lib.format.read_array_header_2_0,
                }[version]
                shape, fortran, dtype = read(file)
                offset = file.tell()
        except Exception as error:  # zipfile and numpy raise errors of many kinds for bytes that are no array
            raise refuse(self.path, f"array {key!r} is damaged ({type(error).__name__})") from error
        if dtype.hasobject:
            raise refuse(self.path, f"array {key!r} holds pickled objects")
        if fortran and len(shape) > 1:
            raise refuse(self.path, f"array {key!r} is in Fortran order", fix="np.ascontiguousarray before saving")
        if shape and shape[0] > MOST_ROWS:
            raise refuse(self.path, f"array {key!r} has {shape[0]:,} rows, at most {MOST_ROWS:,} are accepted")
        size = int(np.prod(shape, dtype=object)) * dtype.itemsize
        if size != info.file_size - offset or not shape:
            raise refuse(self.path, f"array {key!r} declares {shape} {dtype}, which its bytes are not")
        return _Header(shape, dtype, offset)

    def rows(self, key: str, start: int, stop: int) -> np.ndarray:
        """Read rows [start, stop) of an array. Reading on is cheap, reading backwards begins anew."""
        header = self.headers[key]
        width = header.dtype.itemsize * int(np.prod(header.shape[1:]))
        file, at = self._open.pop(key, (None, 0))
        try:
            if file is None or at > start:
                file, at = self._zip.open(self._infos[key]), 0
                file.read(header.offset)
            while at < start:
                at += len(file.read(min(2**22 // max(1, width) + 1, start - at) * width)) // width
            data = file.read((stop - start) * width)
            values = np.frombuffer(data, header.dtype).reshape(stop - start, *header.shape[1:])
        except Exception as error:  # a damaged stream: zlib.error, BadZipFile, EOFError, ValueError
            raise refuse(self.path, f"array {key!r} is damaged ({type(error).__name__})") from error
        self._open[key] = (file, stop)
        return values

    def close(self) -> None:
        self._zip.close()
        self._file.close()


@dataclass(frozen=True)
class _Span:
    """An episode: rows [first, first + length] of a file."""

    path: Path
    first: int


@final
class NpzEpisodes(Dataset):
    """The episodes of a folder of .npz files."""

    def __init__(self, folder: Path):
        self._spans: list[_Span] = []
        self.episodes: list[EpisodeFacts] = []
        self._file: NpzFile | None = None
        ends: list[Ends] = []
        low, high, one_hot = np.array([np.inf]), np.array([-np.inf]), True
        missing: dict[str, None] = {}
        self._forms: dict[str, Any] = {}
        self._rows_more = 0
        for path in files_of(folder, ".npz"):
            file = NpzFile(path)
            self._check_form(file)
            for first, facts in _episodes(file, missing):
                self._spans.append(_Span(path, first))
                self.episodes.append(facts)
                if len(ends) < SAMPLED and not self._rows_more:
                    ends.append(_ends(file, first, facts))
            least, most, hot = action_range(file.rows, "action", [(0, file.headers["action"].shape[0])])
            low, high, one_hot = np.minimum(low, least), np.maximum(high, most), one_hot and hot
            file.close()
        self._align = find_alignment(ends) if not self._rows_more else Alignment(0, 0)
        env_id, action, _ = described(read_description(folder))
        encoded = False
        if action is None:
            action, encoded = guessed_actions(low, high, one_hot, self._forms["action"][1])
            missing["the action space: it is taken from the actions"] = None
        if not env_id:
            missing["the environment"] = None
        parts = {key: obs_part(key, *form) for key, form in self._forms.items() if key not in ("action", "reward")}
        self._names = shown_name(parts)
        space = obs_space({self._names[key]: part for key, part in parts.items()})
        self.facts = DatasetFacts("npz", space, action, env_id, (*missing, *self._align.notes), encoded)
        check_facts(self.facts, self.episodes)

    def _check_form(self, file: NpzFile) -> None:
        """Note the forms of the first file's arrays; refuse a file with others."""
        if "action" not in file.headers:
            raise refuse(file.path, "it has no array 'action'", fix="name the actions `action`, one row a step")
        forms = {
            key: (header.shape[1:], header.dtype)
            for key, header in file.headers.items()
            if key in ("action", "reward") or (key not in NOT_OBSERVED and not key.startswith("log_"))
        }
        actions = file.headers["action"].shape[0]
        counts = {key: file.headers[key].shape[0] for key in forms}
        more = max(counts.values()) - actions
        rows = {key: count - (more if key not in ("action", "reward") else 0) for key, count in counts.items()}
        if more not in (0, 1) or set(rows.values()) != {actions}:
            raise refuse(file.path, f"its arrays have unequal rows: {counts}"[:90], fix="one row a step in every array")
        if self._forms and (forms != self._forms or more != self._rows_more):
            odd = next((key for key in {**forms, **self._forms} if forms.get(key) != self._forms.get(key)), "rows")
            raise ConfigError(
                f"episode {file.path.name[:40]}: {odd!r} differs from the other episodes",
                cause=f"{forms.get(odd)} here, {self._forms.get(odd)} in the first file",
                fix="give all episodes the same arrays, shapes and dtypes",
            )
        self._forms, self._rows_more = forms, more

    def read(self, episode: int, start: int, stop: int) -> Steps:
        span = self._spans[episode]
        if self._file is None or self._file.path != span.path:
            self.close()
            self._file = NpzFile(span.path)
        file, first = self._file, span.first + start
        obs = {
            name: as_part(self.facts.observation_space[name], file.rows(key, first, span.first + stop + 1))
            for key, name in self._names.items()
        }
        action, reward = first + self._align.action, first + self._align.reward
        rewards = (
            file.rows("reward", reward, reward + stop - start) if "reward" in file.headers else np.zeros(stop - start)
        )
        return Steps(obs, file.rows("action", action, action + stop - start), np.asarray(rewards, np.float32))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _ends(file: NpzFile, first: int, facts: EpisodeFacts) -> Ends:
    reward = float(file.rows("reward", first, first + 1)[0]) if "reward" in file.headers else 0.0
    last = first + facts.length
    return Ends(facts.name, file.rows("action", first, first + 1)[0], file.rows("action", last, last + 1)[0], reward)


def _episodes(file: NpzFile, missing: dict[str, None]) -> list[tuple[int, EpisodeFacts]]:
    """Return the first row and the facts of each episode of a file, and note which arrays are missing."""
    more = max(header.shape[0] for header in file.headers.values()) - file.headers["action"].shape[0]
    rows = file.headers["action"].shape[0] + more

    def flag(name: str) -> np.ndarray | None:
        if name not in file.headers or file.headers[name].shape[0] > rows or len(file.headers[name].shape) != 1:
            return None
        return np.asarray(file.rows(name, 0, file.headers[name].shape[0]))

    first, last, terminal, discount = (flag(name) for name in (*FLAGS, "discount"))
    if "reward" not in file.headers:
        missing["rewards: they are taken as 0"] = None
    if terminal is None and discount is not None:
        terminal = discount == 0
    if terminal is None:
        missing["terminations: all episodes count as cut off"] = None
    starts = [0] if first is None else sorted({0, *np.flatnonzero(first).tolist()})
    found = []
    for start, stop in zip(starts, [*starts[1:], rows], strict=True):
        ended = bool(terminal is not None and len(terminal) and terminal[min(stop, len(terminal)) - 1])
        cut = stop < rows or last is None or bool(last[min(stop, len(last)) - 1])
        name = file.path.name if len(starts) == 1 else f"{file.path.name} row {start}"
        found.append((start, EpisodeFacts(name, stop - start - 1, ended, cut and not ended)))
    return found


__all__ = ["NpzFormat"]
