"""Recorded episodes made up by a formula, in memory, and what the tests of data formats compare."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from gymnasium import spaces

from worldlab.env.spaces import action_spec, record_schema
from worldlab.experience.data_records import EpisodeRecords, sha256_of
from worldlab.experience.dataset import Dataset, DatasetFacts, EpisodeFacts, Steps, chunks, native_actions

BOX = spaces.Box(np.array([-2.0, -0.4], np.float32), np.array([2.0, 0.4], np.float32), dtype=np.float32)
DISCRETE = spaces.Discrete(3)


@dataclass
class Made(Dataset):
    """Episodes in memory. all: obs {key: [T + 1, ...]}, action [T, ...], reward [T] of each."""

    facts: DatasetFacts
    episodes: list[EpisodeFacts]
    all: list[Steps]

    def read(self, episode: int, start: int, stop: int) -> Steps:
        steps = self.all[episode]
        obs = {key: values[start : stop + 1] for key, values in steps.obs.items()}
        return Steps(obs, steps.action[start:stop], steps.reward[start:stop])


def made(
    lengths: tuple[int, ...] = (4, 7, 300),
    *,
    image: bool = False,
    vector: bool = True,
    action: spaces.Space = BOX,
    env_id: str = "Pendulum-v1",
    ends: str = "tc-",
    seed: int = 0,
) -> Made:
    """Make up episodes. ends: how each ends, in turn: (t)erminated, (c)ut or (-) not yet."""
    rng = np.random.default_rng(seed)
    parts: dict[str, spaces.Space] = {}
    if image:
        parts["image"] = spaces.Box(0, 255, (8, 12, 3), np.uint8)
    if vector:
        parts["vector"] = spaces.Box(-np.inf, np.inf, (3,), np.float32)
    episodes, everything = [], []
    for index, length in enumerate(lengths):
        obs = {
            key: rng.integers(0, 256, (length + 1, *part.shape)).astype(np.uint8)
            if part.dtype == np.uint8
            else rng.normal(size=(length + 1, *part.shape)).astype(np.float32)
            for key, part in parts.items()
        }
        if isinstance(action, spaces.Discrete):
            taken = rng.integers(0, action.n, length)
            taken[0] = 1  # a first action of 0 could stand for a reset
        else:
            taken = rng.uniform(action.low, action.high, (length, *action.shape)).astype(np.float32)
        everything.append(Steps(obs, taken, rng.normal(size=length).astype(np.float32)))
        end = ends[index % len(ends)]
        episodes.append(EpisodeFacts(str(index), length, end == "t", end == "c"))
    return Made(DatasetFacts("made", spaces.Dict(parts), action, env_id), episodes, everything)


def whole(dataset: Dataset, episode: int) -> Steps:
    """Read an episode piece by piece, with its actions in the data set's action space."""
    pieces = [dataset.read(episode, *piece) for piece in chunks(dataset.episodes[episode].length)]
    obs = {
        key: np.concatenate([pieces[0].obs[key][:1], *(piece.obs[key][1:] for piece in pieces)])
        for key in pieces[0].obs
    }
    action = np.concatenate([native_actions(dataset, piece) for piece in pieces])
    return Steps(obs, action, np.concatenate([piece.reward for piece in pieces]))


def assert_same(got: Dataset, want: Dataset) -> None:
    """Assert that two data sets are equal bit for bit, in the actions of the environment."""
    assert [(e.length, e.terminated) for e in got.episodes] == [(e.length, e.terminated) for e in want.episodes]
    assert got.facts.observation_space == want.facts.observation_space
    assert got.facts.action_space == want.facts.action_space and got.facts.env_id == want.facts.env_id
    for episode in range(len(want.episodes)):
        one, other = whole(got, episode), whole(want, episode)
        for key in other.obs:
            assert one.obs[key].dtype == other.obs[key].dtype
            np.testing.assert_array_equal(one.obs[key], other.obs[key])
        np.testing.assert_array_equal(one.action, other.action)
        np.testing.assert_array_equal(one.reward, other.reward)
    assert digest(got) == digest(want)


def digest(dataset: Dataset) -> str:
    """Return the hash of all records."""
    schema = record_schema(dataset.facts.observation_space, action_spec(dataset.facts.action_space))
    return sha256_of(EpisodeRecords(dataset, schema), range(len(dataset.episodes)))


def write_video(path: Path, frames: np.ndarray) -> None:
    """Write frames uint8 [T, H, W, 3] without loss. Skips the test where there is no encoder."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as out:
        stream = out.add_stream("ffv1", rate=10)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "bgr0"
        for frame in frames:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        out.mux(stream.encode())
