"""Branch: frequencies against the stated probabilities, pictures against cells."""

from __future__ import annotations

import functools

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from scipy.stats import chisquare
from worldlab_envs.branch import (
    ADAPTER,
    BRANCH_CELLS,
    GOAL,
    Branch,
    branch_probabilities,
    cell_of,
    picture_of,
    reward_of,
)

from worldlab.env.pool import EnvPool
from worldlab.settings import EnvSettings


def test_a_branch_happens_with_the_stated_frequencies():
    env = Branch()
    env.reset(seed=0)
    for cell, action in ((5, 0), (10, 3)):
        expected = branch_probabilities(cell, action)
        counts = dict.fromkeys(expected, 0)
        for _ in range(4000):
            env._cell = cell
            counts[env.step(action)[4]["cell"]] += 1
        assert chisquare(list(counts.values()), [4000 * p for p in expected.values()]).pvalue > 1e-3


def test_probabilities_by_hand():
    assert branch_probabilities(5, 0) == {1: 0.4, 6: 0.3, 9: 0.2, 4: 0.1}
    assert branch_probabilities(5, 1) == {6: 0.4, 9: 0.3, 4: 0.2, 1: 0.1}
    assert branch_probabilities(0, 0) == {0: 1.0} and branch_probabilities(0, 1) == {1: 1.0}
    for cell in range(16):
        for action in range(4):
            odds = branch_probabilities(cell, action)
            assert sum(odds.values()) == pytest.approx(1) and len(odds) == (4 if cell in BRANCH_CELLS else 1)


def test_pictures_tell_cells_apart_even_when_noisy():
    noise = np.random.default_rng(0).normal(0, 20, (16, 16, 3))
    for cell in range(16):
        assert cell_of(picture_of(cell)) == cell_of(picture_of(cell) + noise) == cell
    with pytest.raises(ValueError, match="shape"):
        cell_of(np.zeros((3, 16, 16)))


def test_episodes_end_at_the_goal_or_after_50_steps():
    env = ADAPTER.make(ADAPTER.resolve("branch"), EnvSettings())
    obs, _ = env.reset(seed=0)
    assert cell_of(obs["image"]) == 0
    route = [env.step(action) for action in (1, 1, 1, 2, 2, 2)]  # along the top and down the right side
    assert [cell_of(step[0]["image"]) for step in route] == [1, 2, 3, 7, 11, GOAL]
    assert [step[1] for step in route] == [reward_of(cell) for cell in (1, 2, 3, 7, 11, GOAL)] == [
        -0.01, -0.01, -0.5, -0.01, -0.01, 1.0,
    ]  # fmt: skip
    assert [step[2] for step in route] == [False] * 5 + [True]
    env.reset(seed=1)
    assert [env.step(0)[3] for _ in range(50)] == [False] * 49 + [True]


def test_a_worker_process_can_build_it():
    make = functools.partial(ADAPTER.make, ADAPTER.id, EnvSettings())
    with EnvPool(make, 1, 0, seed=3) as local, EnvPool(make, 1, 1, seed=3) as remote:
        local.reset(), remote.reset()
        for action in (1, 2, 1, 2, 0, 1):
            one, other = local.step([action]), remote.step([action])
            np.testing.assert_array_equal(one.obs["image"], other.obs["image"])
        assert remote.env_id == ADAPTER.id


def test_it_is_a_good_gymnasium_citizen():
    check_env(gymnasium.make(ADAPTER.id).unwrapped, skip_render_check=True)
