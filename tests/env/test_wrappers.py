"""The boundary: what passes it, what it refuses, and the arithmetic of repeats, limits and resizing."""

from __future__ import annotations

import math

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from worldlab.env import wrappers
from worldlab.env.resize import area_weights, resize
from worldlab.env.wrappers import CheckedEnv
from worldlab.errors import EnvError
from worldlab.settings import EnvSettings

BOX = spaces.Box(-1, 1, (2, 2), np.float64)


class Scripted(gymnasium.Env):
    """Answers what it is told; reward t at step t; terminates at step `end`."""

    def __init__(self, space, obs, end=10**9, action_space=None):
        self.observation_space, self.obs, self.end = space, obs, end
        self.action_space = action_space or spaces.Discrete(2)
        self.t = 0

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return self.obs, {}

    def step(self, action):
        self.t += 1
        return self.obs, float(self.t), self.t >= self.end, False, {}

    def render(self):
        return np.full((12, 20, 3), self.t, np.uint8)


def wrap(env, limit=None, **settings):
    return wrappers.wrap(env, EnvSettings(**settings), name="Scripted-v0", frame_limit=limit)


@pytest.mark.parametrize(
    ("space", "obs", "key", "expected"),
    [
        (BOX, np.array([[0.1, 0.2], [0.3, 0.4]]), "vector", np.array([0.1, 0.2, 0.3, 0.4], np.float32)),
        (spaces.Discrete(3, start=1), 2, "vector", np.array([0, 1, 0], np.float32)),
        (spaces.Box(0, 9, (3,), np.int64), np.array([1, 2, 3]), "vector", np.array([1, 2, 3], np.float32)),
        (spaces.Box(0, 255, (8, 9), np.uint8), np.ones((8, 9), np.uint8), "image", np.ones((8, 9, 1), np.uint8)),
        (spaces.Box(0, 255, (8, 9, 4), np.uint8), np.ones((8, 9, 4), np.uint8), "image", np.ones((8, 9, 4), np.uint8)),
    ],
)
def test_every_observation_becomes_a_dict(space, obs, key, expected):
    env = wrap(Scripted(space, obs))
    for got in (env.reset()[0], env.step(0)[0]):
        assert list(got) == [key] and got[key].dtype == expected.dtype
        np.testing.assert_array_equal(got[key], expected)
        assert env.observation_space.contains(got)


def test_dict_observations_keep_their_keys():
    space = spaces.Dict({"cam": spaces.Box(0, 255, (8, 8, 3), np.uint8), "on": spaces.Discrete(2)})
    obs = wrap(Scripted(space, {"cam": np.zeros((8, 8, 3), np.uint8), "on": 1})).reset()[0]
    assert obs["cam"].shape == (8, 8, 3) and obs["on"].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("obs", "got"),
    [
        (np.zeros((2, 2), np.float32), "float32"),
        (np.zeros((4,)), r"\(4,\)"),
        ([[0, 0], [0, 0]], "list"),
        (np.array([[0, np.nan], [0, 0]]), "nan"),
        (np.array([[0, np.inf], [0, 0]]), "inf"),
        (np.array([[0, 1e300], [0, 0]]), "1e[+]300"),
        ({"obs": np.zeros((2, 2))}, "dict"),
    ],
)
def test_an_observation_outside_of_the_declaration_is_an_error(obs, got):
    env = wrap(Scripted(BOX, np.zeros((2, 2))))
    env.reset()
    env.step(0)
    env.unwrapped.obs = obs
    with pytest.raises(EnvError, match=r"env 'Scripted-v0', step 2 of the episode: obs\['obs'\] breaks") as error:
        env.step(0)
    assert __import__("re").search(got, error.value.cause or "") and len(error.value.message) <= 100


@pytest.mark.parametrize("obs", [{}, {"a": 3}, {"a": 1, "b": 1}, 1])
def test_dict_keys_and_discrete_values_are_checked(obs):
    with pytest.raises(EnvError):
        wrap(Scripted(spaces.Dict({"a": spaces.Discrete(3)}), obs)).reset()


@pytest.mark.parametrize("reward", [math.nan, math.inf, 1e300, -1e39, None, "1", [1.0, 2.0]])
def test_a_reward_that_is_no_number_is_an_error(reward):
    env = wrap(Scripted(BOX, np.zeros((2, 2))))
    env.unwrapped.step = lambda action: (np.zeros((2, 2)), reward, False, False, {})
    env.reset()
    with pytest.raises(EnvError, match="step 1 of the episode: the reward breaks"):
        env.step(0)


@pytest.mark.parametrize("flag", [None, "no", 2, -1, 0.5, math.nan, [False], np.zeros(1, bool), np.array(2)])
@pytest.mark.parametrize("name", ["terminated", "truncated"])
def test_a_flag_that_is_no_bool_is_an_error(flag, name):
    env = wrap(Scripted(BOX, np.zeros((2, 2))))
    flags = (flag, False) if name == "terminated" else (False, flag)
    env.unwrapped.step = lambda action: (np.zeros((2, 2)), 0.0, *flags, {})
    env.reset()
    with pytest.raises(EnvError, match=f"env 'Scripted-v0', step 1 of the episode: {name} is no bool") as error:
        env.step(0)
    assert "expected True or False, got" in (error.value.cause or "")


@pytest.mark.parametrize("flag", [True, np.True_, 1, np.int64(1), np.array(True), np.array(1)])
def test_bools_of_python_and_numpy_and_whole_numbers_are_flags(flag):
    env = wrap(Scripted(BOX, np.zeros((2, 2))))
    env.unwrapped.step = lambda action: (np.zeros((2, 2)), 0.0, flag, not flag, {})
    env.reset()
    assert [type(value) for value in env.step(0)[2:4]] == [bool, bool] and env.step(0)[2:4] == (True, False)


def test_a_violation_has_one_line_of_100_characters_whatever_the_names_are():
    env = CheckedEnv(Scripted(spaces.Dict({"k" * 80: BOX}), {"k" * 80: None}), "i" * 80)
    env._step = 123_456
    with pytest.raises(EnvError) as error:
        env.step(0)
    assert len(f"env 255: {error.value.message}") <= 100


def test_the_old_api_is_named():
    env = wrap(Scripted(BOX, np.zeros((2, 2))))
    env.unwrapped.step = lambda action: (np.zeros((2, 2)), 0.0, False, {})
    with pytest.raises(EnvError, match="does not speak") as error:
        env.step(0)
    assert "4 values" in (error.value.cause or "")
    env.unwrapped.reset = lambda **_: np.zeros((2, 2))
    with pytest.raises(EnvError, match="does not speak"):
        env.reset()


@pytest.mark.parametrize(
    ("space", "action_space"),
    [
        (None, None),
        (spaces.MultiBinary(3), None),
        (spaces.Tuple([BOX, spaces.MultiBinary(3)]), None),
        (spaces.Box(0, 1, (32, 32, 3), np.float32), None),
        (spaces.Box(0, 255, (3, 32, 32), np.uint8), None),
        (spaces.Box(0, 255, (4, 4, 3), np.uint8), None),
        (BOX, spaces.MultiDiscrete([2, 2])),
        (BOX, spaces.Box(-np.inf, np.inf, (1,), np.float32)),
    ],
)
def test_unusable_spaces_are_refused_when_built(space, action_space):
    with pytest.raises(EnvError) as error:
        wrap(Scripted(space, None, action_space=action_space))
    assert error.value.fix


def test_observations_are_copies_of_a_reused_buffer():
    env = wrap(Scripted(spaces.Box(0, 255, (8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8)))
    first = env.reset()[0]["image"]
    env.unwrapped.obs += 1
    assert not first.any() and env.step(0)[0]["image"].all()


def test_a_repeat_sums_rewards_and_stops_at_the_end():
    env = wrap(Scripted(BOX, np.zeros((2, 2)), end=6), repeat=4)
    env.reset()
    assert env.step(0)[1:4] == (1 + 2 + 3 + 4, False, False)
    assert env.step(0)[1:4] == (5 + 6, True, False)


def test_limits_count_frames_or_decisions():
    def lengths(**settings):
        env = wrap(Scripted(BOX, np.zeros((2, 2))), limit=10, **settings)
        env.reset()
        total = 0
        while True:
            total += 1
            _, reward, terminated, truncated, _ = env.step(0)
            if truncated:
                assert not terminated
                return total, reward

    assert lengths() == (10, 10)
    assert lengths(repeat=4) == (3, 9 + 10)  # the environment's own limit of 10 frames
    assert lengths(repeat=4, time_limit=5) == (5, 17 + 18 + 19 + 20)  # the user's, in decisions


def test_an_end_by_itself_is_not_called_a_truncation():
    env = wrap(Scripted(BOX, np.zeros((2, 2)), end=3), limit=3)
    env.reset()
    assert [env.step(0)[2:4] for _ in range(3)] == [(False, False), (False, False), (True, False)]


def test_pixels_replace_the_observation():
    env = wrap(Scripted(BOX, np.zeros((2, 2))), pixels=True, size=10)
    assert env.observation_space["image"].shape == (10, 10, 3)
    assert not env.reset()[0]["image"].any()
    assert (env.step(0)[0]["image"] == 1).all()
    with pytest.raises(EnvError, match="cannot be observed"):
        broken = Scripted(BOX, np.zeros((2, 2)))
        broken.render = lambda: None
        wrap(broken, pixels=True)


@pytest.mark.parametrize(("height", "width", "size"), [(12, 20, 8), (24, 24, 16), (8, 8, 16), (10, 9, 4)])
def test_resizing_averages_areas_exactly(height, width, size):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    # oracle: magnify until both grids divide, then average whole blocks
    fine = np.repeat(np.repeat(image.astype(np.float64), size, 0), size, 1)
    exact = fine.reshape(size, height, size, width, 3).mean((1, 3))
    got = resize(image, area_weights(height, size), area_weights(width, size))
    assert got.dtype == np.uint8 and np.abs(got - exact).max() <= 0.5 + 1e-3


def test_the_check_is_cheap():
    """A bound with a wide margin: the goal of 5 us holds on an idle machine."""
    import timeit

    raw = Scripted(spaces.Box(0, 255, (64, 64, 3), np.uint8), np.zeros((64, 64, 3), np.uint8))
    env = CheckedEnv(raw, "x")
    env.reset()
    bare, checked = (min(timeit.repeat(lambda e=e: e.step(0), number=500, repeat=5)) / 500 for e in (raw, env))
    assert checked - bare < 50e-6


class Fruitful(Scripted):
    """Rewards every `every`-th step, charges for the others."""

    def __init__(self, every):
        super().__init__(BOX, np.zeros((2, 2)))
        self.every = every

    def step(self, action):
        obs, _, terminated, truncated, info = super().step(action)
        return obs, 1.0 if self.t % self.every == 0 else -0.1, terminated, truncated, info


def test_patience_ends_where_nothing_was_earned_for_so_long_and_starts_afresh():
    def length(env):
        env.reset(seed=0)
        return next((t for t in range(1, 30) if env.step(0)[3]), None)

    assert length(wrap(Fruitful(every=4), patience=4)) is None  # 3 steps without, then one with
    barren = wrap(Fruitful(every=50), patience=4)
    assert [length(barren), length(barren)] == [4, 4]
    assert length(wrap(Fruitful(every=4), patience=3)) == 3
    assert length(wrap(Fruitful(every=8), repeat=4, patience=2)) is None  # in decisions; -0.4, then 0.7


def test_collecting_may_end_episodes_before_the_limit_that_judging_keeps():
    def length(**settings):
        env = wrap(Fruitful(every=4), **settings)
        env.reset(seed=0)
        return next((t for t in range(1, 30) if env.step(0)[3]), None)

    assert length(collect_limit=7) == 7
    assert length(collect_limit=7, time_limit=5) == 5
    assert length(collect_limit=3, repeat=4) == 3  # in decisions
