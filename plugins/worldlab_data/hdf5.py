"""An HDF5 file in the layout of D4RL or robomimic, or in any layout that a table beside it describes.

D4RL: arrays `observations`, `actions`, `rewards`, `terminals` and `timeouts` with one row a step, episode after episode.
robomimic: a group `data/demo_N` for each episode, with `obs/NAME`, `next_obs/NAME`, `actions`, `rewards` and `dones`.
Another layout: FILE.hdf5.toml, in the form of the tables D4RL and ROBOMIMIC below. `alignment = "arrival"` in it says that an
action and a reward stand with the observation that followed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import numpy as np

from worldlab.errors import ConfigError, one_line
from worldlab.experience.dataset import (
    CHUNK_BYTES,
    Dataset,
    DatasetFacts,
    EpisodeFacts,
    Steps,
    check_facts,
    chunks,
    native_actions,
)
from worldlab.runs.parse import parse_json
from worldlab.runs.storage import make_folder, read_toml
from worldlab_data.alignment import action_range
from worldlab_data.files import (
    as_part,
    described,
    description,
    guessed_actions,
    needs,
    obs_part,
    obs_space,
    refuse,
    shown_name,
)

D4RL: dict[str, Any] = {
    "observations": "observations",
    "next_observations": "next_observations",
    "actions": "actions",
    "rewards": "rewards",
    "terminals": "terminals",
    "timeouts": "timeouts",
}
ROBOMIMIC: dict[str, Any] = {
    "episodes": "data",
    "observations": "obs",
    "next_observations": "next_obs",
    "actions": "actions",
    "rewards": "rewards",
    "terminals": "dones",
}
SUFFIXES = (".hdf5", ".h5", ".hdf")
KEYS = {*D4RL, *ROBOMIMIC, "alignment", "env"}
MOST_EPISODES = 2**20
MOST_ROWS = 2**26
"""Most steps in an array: the flags that end episodes are read at once."""


@dataclass(frozen=True)
class Layout:
    """Where what is. episodes: the group whose groups are the episodes; "" if all are in the same arrays, one after the
    other. observations, next_observations: path of each observation by name. Paths are relative to an episode's group."""

    episodes: str = ""
    observations: dict[str, str] = field(default_factory=dict)
    next_observations: dict[str, str] = field(default_factory=dict)
    actions: str = "actions"
    rewards: str = ""
    terminals: str = ""
    timeouts: str = ""
    arrival: bool = False
    env: str = ""


@final
class Hdf5Format:
    """Reads HDF5 files, and writes them in D4RL's layout."""

    def recognises(self, name: str) -> bool:
        return Path(name).suffix.lower() in SUFFIXES and Path(name).is_file()

    def open(self, name: str) -> Hdf5Episodes:
        return Hdf5Episodes(Path(name))

    def write(self, source: Dataset, path: Path) -> None:
        h5py = needs("h5py", "hdf5")
        facts = source.facts
        make_folder(path.absolute().parent)
        keys = list(facts.observation_space)
        names = {key: "observations" if len(keys) == 1 else f"observations/{key}" for key in keys}
        with h5py.File(path, "w-") as file:
            for number, episode in enumerate(source.episodes):
                for start, stop in chunks(episode.length):
                    steps = source.read(number, start, stop)
                    last = np.arange(start, stop) == episode.length - 1
                    rows = {names[key]: values[:-1] for key, values in steps.obs.items()}
                    rows |= {f"next_{names[key]}": values[1:] for key, values in steps.obs.items()}
                    rows |= {"actions": native_actions(source, steps), "rewards": np.asarray(steps.reward, np.float32)}
                    rows |= {"terminals": last & episode.terminated, "timeouts": last & (not episode.terminated)}
                    for name, values in rows.items():
                        _append(file, name, values)
            entry = description(facts.env_id, facts.observation_space, facts.action_space)
            if len(keys) == 1:
                entry["names"] = {"observations": keys[0]}
            file.attrs["worldlab"] = json.dumps(entry)


def _append(file: Any, name: str, values: np.ndarray) -> None:
    if name not in file:
        rows = max(1, 2**20 // max(1, values[:1].nbytes))
        file.create_dataset(
            name,
            data=values,
            maxshape=(None, *values.shape[1:]),
            chunks=(min(rows, 1024), *values.shape[1:]),
            compression="gzip",
            compression_opts=1,
        )
        return
    array = file[name]
    array.resize(len(array) + len(values), axis=0)
    array[-len(values) :] = values


@final
class Arrays:
    """Reads the arrays of an HDF5 file. What leads to other files, or needs much memory to be read, is refused."""

    def __init__(self, path: Path):
        self.path = path
        self._h5py = needs("h5py", "hdf5")
        if path.is_symlink() and not path.resolve().is_file():
            raise refuse(path, "it is a link to nothing")
        try:
            self.file = self._h5py.File(path, "r")
        except (OSError, ValueError, RuntimeError) as error:
            raise refuse(path, "it is no HDF5 file", fix="download it again") from error

    def find(self, name: str) -> Any:
        """Return a group or array by path; None if it is not there. Links are followed by nobody."""
        node = self.file
        for part in name.split("/"):
            if not part.isprintable():
                raise refuse(self.path, "a name has control characters")
            link = node.get(part, getlink=True) if isinstance(node, self._h5py.Group) else None
            if link is None:
                return None
            if not isinstance(link, self._h5py.HardLink):
                raise refuse(self.path, f"{name!r} is a link, which may lead to another file")
            node = node[part]
        if isinstance(node, self._h5py.Dataset):
            self._check(name, node)
        return node

    def _check(self, name: str, array: Any) -> None:
        if array.is_virtual or array.external:
            raise refuse(self.path, f"{name!r} reads from other files")
        if array.dtype.kind not in "fiub" or not array.shape:
            raise refuse(
                self.path, f"{name!r} holds {array.dtype}, not rows of numbers", fix="leave it out of the layout"
            )
        piece = int(np.prod(array.chunks or (1,), dtype=object)) * array.dtype.itemsize
        if piece > CHUNK_BYTES:
            raise refuse(
                self.path, f"{name!r} is stored in pieces of {piece:,} bytes", fix="store it in smaller chunks"
            )

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        """Read rows [start, stop) of an array. Raises: ConfigError for a damaged file."""
        try:
            return np.asarray(self.find(name)[start:stop])
        except (OSError, RuntimeError, ValueError, TypeError) as error:
            raise refuse(self.path, f"{name!r} is damaged ({type(error).__name__})") from error

    def names(self, group: str) -> list[str]:
        """Return the names in a group, sorted, numbers in them by value; [] if it is no group."""
        node = self.find(group) if group else self.file
        if not isinstance(node, self._h5py.Group):
            return []
        return sorted(node, key=lambda name: (len(name), name))

    def below(self, path: str) -> dict[str, str]:
        """Return the arrays at a path, by name: that array alone under its own name, or those of a group."""
        node = self.find(path)
        if node is None:
            return {}
        if not isinstance(node, self._h5py.Group):
            return {path.rpartition("/")[2]: path}
        return {name: f"{path}/{name}" for name in self.names(path)}


def find_layout(arrays: Arrays) -> Layout:
    """Return the layout of a file: that of the table beside it, D4RL's or robomimic's."""
    beside = arrays.path.with_name(arrays.path.name + ".toml")
    if beside.is_file():
        try:
            table = read_toml(beside)
        except (OSError, ValueError) as error:
            raise refuse(beside, str(error), fix="correct the file") from error
        if unknown := sorted(set(table) - KEYS):
            raise ConfigError(
                one_line(f"{beside.name}: no key {unknown[0]!r}"),
                cause=f"keys: {', '.join(sorted(KEYS))}",
                fix="correct it",
            )
        return _layout(arrays, table)
    if arrays.find("actions") is not None and arrays.find("observations") is not None:
        return _layout(arrays, D4RL)
    if arrays.names("data"):
        return _layout(arrays, ROBOMIMIC)
    raise ConfigError(
        one_line(f"{arrays.path.name[:40]!r} has neither D4RL's nor robomimic's layout"),
        cause=one_line(f"it has: {', '.join(arrays.names('')[:20])}", 300),
        fix=f"say where what is in {beside.name}: observations = ..., actions = ... (docs/data.md)",
    )


def _layout(arrays: Arrays, table: Mapping[str, Any]) -> Layout:
    episodes = str(table.get("episodes", ""))
    first = next((f"{episodes}/{name}/" for name in arrays.names(episodes)), "") if episodes else ""

    def paths(key: str) -> dict[str, str]:
        value = table.get(key, "")
        given = value if isinstance(value, Mapping) else arrays.below(first + str(value)) if value else {}
        return {str(name): str(path).removeprefix(first) for name, path in given.items()}

    def there(key: str) -> str:
        path = str(table.get(key, ""))
        return path if path and arrays.find(first + path) is not None else ""

    observations = paths("observations")
    after = paths("next_observations")
    if len(observations) == len(after) == 1:
        after = {name: path for name, path in zip(observations, after.values(), strict=True)}
    return Layout(
        episodes,
        observations,
        after if set(after) == set(observations) else {},
        str(table.get("actions", "actions")),
        there("rewards"),
        there("terminals"),
        there("timeouts"),
        table.get("alignment") == "arrival",
        str(table.get("env", "")),
    )


@dataclass(frozen=True)
class _Span:
    """An episode: rows [first, first + length], or [first, first + length) where the next observations are stored."""

    prefix: str
    first: int


@final
class Hdf5Episodes(Dataset):
    """The episodes of an HDF5 file."""

    def __init__(self, path: Path):
        self._arrays = Arrays(path)
        self._layout = find_layout(self._arrays)
        self._spans: list[_Span] = []
        self.episodes: list[EpisodeFacts] = []
        missing: list[str] = []
        groups = self._arrays.names(self._layout.episodes) if self._layout.episodes else [""]
        if len(groups) > MOST_EPISODES:
            raise refuse(path, f"it has {len(groups):,} episodes, at most {MOST_EPISODES:,} are accepted")
        for name in groups:
            self._index(f"{self._layout.episodes}/{name}/" if name else "", name)
        entry = self._own_entry()
        env_id, action, names = described(entry)
        self.facts = self._read_facts(env_id or self._layout.env or self._robomimic_env(), action, names, missing)
        check_facts(self.facts, self.episodes)

    def _index(self, prefix: str, name: str) -> None:
        """Note the episodes of the arrays below a prefix."""
        layout, arrays = self._layout, self._arrays
        actions = arrays.find(prefix + layout.actions)
        first = next(iter(layout.observations.values()), "")
        obs = arrays.find(prefix + first) if first else None
        if actions is None or obs is None or not hasattr(obs, "shape"):
            raise refuse(arrays.path, f"episode {name or '0'} has no observations or actions", fix="correct the layout")
        rows = actions.shape[0]
        if rows > MOST_ROWS:
            raise refuse(arrays.path, f"it has {rows:,} rows, at most {MOST_ROWS:,} are accepted")
        self._more = obs.shape[0] - rows
        for path in (*layout.observations.values(), layout.rewards, layout.terminals, layout.timeouts):
            array = arrays.find(prefix + path) if path else None
            if path and (array is None or array.shape[0] not in (rows, rows + 1)):
                found = "missing" if array is None else f"{array.shape[0]} rows"
                raise refuse(arrays.path, f"{(prefix + path)!r}: {found}, actions have {rows}", fix="correct the file")
        terminal, timeout = (self._flags(prefix, path, rows) for path in (layout.terminals, layout.timeouts))
        if name:  # a group is one episode, whatever the flags inside say
            self._add(prefix, name, 0, rows, bool(terminal[-1:].any()), True)
            return
        stops = (np.flatnonzero(terminal | timeout) + 1).tolist()
        ended = set(stops)
        for start, stop in zip([0, *stops], [*stops, rows], strict=True):
            if stop > start:
                self._add(
                    prefix, f"{len(self.episodes)} (row {start})", start, stop, bool(terminal[stop - 1]), stop in ended
                )

    def _flags(self, prefix: str, path: str, rows: int) -> np.ndarray:
        """Return which rows an array flags: bool [rows]; none if there is no such array."""
        if not path:
            return np.zeros(rows, bool)
        return np.asarray(self._arrays.rows(prefix + path, 0, rows).astype(bool).reshape(rows, -1).any(1))

    def _add(self, prefix: str, name: str, start: int, stop: int, terminated: bool, ended: bool) -> None:
        # Without the observation that followed, the last decision of a cut episode is left out. That of a terminated one
        # stays, since its reward and its end matter most; its last observation then stands in for the one that followed.
        complete = bool(self._layout.next_observations) or self._more == 1
        length = stop - start - (not complete and (not terminated or self._layout.arrival))
        self._spans.append(_Span(prefix, start))
        self.episodes.append(EpisodeFacts(name, length, terminated, ended and not terminated))

    def _read_facts(self, env_id: str, action: Any, names: dict[str, str], missing: list[str]) -> DatasetFacts:
        layout, arrays, prefix = self._layout, self._arrays, self._spans[0].prefix
        forms = {key: arrays.find(prefix + path) for key, path in layout.observations.items()}
        parts = {key: obs_part(key, array.shape[1:], array.dtype) for key, array in forms.items()}
        self._names = {key: names.get(key, shown) for key, shown in shown_name(parts).items()}
        space = obs_space({self._names[key]: part for key, part in parts.items()})
        encoded = False
        if action is None:
            action, encoded = self._guess_actions()
            missing.append("the action space: it is taken from the actions")
        if not env_id:
            missing.append("the environment")
        if not layout.rewards:
            missing.append("rewards: they are taken as 0")
        if not layout.terminals:
            missing.append("terminations: all episodes count as cut off")
        if not layout.next_observations and self._more != 1 and not layout.arrival:
            missing.append(
                "the observation after an episode's last decision: the decision is left out, or where the episode"
                " terminated the observation before it is repeated"
            )
        return DatasetFacts("hdf5", space, action, env_id, (*missing, *self._suspicion()), encoded)

    def _guess_actions(self) -> tuple[Any, bool]:
        low, high, one_hot = np.array([np.inf]), np.array([-np.inf]), True
        dtype = np.dtype(np.float32)
        for prefix in dict.fromkeys(span.prefix for span in self._spans):
            array = self._arrays.find(prefix + self._layout.actions)
            dtype = array.dtype
            least, most, hot = action_range(self._arrays.rows, prefix + self._layout.actions, [(0, array.shape[0])])
            low, high, one_hot = np.minimum(low, least), np.maximum(high, most), one_hot and hot
        return guessed_actions(low, high, one_hot, dtype)

    def _suspicion(self) -> list[str]:
        """Return a note if all episodes begin with an action and a reward of 0, as data on arrival do."""
        layout = self._layout
        if layout.arrival or len(self._spans) < 2 or not layout.rewards:
            return []
        firsts = [
            self._arrays.rows(span.prefix + name, span.first, span.first + 1)
            for span in self._spans[:50]
            for name in (layout.actions, layout.rewards)
        ]
        if any(np.any(first) for first in firsts):
            return []
        return [
            'every episode begins with an action and a reward of 0: if they stand on arrival, say alignment = "arrival"'
        ]

    def _own_entry(self) -> object:
        text = self._arrays.file.attrs.get("worldlab")
        if not isinstance(text, str):
            return None
        try:
            return parse_json(text.encode())
        except ValueError as error:
            raise refuse(self._arrays.path, "its description is damaged") from error

    def _robomimic_env(self) -> str:
        """Return the name of the environment in robomimic's `env_args`."""
        group = self._arrays.find(self._layout.episodes) if self._layout.episodes else None
        text = group.attrs.get("env_args") if group is not None else None
        try:
            content = parse_json(text.encode()) if isinstance(text, str) else {}
        except ValueError:
            return ""
        name = content.get("env_name") if isinstance(content, dict) else None
        return name if isinstance(name, str) and name.isprintable() else ""

    def read(self, episode: int, start: int, stop: int) -> Steps:
        layout, span, rows = self._layout, self._spans[episode], self._arrays.rows
        first, last = span.first + start, span.first + stop
        obs = {}
        for key, path in layout.observations.items():
            before = rows(span.prefix + path, first, last)
            if layout.next_observations:
                after = rows(span.prefix + layout.next_observations[key], last - 1, last)
            else:
                after = rows(span.prefix + path, last, last + 1) if self._has_after(episode, stop) else before[-1:]
            part = self.facts.observation_space[self._names[key]]
            obs[self._names[key]] = as_part(part, np.concatenate([before, after]))
        shift = int(layout.arrival)
        action = rows(span.prefix + layout.actions, first + shift, last + shift)
        reward = (
            rows(span.prefix + layout.rewards, first + shift, last + shift)
            if layout.rewards
            else np.zeros(stop - start)
        )
        return Steps(obs, action, np.asarray(reward, np.float32).reshape(stop - start))

    def _has_after(self, episode: int, stop: int) -> bool:
        """Return whether the observation after decision `stop` - 1 is stored in the row that follows."""
        facts = self.episodes[episode]
        return stop < facts.length or self._more == 1 or self._layout.arrival or not facts.terminated

    def close(self) -> None:
        self._arrays.file.close()


__all__ = ["Hdf5Format"]
