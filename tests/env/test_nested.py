"""Nested observations are flattened by name, texts are left out, and what does not fit is named by its path."""

from __future__ import annotations

import logging

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from worldlab.env import wrappers
from worldlab.env.nested import flatten_space
from worldlab.env.spaces import obs_spec
from worldlab.errors import EnvError
from worldlab.settings import EnvSettings
from worldlab.specs import ArraySpec

PAIR = spaces.Box(-1, 1, (2,), np.float64)
PICTURE = spaces.Box(0, 255, (8, 8, 3), np.uint8)
NESTED = spaces.Dict(
    {
        "arm": spaces.Dict({"pose": PAIR, "name": spaces.Text(5), "joint": spaces.Tuple([PAIR, spaces.Discrete(3)])}),
        "eye": PICTURE,
        "mission": spaces.Text(9),
    }
)


def observation(second: int = 2) -> dict:
    arm = {"pose": np.array([0.1, 0.2]), "name": "left", "joint": (np.array([0.3, 0.4]), second)}
    return {"arm": arm, "eye": np.full((8, 8, 3), 7, np.uint8), "mission": "go"}


class Still(gymnasium.Env):
    """Has always the same observation."""

    action_space = spaces.Discrete(2)

    def __init__(self, space: spaces.Space, obs):
        self.observation_space, self.obs = space, obs

    def reset(self, *, seed=None, options=None):
        return self.obs, {}

    def step(self, action):
        return self.obs, 0.0, False, False, {}


def wrap(space: spaces.Space, obs) -> gymnasium.Env:
    return wrappers.wrap(Still(space, obs), EnvSettings(), name="Still-v0")


def test_entries_are_named_by_their_path_and_texts_are_left_out():
    env = wrap(NESTED, observation())
    assert dict(obs_spec(env.observation_space).entries) == {
        "arm/pose": ArraySpec("vector", (2,)),
        "arm/joint/0": ArraySpec("vector", (2,)),
        "arm/joint/1": ArraySpec("vector", (3,)),
        "eye": ArraySpec("image", (3, 8, 8)),
    }
    for obs in (env.reset()[0], env.step(0)[0]):
        assert {key: value.ravel()[:3].tolist() for key, value in obs.items()} == {
            "arm/pose": pytest.approx([0.1, 0.2]),
            "arm/joint/0": pytest.approx([0.3, 0.4]),
            "arm/joint/1": [0, 0, 1],
            "eye": [7, 7, 7],
        }


def test_a_tuple_is_named_by_positions():
    env = wrap(spaces.Tuple([PAIR, spaces.Discrete(2)]), (np.array([0.5, -0.5]), 1))
    assert {key: value.tolist() for key, value in env.reset()[0].items()} == {"0": [0.5, -0.5], "1": [0, 1]}


def test_a_dot_in_a_key_becomes_an_underscore():
    """Torch refuses it in the names of modules and buffers, and parts name theirs after observations."""
    env = wrap(spaces.Dict({"observation.state": PAIR}), {"observation.state": np.zeros(2)})
    assert list(env.reset()[0]) == ["observation_state"] == list(env.observation_space.spaces)


def test_a_sentence_names_the_text_once_for_all_copies_of_an_environment(caplog):
    space = spaces.Dict({"x": PAIR, "wish": spaces.Text(3)})
    with caplog.at_level(logging.WARNING, "worldlab"):
        for _ in range(2):
            assert list(flatten_space(space, "Wishful-v0")) == ["x"]
    (record,) = caplog.records
    assert record.getMessage().startswith("env Wishful-v0: the observation 'wish' is text")


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({**observation(), "arm": {**observation()["arm"], "joint": (np.zeros(2),)}}, "obs['arm/joint']"),
        ({**observation(), "arm": {"pose": np.zeros(2)}}, "obs['arm']"),
        (observation(second=3), "obs['arm/joint/1']"),
        ({"arm": observation()["arm"]}, "the observation"),
        ({**observation(), "arm": {**observation()["arm"], "pose": np.zeros(3)}}, "obs['arm/pose']"),
    ],
)
def test_what_does_not_fit_is_named_by_its_path(wrong, named):
    env = wrap(NESTED, observation())
    env.unwrapped.obs = wrong
    with pytest.raises(EnvError, match="breaks the declared space") as error:
        env.reset()
    assert named in error.value.message


def test_two_entries_of_one_name_are_refused():
    with pytest.raises(EnvError, match="two observations named 'a/b'") as error:
        wrap(spaces.Dict({"a": spaces.Dict({"b": PAIR}), "a/b": PAIR}), None)
    assert error.value.fix


def test_texts_alone_are_nothing_to_observe():
    with pytest.raises(EnvError, match="not a Dict with entries"):
        wrap(spaces.Dict({"said": spaces.Text(3)}), {"said": "hi"})
