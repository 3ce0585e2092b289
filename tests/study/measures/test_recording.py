"""Recorded episodes are aligned, reproducible, distinct, and unchanged by the cache."""

from __future__ import annotations

from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch
from measures_kit import FullyObserved, Short, record_fully_observed
from model_kit import build_model, gen

from worldlab.agent import Agent
from worldlab.experience.acting import ActingAgent
from worldlab.specs import ActionSpec, ArraySpec, ObsSpec
from worldlab.study.measures.cache import load_or_make
from worldlab.study.measures.ground_truth import HasTruth, find_layer, find_truth_reader
from worldlab.study.measures.recording import MAX_HOLD, Recording, record


def test_each_step_follows_from_its_previous_action():
    env, recording = FullyObserved(process_std=0.0), record_fully_observed(episodes=10, length=25, process_std=0.0)
    x, u = recording.data["vector"].astype(float), recording.data["prev_action"].astype(float)
    np.testing.assert_allclose(x[:, 1:], x[:, :-1] @ env.A.T + u[:, 1:] @ env.B.T, atol=1e-5)
    reward = -((x @ env.W) * x).sum(-1) - ((u @ env.U) * u).sum(-1)
    np.testing.assert_allclose(recording.data["reward"][:, 1:], reward[:, 1:], atol=1e-4)
    assert not u[:, 0].any() and not recording.data["reward"][:, 0].any()
    np.testing.assert_allclose(recording.truth, x, atol=1e-6)
    assert recording.truth_names == ("x[0]", "x[1]", "x[2]", "x[3]") and recording.noise is None


def test_recordings_depend_on_the_seed_only():
    one, again = record_fully_observed(episodes=10), record_fully_observed(episodes=10)
    assert one.sha256 == again.sha256
    other = record(FullyObserved, None, episodes=10, length=40, seed=1)
    assert other.sha256 != one.sha256
    starts = {episode[0].tobytes() for recording in (one, other) for episode in recording.data["vector"]}
    assert len(starts) == 20  # all episodes differ
    touched = replace(one, truth=one.truth + 1e-9)
    assert touched.sha256 != one.sha256


def test_actions_are_repeated_for_one_to_eight_decisions():
    action = record_fully_observed(episodes=20, length=100).data["prev_action"][:, 1:]
    changes = (action[:, 1:] != action[:, :-1]).any(-1)
    runs = np.diff(np.flatnonzero(np.concatenate([[True], changes[0], [True]])))
    assert runs.max() <= MAX_HOLD
    assert 1 / changes.mean() == pytest.approx((1 + MAX_HOLD) / 2, rel=0.1)  # uniform lengths of 1 to 8: 4.5 on average


def test_every_episode_is_in_one_split():
    recording = record_fully_observed(episodes=20, length=5)
    fit, stop, test = (recording.episodes(name).tolist() for name in ("fit", "validation", "test"))
    assert sorted(fit + stop + test) == list(range(20))
    assert (len(fit), len(stop), len(test)) == (8, 4, 8)
    episode, time = recording.frames("validation")
    assert set(episode) == set(stop) and len(episode) == 4 * 5 and set(time) == set(range(5))


def test_pads_ended_episodes_and_only_termination_sets_cont_to_zero():
    recording = record(Short, None, episodes=10, length=6, seed=0)
    assert recording.length.tolist() == [2, 3, 4, 5, 6, 6, 6, 6, 6, 6]
    assert recording.truth is None
    data = recording.data
    np.testing.assert_array_equal(recording.valid.sum(1), recording.length)
    assert data["vector"][2, :, 0].tolist() == [0, 1, 2, 3, 0, 0]
    assert data["cont"][2].tolist() == [1, 1, 1, 0, 0, 0] and data["cont"][3].tolist() == [1, 1, 1, 1, 1, 0]
    assert data["reward"][1].tolist() == [0, 7, 7, 0, 0, 0]
    assert data["is_first"].sum() == 10 and data["is_first"][:, 0].all()


class ConstantAgent(Agent):
    """Always chooses the same action."""

    def __init__(self) -> None:
        super().__init__(None, None)  # type: ignore[arg-type]

    def act(self, model, carry, features, state, generator, explore):
        assert explore
        return torch.full((len(features), 2), 0.25), state


def test_a_reference_agent_plays_every_second_episode_and_does_not_change_the_others():
    obs = ObsSpec((("vector", ArraySpec("vector", (4,))),))
    model = build_model(obs=obs, action=ActionSpec("continuous", 2))
    space = FullyObserved().action_space
    make_agent = lambda seed: ActingAgent(model, ConstantAgent(), space, gen(seed))  # noqa: E731
    mixed = record(FullyObserved, None, episodes=10, length=8, seed=0, make_reference_agent=make_agent)
    plain = record(FullyObserved, None, episodes=10, length=8, seed=0)
    assert (mixed.data["prev_action"][1::2, 1:] == 0.25).all()
    np.testing.assert_array_equal(mixed.data["vector"][::2], plain.data["vector"][::2])


def test_cached_arrays_are_reused_unless_damaged(tmp_path):
    recording, request, made = record_fully_observed(episodes=10, length=6), {"env": "shown", "seed": 0}, []

    def make():
        made.append(1)
        return recording.arrays()

    folder = tmp_path / "new"
    assert Recording.from_arrays(load_or_make(folder, "recording", request, make)).sha256 == recording.sha256
    again = Recording.from_arrays(load_or_make(folder, "recording", request, make))
    assert again.sha256 == recording.sha256 and again.truth_names == recording.truth_names and len(made) == 1
    assert again.noise is None and again.noise_names == ()
    (file,) = folder.iterdir()
    content = file.read_bytes()
    file.write_bytes(content[:-3] + b"\0\0\1")
    assert (
        Recording.from_arrays(load_or_make(folder, "recording", request, make)).sha256 == recording.sha256
        and len(made) == 2
    )
    file.write_bytes(b"nothing of the kind")
    for _ in range(2):
        load_or_make(folder, "recording", request, make)
    assert len(made) == 3
    load_or_make(folder, "recording", {**request, "seed": 1}, make)
    load_or_make(None, "recording", request, make)
    assert len(made) == 5 and len(list(folder.iterdir())) == 2


def test_finds_truth_below_wrappers_and_prefers_it_to_the_adapter():
    class Reads:
        def truth(self, env):
            return {"speed": np.array([env.unwrapped.t])}

    wrapped = gymnasium.Wrapper(gymnasium.Wrapper(FullyObserved()))
    assert find_layer(wrapped, HasTruth) is wrapped.unwrapped and find_layer(Short(), HasTruth) is None
    wrapped.reset(seed=0)
    assert list(find_truth_reader(Reads(), wrapped)()) == ["x"]
    short = Short()
    short.reset()
    assert find_truth_reader(Reads(), short)() == {"speed": [0]} and find_truth_reader(object(), short) is None
