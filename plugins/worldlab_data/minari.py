"""Minari's data sets, by path or by the id of a downloaded one. Younis et al. 2024, Farama Foundation.

The folder data/ holds metadata.json and main_data.hdf5. Both are read here, not by the package minari, which would build the
environment that the metadata name; h5py suffices. Writing needs the package.
"""

from __future__ import annotations

import io
import os
import re
from pathlib import Path
from typing import Any, final

import numpy as np
from gymnasium import spaces

from worldlab.errors import ConfigError, one_line
from worldlab.experience.dataset import Dataset, DatasetFacts, EpisodeFacts, Steps, check_facts, chunks, native_actions
from worldlab.runs.parse import parse_json
from worldlab.runs.storage import make_folder, read_json
from worldlab_data.files import as_part, inside, needs, obs_part, obs_space, refuse, shown_name
from worldlab_data.hdf5 import MOST_EPISODES, Arrays

MAIN, METADATA = "main_data.hdf5", "metadata.json"


@final
class MinariFormat:
    """Reads Minari's HDF5 data sets, and writes them without loss."""

    def recognises(self, name: str) -> bool:
        return _data(Path(name)) is not None

    def open(self, name: str) -> MinariEpisodes:
        root = Path(os.environ.get("MINARI_DATASETS_PATH", "~/.minari/datasets")).expanduser()
        folder = _data(Path(name)) or (_data(root / name) if ".." not in Path(name).parts else None)
        if folder is None:
            raise ConfigError(
                f"no Minari data set {one_line(name, 60)!r}",
                cause=f"neither a folder, nor an id below {one_line(root, 200)}; nothing is downloaded by itself",
                fix=f"minari download {one_line(name, 60)}",
            )
        return MinariEpisodes(folder)

    def write(self, source: Dataset, path: Path) -> None:
        minari = needs("minari", "minari")
        storage = needs("minari.dataset.minari_storage", "minari")
        facts = source.facts
        single = next(iter(facts.observation_space)) if len(facts.observation_space) == 1 else None
        space = facts.observation_space[single] if single else facts.observation_space
        spec = _spec_of(facts.env_id)
        make_folder(path)
        out = storage.MinariStorage.new(
            path.absolute() / "data", space, facts.action_space, env_spec=spec, data_format="hdf5", jpeg_encoding=False
        )
        out.update_metadata(
            {
                "dataset_id": f"worldlab/{_slug(path.name)}-v0",
                "minari_version": minari.__version__,
                "algorithm_name": "worldlab",
            }
        )
        for number, episode in enumerate(source.episodes):
            if episode.length:
                out.update_episodes([_buffer(minari, source, number, single)])


def _buffer(minari: Any, source: Dataset, number: int, single: str | None) -> Any:
    """Return an episode in Minari's form."""
    episode = source.episodes[number]
    pieces = [source.read(number, *piece) for piece in chunks(episode.length)]
    obs: Any = {
        key: np.concatenate([pieces[0].obs[key][:1], *(piece.obs[key][1:] for piece in pieces)])
        for key in pieces[0].obs
    }
    last = np.arange(episode.length) == episode.length - 1
    return minari.data_collector.EpisodeBuffer(
        observations=obs[single] if single else obs,
        actions=np.concatenate([native_actions(source, piece) for piece in pieces]),
        rewards=np.concatenate([piece.reward for piece in pieces]).astype(np.float32),
        terminations=last & episode.terminated,
        truncations=last & episode.truncated,
        infos={},
    )


def _spec_of(env_id: str) -> Any:
    """Return Gymnasium's specification of an environment; None if Gymnasium does not know the id."""
    import gymnasium

    try:
        return gymnasium.spec(env_id) if env_id and ":" not in env_id else None
    except gymnasium.error.Error:
        return None


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-") or "recording"


def _data(path: Path) -> Path | None:
    """Return the folder of a data set that holds its files; None if there is none."""
    return next((folder for folder in (path / "data", path) if (folder / METADATA).is_file()), None)


@final
class MinariEpisodes(Dataset):
    """The episodes of a Minari data set."""

    def __init__(self, folder: Path):
        try:
            metadata = read_json(inside(folder, METADATA))
        except (OSError, ValueError) as error:
            raise refuse(folder / METADATA, "it is damaged", fix="download the data set again") from error
        if not isinstance(metadata, dict) or metadata.get("data_format", "hdf5") != "hdf5":
            found = metadata.get("data_format") if isinstance(metadata, dict) else None
            raise refuse(folder, f"its data format {found!r} is not hdf5", fix="create it with data_format='hdf5'")
        self._arrays = Arrays(inside(folder, MAIN))
        action = _space(metadata, "action_space")
        self._leaves = _leaves(_space(metadata, "observation_space"))
        self._groups: list[str] = []
        self.episodes: list[EpisodeFacts] = []
        names = [name for name in self._arrays.names("") if name.startswith("episode_")]
        if len(names) > MOST_EPISODES:
            raise refuse(folder, f"it has {len(names):,} episodes, at most {MOST_EPISODES:,} are accepted")
        for name in names:
            self._index(name)
        parts = {key: obs_part(key, space.shape, space.dtype) for key, space in self._leaves.items()}
        self._names = shown_name({key or "obs": part for key, part in parts.items()})
        space = obs_space({self._names[key or "obs"]: part for key, part in parts.items()})
        env_id = _env_id(metadata)
        self.facts = DatasetFacts("minari", space, action, env_id, () if env_id else ("the environment",))
        check_facts(self.facts, self.episodes)

    def _index(self, group: str) -> None:
        """Check the arrays of an episode, and note its length and its end."""
        arrays = self._arrays
        found = {name: arrays.find(f"{group}/{name}") for name in ("actions", "rewards", "terminations", "truncations")}
        if any(array is None for array in found.values()):
            raise refuse(arrays.path, f"{group} lacks actions, rewards, terminations or truncations")
        rows = {array.shape[0] for array in found.values()}
        if len(rows) != 1:
            raise refuse(arrays.path, f"{group} has arrays of {sorted(rows)} rows")
        length = rows.pop()
        for key in self._leaves:
            path = _obs_path(group, key)
            array = _jpeg(arrays, path) if _is_jpeg(arrays, path) else arrays.find(path)
            if array is None or array.shape[0] != length + 1:
                raise refuse(arrays.path, f"{group} has not {length + 1} observations {key!r}")
        last = [
            bool(np.asarray(arrays.rows(f"{group}/{name}", max(0, length - 1), length)).any())
            for name in ("terminations", "truncations")
        ]
        self._groups.append(group)
        self.episodes.append(EpisodeFacts(group.removeprefix("episode_"), length, last[0], last[1] and not last[0]))

    def read(self, episode: int, start: int, stop: int) -> Steps:
        group, obs = self._groups[episode], {}
        for key in self._leaves:
            name, path = self._names[key or "obs"], _obs_path(group, key)
            part = self.facts.observation_space[name]
            if _is_jpeg(self._arrays, path):
                values = _decode(self._arrays, path, start, stop + 1, part)
            else:
                values = self._arrays.rows(path, start, stop + 1)
            if values.shape[1:] not in (self._leaves[key].shape, part.shape):
                raise ConfigError(
                    one_line(
                        f"episode {self.episodes[episode].name}: observation {key!r} has the shape {values.shape[1:]}"
                    ),
                    cause=f"the data set declares {self._leaves[key].shape}",
                    fix="leave the episode out",
                )
            obs[name] = as_part(part, values)
        actions = self._arrays.rows(f"{group}/actions", start, stop)
        return Steps(obs, actions, self._arrays.rows(f"{group}/rewards", start, stop).astype(np.float32))

    def close(self) -> None:
        self._arrays.file.close()


def _obs_path(group: str, key: str) -> str:
    return f"{group}/observations/{key}" if key else f"{group}/observations"


def _jpeg(arrays: Arrays, path: str) -> Any:
    return arrays.file[path]


def _is_jpeg(arrays: Arrays, path: str) -> bool:
    """Return whether an array holds compressed pictures, each of its own number of bytes."""
    parent, _, name = path.rpartition("/")
    group = arrays.find(parent)
    link = None if group is None or not hasattr(group, "keys") else group.get(name, getlink=True)
    if group is None or type(link).__name__ != "HardLink":
        return False
    return getattr(group[name], "dtype", np.dtype("f4")).kind == "O"


def _decode(arrays: Arrays, path: str, start: int, stop: int, part: spaces.Space) -> np.ndarray:
    """Decode pictures [start, stop), each of which must have the declared size."""
    from PIL import Image

    out = []
    try:
        for data in arrays.file[path][start:stop]:
            with Image.open(io.BytesIO(np.asarray(data, np.uint8).tobytes()), formats=("JPEG", "PNG")) as picture:
                assert part.shape is not None
                if picture.size != (part.shape[1], part.shape[0]):
                    raise ValueError(f"a picture of {picture.size}")
                out.append(np.asarray(picture, np.uint8).reshape(part.shape))
    except (OSError, ValueError, TypeError) as error:
        raise refuse(arrays.path, f"{path!r} is damaged ({type(error).__name__})") from error
    return np.stack(out)


def _space(metadata: dict[str, Any], key: str) -> spaces.Space:
    """Return a space of the metadata. It is not taken from the environment, which would have to be built."""
    text = metadata.get(key)
    try:
        assert isinstance(text, str)
        # Bounds may be infinite, which is no JSON; bounds of observations are not used, those of actions must be finite.
        return _build(parse_json(re.sub(r"-?Infinity|NaN", "0", text).encode()))
    except (AssertionError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"the metadata of the Minari data set give no {key}",
            cause="a Box, Discrete, or Dict of Boxes is accepted; an environment is not built because data name it",
            fix="create the data set with explicit spaces",
        ) from error


def _build(value: Any) -> spaces.Space:
    if value["type"] == "Dict":
        return spaces.Dict({str(key): _build(part) for key, part in value["subspaces"].items()})
    if value["type"] == "Discrete":
        return spaces.Discrete(int(value["n"]), start=int(value["start"]))
    if value["type"] != "Box":
        raise ValueError(value["type"])
    dtype, shape = np.dtype(str(value["dtype"])), tuple(int(side) for side in value["shape"])
    if dtype.kind not in "fiub" or np.prod(shape, dtype=float) > 2**28:
        raise ValueError("no Box of numbers")
    low, high = (np.broadcast_to(np.asarray(value[name], dtype), shape) for name in ("low", "high"))
    return spaces.Box(low, np.maximum(low, high), shape, dtype.type)


def _leaves(space: spaces.Space, prefix: str = "") -> dict[str, Any]:
    """Return the Boxes of an observation space by path, "" for a single one."""
    if isinstance(space, spaces.Dict):
        found: dict[str, Any] = {}
        for key, part in space.items():
            found |= _leaves(part, f"{prefix}/{key}" if prefix else key)
        return found
    if not isinstance(space, spaces.Box):
        raise ConfigError(
            one_line(f"observation {prefix!r} of the Minari data set is a {type(space).__name__}"),
            cause="accepted are Boxes and Dicts of them",
            fix="create the data set from a wrapped environment",
        )
    return {prefix: space}


def _env_id(metadata: dict[str, Any]) -> str:
    text = metadata.get("env_spec")
    try:
        value = parse_json(re.sub(r"-?Infinity|NaN", "0", text).encode()) if isinstance(text, str) else None
    except ValueError:
        return ""
    name = value.get("id") if isinstance(value, dict) else None
    return name if isinstance(name, str) and name.isprintable() else ""


__all__ = ["MinariFormat"]
