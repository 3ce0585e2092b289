"""Atari, MiniGrid and MinAtar at the boundary, against the packages themselves."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from worldlab_envs import atari, minatar, minigrid

from worldlab.settings import EnvSettings


def test_atari_repeats_pools_and_sums_like_the_protocol_of_atari_100k():
    ale_py = pytest.importorskip("ale_py", reason='pip install "worldlab[atari]"')
    env = atari.ADAPTER.make("atari:pong", EnvSettings(repeat=4))
    obs, _ = env.reset(seed=7)
    noops = int(np.random.Generator(np.random.PCG64(7)).integers(1, 31))  # Gymnasium's generator of a seed
    theirs = ale_py.ALEInterface()
    theirs.setFloat("repeat_action_probability", 0.0)
    theirs.setInt("random_seed", 7)
    theirs.loadROM(ale_py.roms.get_rom_path("pong"))
    actions = theirs.getMinimalActionSet()
    assert env.action_space.n == len(actions) == 6
    assert env.unwrapped.get_action_meanings() == ["NOOP", "FIRE", "RIGHT", "LEFT", "RIGHTFIRE", "LEFTFIRE"]
    for _ in range(noops):
        theirs.act(actions[0])
    np.testing.assert_array_equal(obs["image"], theirs.getScreenRGB())
    rng, total = np.random.default_rng(1), 0.0
    for _ in range(60):
        action = int(rng.integers(6))
        obs, reward, terminated, truncated, _ = env.step(action)
        rewards, screens = [], []
        for _ in range(4):
            rewards.append(theirs.act(actions[action]))
            screens.append(theirs.getScreenRGB())
        np.testing.assert_array_equal(obs["image"], np.maximum(screens[2], screens[3]))
        assert (reward, terminated, truncated) == (sum(rewards), theirs.game_over(), False)
        total += reward
    assert total < 0  # Pong's opponent scores against random play


def test_atari_ends_a_game_and_not_a_life_and_repeats_a_seed():
    pytest.importorskip("ale_py", reason='pip install "worldlab[atari]"')
    env = atari.ADAPTER.make("atari:breakout", EnvSettings(repeat=4, size=64))
    runs = []
    for _ in range(2):
        frames, lives = [env.reset(seed=3)[0]["image"]], [5]
        env.action_space.seed(0)
        ended = False
        while not ended:
            obs, _, ended, cut, _ = env.step(env.action_space.sample())
            frames.append(obs["image"])
            lives.append(env.unwrapped._ale.lives())
            assert not cut
        runs.append(np.stack(frames))
        assert lives[-1] == 0 and set(lives) == {0, 1, 2, 3, 4, 5}
    np.testing.assert_array_equal(*runs)


def test_minigrid_shows_the_agents_view_as_one_hots_and_leaves_the_mission_out():
    pytest.importorskip("minigrid", reason='pip install "worldlab[minigrid]"')
    assert minigrid.ADAPTER.resolve("minigrid:doorkey-5x5") == "minigrid:DoorKey-5x5"
    env = minigrid.ADAPTER.make("minigrid:DoorKey-5x5", EnvSettings())
    theirs = gymnasium.make("MiniGrid-DoorKey-5x5-v0")
    obs, expected = env.reset(seed=4)[0], theirs.reset(seed=4)[0]
    for action in (2, 0, 2, 1, 5):
        assert set(obs) == {"direction", "view"} and obs["direction"].argmax() == expected["direction"]
        cells = obs["view"].reshape(7, 7, 11 + 6 + 3)
        assert (cells.sum(-1) == 3).all()
        codes = np.stack([cells[..., :11].argmax(-1), cells[..., 11:17].argmax(-1), cells[..., 17:].argmax(-1)], -1)
        np.testing.assert_array_equal(codes, expected["image"])
        (obs, reward, *ends, _), (expected, their_reward, *their_ends, _) = env.step(action), theirs.step(action)
        assert (reward, ends) == (their_reward, their_ends)
    pictures = minigrid.ADAPTER.make("minigrid:DoorKey-5x5", EnvSettings(pixels=True))
    seen = pictures.reset(seed=4)[0]["image"]
    assert seen.shape == (56, 56, 3) and seen.std() > 1
    assert "minigrid:BabyAI-GoToObj" in minigrid.ADAPTER.names()


def test_minatar_observes_cells_and_seeds_sticky_actions():
    Environment = pytest.importorskip("minatar", reason='pip install "worldlab[minatar]"').Environment
    env = minatar.ADAPTER.make("minatar:space-invaders", EnvSettings())
    theirs = Environment("space_invaders")
    runs = []
    for _ in range(2):
        theirs.seed(9)
        theirs.reset()
        theirs.last_action = 0
        obs, _ = env.reset(seed=9)
        rng, rewards = np.random.default_rng(0), []
        for _ in range(80):
            np.testing.assert_array_equal(obs["vector"], theirs.state().astype(np.float32).ravel())
            action = int(rng.integers(env.action_space.n))
            obs, reward, terminated, *_ = env.step(action)
            assert (reward, terminated) == theirs.act(theirs.minimal_action_set()[action])
            rewards.append(reward)
            if terminated:
                break
        runs.append(rewards)
    assert runs[0] == runs[1]
    game = minatar.ADAPTER.make("minatar:breakout", EnvSettings(pixels=True))
    game.reset(seed=0)
    for _ in range(3):  # from behind the bricks into the open
        picture = game.step(0)[0]["image"]
    state = game.unwrapped._game.state()
    cells = picture[::8, ::8]
    np.testing.assert_array_equal(cells.any(-1), state.any(-1))
    np.testing.assert_array_equal(picture, cells.repeat(8, 0).repeat(8, 1))
    on_top = np.where(state.any(-1), 3 - state[..., ::-1].argmax(-1), -1)
    assert len(np.unique(on_top)) == 5  # nothing, paddle, ball, trail, bricks
    assert (
        len(np.unique(cells.reshape(-1, 3), axis=0))
        == len(np.unique(np.c_[cells.reshape(-1, 3), on_top.ravel()], axis=0))
        == 5
    )
