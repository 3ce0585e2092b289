"""Writes LeRobot's version 3, without loss: pictures are PNG files inside the tables, not videos."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from worldlab.experience.dataset import Dataset, chunks, native_actions
from worldlab.runs.storage import atomic_write_json, make_folder
from worldlab_data.files import RECORDING, description, needs

FPS = 30
"""Frames per second, which LeRobot requires; the data do not say how long a decision takes."""
DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
FIRST = {"chunk_index": 0, "file_index": 0}
COUNTERS = ("frame_index", "episode_index", "index", "task_index")


def write(source: Dataset, path: Path) -> None:
    """Write all episodes of a data set to a new folder. Raises: PluginError without pyarrow; StorageError."""
    arrow, parquet = needs("pyarrow", "lerobot"), needs("pyarrow.parquet", "lerobot")
    facts = source.facts
    names = {key: f"observation.{_lerobot_name(key)}" for key in facts.observation_space}
    features = _features(source, names)
    file = path / DATA.format(**FIRST)
    make_folder(file.parent)
    schema = arrow.schema([(key, _arrow_type(arrow, feature)) for key, feature in features.items()])
    rows, episodes = 0, []
    with parquet.ParquetWriter(file, schema) as out:
        for number, episode in enumerate(source.episodes):
            if not episode.length:
                continue
            for start, stop in chunks(episode.length):
                columns = _columns(source, number, start, stop, names, rows + start, len(episodes))
                out.write_table(
                    arrow.table({key: _cells(arrow, columns[key], schema.field(key).type) for key in features}, schema)
                )
            episodes.append((rows, rows + episode.length + 1))
            rows += episode.length + 1
    _write_meta(arrow, parquet, path, features, episodes)
    entry = description(facts.env_id, facts.observation_space, facts.action_space)
    entry["names"] = {names[key].removeprefix("observation."): key for key in names}
    atomic_write_json(path / "meta" / RECORDING, entry)


def _lerobot_name(key: str) -> str:
    return {"vector": "state", "image": "images.image"}.get(key, key)


def _features(source: Dataset, names: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Return the features of info.json."""
    action = source.facts.action_space
    whole = isinstance(action, spaces.Discrete)
    shape = [1] if whole else [int(np.prod(action.shape or ()))]
    found: dict[str, dict[str, Any]] = {}
    for key, part in source.facts.observation_space.items():
        assert part.shape is not None
        image = part.dtype == np.uint8
        axes = ["height", "width", "channels"] if image else None
        found[names[key]] = {"dtype": "image" if image else "float32", "shape": list(part.shape), "names": axes}
    found["action"] = {"dtype": "int64" if whole else "float32", "shape": shape, "names": None}
    found["next.reward"] = {"dtype": "float32", "shape": [1], "names": None}
    found["next.done"] = {"dtype": "bool", "shape": [1], "names": None}
    found["next.terminated"] = {"dtype": "bool", "shape": [1], "names": None}
    found["timestamp"] = {"dtype": "float32", "shape": [1], "names": None}
    for key in COUNTERS:
        found[key] = {"dtype": "int64", "shape": [1], "names": None}
    return found


def _arrow_type(arrow: Any, feature: dict[str, Any]) -> Any:
    if feature["dtype"] == "image":
        return arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
    kind = {"float32": arrow.float32(), "int64": arrow.int64(), "bool": arrow.bool_()}[feature["dtype"]]
    return kind if feature["shape"] == [1] else arrow.list_(kind, feature["shape"][0])


def _columns(
    source: Dataset, number: int, start: int, stop: int, names: dict[str, str], first: int, index: int
) -> dict[str, np.ndarray]:
    """Return the columns of a piece of an episode. The row after its last decision holds the observation alone."""
    episode = source.episodes[number]
    steps = source.read(number, start, stop)
    more = stop == episode.length
    count = stop - start + more
    frame = start + np.arange(count)
    action = native_actions(source, steps).reshape(stop - start, -1)
    action = action.astype(np.int64 if isinstance(source.facts.action_space, spaces.Discrete) else np.float32)
    last = frame == episode.length - 1
    columns = {names[key]: values if more else values[:-1] for key, values in steps.obs.items()}
    return columns | {
        "action": np.concatenate([action, np.zeros_like(action[: int(more)])]),
        "next.reward": np.concatenate([steps.reward, np.zeros(int(more))]).astype(np.float32),
        "next.done": last & (episode.terminated or episode.truncated),
        "next.terminated": last & episode.terminated,
        "timestamp": (frame / FPS).astype(np.float32),
        "frame_index": frame,
        "episode_index": np.full(count, index),
        "index": first + np.arange(count),
        "task_index": np.zeros(count, np.int64),
    }


def _cells(arrow: Any, values: np.ndarray, kind: Any) -> Any:
    if arrow.types.is_struct(kind):
        return arrow.array([{"bytes": _png(value), "path": None} for value in values], kind)
    if arrow.types.is_fixed_size_list(kind):
        return arrow.FixedSizeListArray.from_arrays(arrow.array(values.reshape(-1)), kind.list_size)
    return arrow.array(values.reshape(-1), kind)


def _png(image: np.ndarray) -> bytes:
    """Return an image [H, W, C] as PNG, with as many channels as it has."""
    from PIL import Image

    data = io.BytesIO()
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    picture.save(data, "PNG")
    return data.getvalue()


def _write_meta(
    arrow: Any, parquet: Any, path: Path, features: dict[str, Any], episodes: list[tuple[int, int]]
) -> None:
    """Write info.json, the table of tasks and the table of episodes."""
    frames = episodes[-1][1] if episodes else 0
    info = {
        "codebase_version": "v3.0",
        "robot_type": None,
        "total_episodes": len(episodes),
        "total_frames": frames,
        "total_tasks": 1,
        "chunks_size": 1000,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": FPS,
        "splits": {"train": f"0:{len(episodes)}"},
        "data_path": DATA,
        "video_path": None,
        "features": features,
    }
    make_folder(path / "meta" / "episodes" / "chunk-000")
    atomic_write_json(path / "meta" / "info.json", info)
    tasks = arrow.table({"task_index": arrow.array([0]), "task": arrow.array(["recorded"])})
    pandas = (
        b'{"index_columns": ["task"], "column_indexes": [], "columns": [{"name": "task_index", "field_name": "task_index",'
        b' "pandas_type": "int64", "numpy_type": "int64", "metadata": null}, {"name": "task", "field_name": "task",'
        b' "pandas_type": "unicode", "numpy_type": "object", "metadata": null}], "pandas_version": "2.0.0"}'
    )  # lerobot looks tasks up by the index of a data frame
    parquet.write_table(tasks.replace_schema_metadata({b"pandas": pandas}), path / "meta" / "tasks.parquet")
    count = len(episodes)
    starts, stops = [start for start, _ in episodes], [stop for _, stop in episodes]
    table = arrow.table(
        {
            "episode_index": arrow.array(range(count)),
            "tasks": arrow.array([["recorded"]] * count),
            "length": arrow.array([stop - start for start, stop in episodes]),
            "data/chunk_index": arrow.array([0] * count),
            "data/file_index": arrow.array([0] * count),
            "dataset_from_index": arrow.array(starts),
            "dataset_to_index": arrow.array(stops),
            "meta/episodes/chunk_index": arrow.array([0] * count),
            "meta/episodes/file_index": arrow.array([0] * count),
        }
    )
    parquet.write_table(table, path / "meta" / "episodes" / "chunk-000" / "file-000.parquet")


__all__ = ["write"]
