"""Tests of playback: it returns the recorded steps, in order, for every model that trains on them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from worldlab_data.run_folder import RecordedRun

import worldlab
from worldlab.errors import ConfigError
from worldlab.experience.playback import Playback
from worldlab.experience.replay import Replay
from worldlab.runs import folder as runs

SCHEMA = {
    "vector": ((2,), "float32"),
    "prev_action": ((1,), "float32"),
    "reward": ((), "float32"),
    "cont": ((), "float32"),
    "is_first": ((), "bool"),
}
EPISODES = ((3, 5, 4), (6, 6))
"""Decisions of each episode, by stream; the last episode of a stream has not ended."""


def record(env: int, episode: int, step: int) -> dict:
    """Build a step that encodes its stream and number; the reward is the number."""
    return {
        "vector": np.array([10 * env + episode, step], np.float32),
        "prev_action": np.array([0.0], np.float32),
        "reward": np.float32(step),
        "cont": np.float32(1),
        "is_first": np.bool_(step == 0),
    }


@pytest.fixture
def source(tmp_path) -> Path:
    replay = Replay(SCHEMA, 100, 2, tmp_path / "source" / "replay")
    for env, episodes in enumerate(EPISODES):
        for episode, length in enumerate(episodes):
            for step in range(length + 1):
                replay.append(env, record(env, episode, step))
    replay.close()
    return tmp_path / "source"


def everything(replay: Replay, env: int) -> list[tuple[float, float]]:
    rows = np.empty((1, int(replay._totals[env]), 2), np.float32)
    replay._copy(env, 0, rows.shape[1], 0, {"vector": rows})
    return [(float(a), float(b)) for a, b in rows[0]]


def test_a_step_is_a_decision_of_each_stream_and_the_reset_that_follows_an_ending(source):
    replay = Replay(SCHEMA, 100, 2)
    played = Playback(RecordedRun(source), replay)
    played.start()
    assert [everything(replay, env) for env in (0, 1)] == [[(0, 0)], [(10, 0)]]
    for _ in range(4):
        played.begin()
        assert played.end() == 2
    assert everything(replay, 0) == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1)]
    assert everything(replay, 1) == [(10, step) for step in range(5)]
    assert played.finished == [(1 + 2 + 3, 3)]


def test_two_resets_in_a_row_are_no_decision(tmp_path):
    """A recording that was resumed right after the end of an episode contains two resets in a row."""
    recorded = Replay(SCHEMA, 100, 1, tmp_path / "source" / "replay")
    for step in (0, 1, 2, 0, 0, 1, 0, 1):
        recorded.append(0, record(0, 0, step))
    recorded.close()
    replay = Replay(SCHEMA, 100, 1)
    played = Playback(RecordedRun(tmp_path / "source"), replay)
    played.start()
    assert [played.end() for _ in range(4)] == [1] * 4 and played.decisions == 4
    assert [step for _, step in everything(replay, 0)] == [0, 1, 2, 0, 0, 1, 0, 1]
    assert played.finished == [(3, 2), (1, 1)]


def test_a_recording_without_its_beginning_is_an_error(tmp_path):
    recorded = Replay(SCHEMA, 32, 1, tmp_path / "source" / "replay")
    for step in range(200):
        recorded.append(0, record(0, 0, step))
    recorded.prune()
    recorded.close()
    with pytest.raises(ConfigError, match="lacks its beginning"):
        Playback(RecordedRun(tmp_path / "source"), Replay(SCHEMA, 32, 1))


def test_playback_reports_its_length_and_ends_with_an_error(source):
    played = Playback(RecordedRun(source), Replay(SCHEMA, 100, 2))
    assert played.decisions == 2 * min(map(sum, EPISODES))
    played.start()
    for _ in range(12):
        played.end()
    with pytest.raises(ConfigError, match="ends after 24 decisions"):
        played.end()


def test_playback_continues_in_the_middle_of_an_episode(source, tmp_path):
    whole, part = Replay(SCHEMA, 100, 2), Replay(SCHEMA, 100, 2, tmp_path / "own")
    first = Playback(RecordedRun(source), whole)
    first.start()
    for _ in range(9):
        first.end()
    begun = Playback(RecordedRun(source), part)
    begun.start()
    for _ in range(5):
        begun.end()
    position = part.position()
    part.close()
    resumed = Replay.open(tmp_path / "own", SCHEMA, 100, 2, position=position)
    rest = Playback(RecordedRun(source), resumed)
    rest.start()
    for _ in range(4):
        rest.end()
    assert [everything(resumed, env) for env in (0, 1)] == [everything(whole, env) for env in (0, 1)]
    assert begun.finished + rest.finished == first.finished and len(first.finished) == 3


def test_the_hash_depends_on_the_records_only(source, tmp_path):
    replay = Replay(SCHEMA, 100, 2)
    digest = hashlib.sha256()
    for env, episodes in enumerate(EPISODES):
        for episode, length in enumerate(episodes):
            for step in range(length + 1):
                row = np.zeros(1, replay._dtype)
                for key, value in record(env, episode, step).items():
                    row[key] = value
                digest.update(row.tobytes())
    assert Playback(RecordedRun(source), replay).sha256 == digest.hexdigest()


def test_a_recording_that_does_not_fit_is_an_error(source, tmp_path):
    with pytest.raises(ConfigError, match="no recorded experience"):
        Playback(RecordedRun(tmp_path / "nowhere"), Replay(SCHEMA, 100, 2))
    with pytest.raises(ConfigError, match=r"recorded with env\.num_envs 2, this run has 3"):
        Playback(RecordedRun(source), Replay(SCHEMA, 100, 3))
    with pytest.raises(ConfigError, match="other observations"):
        Playback(RecordedRun(source), Replay({**SCHEMA, "vector": ((3,), "float32")}, 100, 2))


TINY = {
    "train": {
        "prefill": 48,
        "pretrain": 2,
        "ratio": 0.05,
        "batch_size": 2,
        "batch_length": 8,
        "starts": 8,
        "threads": 1,
    },
    "agent.horizon": 3,
    "model.units": 16,
    "eval": {"every": 0, "final_episodes": 1},
    "env.time_limit": 20,
    "log": {"pictures": 0, "track": ["none"], "every": 48},
}


@pytest.mark.slow
@pytest.mark.usefixtures("blank_plots")
def test_models_train_on_identical_steps_and_the_run_records_the_source(tmp_path):
    def run(name: str, **more):
        settings = {**TINY, **more.pop("settings", {})}
        options = {"preset": "laptop", "steps": 96, "device": "cpu", "run": tmp_path / name, **more}
        return worldlab.train("CartPole", settings=settings, **options)

    played = run("played")
    shared = {"data": str(played.path)}
    one = run("one", encoder="vae", seed=1, settings=shared)
    other = run("other", encoder="flow", seed=2, settings=shared)
    contents = [sorted((run.path / "replay").glob("seg-*.log")) for run in (played, one, other)]
    records = [b"".join(path.read_bytes() for path in files) for files in contents]
    assert records[1] == records[2] == records[0][: len(records[1])] and len(records[1]) > 96
    said = [runs.RunFolder.open(run.path).read_run_json()["data"] for run in (one, other)]
    assert said[0]["sha256"] == said[1]["sha256"] and said[0]["decisions"] == 96
    assert one.result is not None and one.result["updates"] == other.result["updates"] > 0
    with pytest.raises(ConfigError, match="96 decisions, steps is 200"):
        run("longer", steps=200, settings=shared)
    with pytest.raises(ConfigError, match="learns from the episodes it plays"):
        run("cma", agent="cma", settings={**shared, "agent.where": "real"})
