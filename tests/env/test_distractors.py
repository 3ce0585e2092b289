"""Distractors: known, seeded, independent of what happens, and never hiding it."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from worldlab.env.distractors import COLOURS, DRIFT, KICK, RADIUS, Distractors
from worldlab.env.wrappers import wrap
from worldlab.errors import EnvError
from worldlab.settings import EnvSettings
from worldlab.study.measures.ground_truth import HasNoiseFactors, find_layer


class Grey(gymnasium.Env):
    """A still picture of one level and a vector; 40 steps."""

    action_space = spaces.Discrete(2)

    def __init__(self, level=100, shape=(32, 32, 3)):
        self.level, self.shape = level, shape
        image = spaces.Box(0, 255, shape, np.uint8)
        self.observation_space = spaces.Dict({"image": image, "x": spaces.Box(-9, 9, (1,), np.float32)})

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._obs(), {}

    def step(self, action):
        self.t += 1
        return self._obs(), 1.0, False, self.t >= 40, {}

    def _obs(self):
        return {"image": np.full(self.shape, self.level, np.uint8), "x": np.array([self.level / 100], np.float32)}


def episode(env, seed, action=0):
    frames = [env.reset(seed=seed)[0]["image"]]
    factors = [np.concatenate(list(env.noise_factors().values()))]
    for _ in range(40):
        frames.append(env.step(action)[0]["image"])
        factors.append(np.concatenate(list(env.noise_factors().values())))
    return np.stack(frames), np.stack(factors)


def test_a_seed_moves_the_same_blobs_whatever_is_done_and_seen():
    frames, factors = episode(Distractors(Grey(), 0.5), 7)
    again, _ = episode(Distractors(Grey(), 0.5), 7, action=1)
    np.testing.assert_array_equal(frames, again)
    _, other_scene = episode(Distractors(Grey(level=200), 0.9), 7)
    np.testing.assert_array_equal(factors, other_scene)
    _, other = episode(Distractors(Grey(), 0.5), 8)
    assert np.abs(other - factors).max() > 0.1
    assert factors.shape == (41, 6) and (factors >= 0).all() and (factors <= 1).all()


def test_what_is_drawn_is_where_the_factors_say():
    """level' = level + strength mask (colour - level): at a blob's centre half of its colour, far from all nothing."""
    env = Distractors(Grey(level=100), 0.5)
    env.reset(seed=1)
    env._place = np.array([[0.25, 0.25], [0.75, 0.25], [0.5, 0.8]])
    picture = env._draw_blobs(np.full((32, 32, 3), 100, np.uint8)).astype(float)
    for (x, y), colour in zip(env._place, COLOURS, strict=True):
        np.testing.assert_allclose(picture[int(y * 32), int(x * 32)], 100 + 0.5 * (colour - 100), atol=2)
    assert (picture[15, 0] == 100).all() and (picture[31, 0] == 100).all()
    distance = 0.9 * RADIUS * 32  # from the first blob's centre, upwards or downwards
    row = 8 + round(distance)
    mask = np.exp(-(((row + 0.5 - 8) ** 2 + 0.25) ** 2) / (RADIUS * 32) ** 4)
    np.testing.assert_allclose(picture[row, 8], 100 + 0.5 * mask * (COLOURS[0] - 100), atol=1)


def test_what_lies_below_shows_through():
    """Two scenes that differ by 100 levels differ by half of that at least wherever one blob lies over them."""
    for strength in (0.5, 0.9):
        one, _ = episode(Distractors(Grey(level=50), strength), 3)
        other, _ = episode(Distractors(Grey(level=150), strength), 3)
        apart = other.astype(int) - one
        assert apart.max() == 100 and apart.min() >= 100 * (1 - strength) ** 3 - 2
        assert np.median(apart) > 50


def test_they_move_as_far_as_is_said():
    steps = np.concatenate([np.diff(episode(Distractors(Grey(), 0.5), seed)[1], axis=0) for seed in range(20)])
    inside = np.abs(steps) < 0.3
    assert np.std(steps[inside]) == pytest.approx(KICK / (1 - DRIFT**2) ** 0.5, rel=0.15)


def test_grey_pictures_get_grey_blobs_and_alpha_is_left_alone():
    grey, _ = episode(Distractors(Grey(shape=(32, 32, 1)), 0.5), 0)
    assert grey.shape[-1] == 1 and len(np.unique(grey)) > 10
    alpha, _ = episode(Distractors(Grey(shape=(32, 32, 4)), 0.5), 0)
    assert (alpha[..., 3] == 100).all() and (alpha[..., :3] != 100).any()


def test_the_setting_puts_them_on_top_of_what_is_seen():
    def at_boundary(**settings):
        return wrap(Grey(), EnvSettings(id="Grey-v0", size=16, **settings), name="Grey-v0")

    plain, noisy = at_boundary(), at_boundary(distractors=0.5)
    assert find_layer(plain, HasNoiseFactors) is None and find_layer(noisy, HasNoiseFactors) is not None
    obs, _ = noisy.reset(seed=0)
    assert obs["image"].shape == (16, 16, 3) and (obs["image"] != 100).any() and obs["x"] == 1
    assert (plain.reset(seed=0)[0]["image"] == 100).all()


def test_where_there_is_no_picture_it_says_how_to_get_one():
    class Blind(Grey):
        def __init__(self):
            super().__init__()
            self.observation_space = spaces.Dict({"x": self.observation_space["x"]})

    with pytest.raises(EnvError, match="has none") as caught:
        wrap(Blind(), EnvSettings(id="Blind-v0", distractors=0.5), name="Blind-v0")
    assert "--env.pixels" in caught.value.fix and len(caught.value.message) <= 100
