"""Gymnasium's environments by every spelling, and CarRacing's frames against Gymnasium's own."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from worldlab_envs.gymnasium_adapter import GymnasiumAdapter
from worldlab_envs.headless import go_headless

from worldlab.errors import EnvCrashedError, EnvError
from worldlab.settings import EnvSettings

go_headless()


@pytest.fixture
def adapter():
    return GymnasiumAdapter()


@pytest.mark.parametrize(
    ("typed", "full"),
    [
        ("CarRacing", "CarRacing-v3"),
        ("Pendulum", "Pendulum-v1"),
        ("CartPole-v0", "CartPole-v0"),
        ("HalfCheetah", "HalfCheetah-v5"),
        ("worldlab_envs.branch:worldlab/Branch", "worldlab_envs.branch:worldlab/Branch-v0"),
        ("worldlab_envs.branch:worldlab/Branch-v0", "worldlab_envs.branch:worldlab/Branch-v0"),
        ("CarRacin", None),
        ("CarRacing-v99", None),
        ("not an id!", None),
    ],
)
def test_resolve(adapter, typed, full):
    assert adapter.resolve(typed) == full


def test_names_are_the_newest_versions(adapter):
    names = adapter.names()
    assert {"CarRacing-v3", "HalfCheetah-v5", "CartPole-v1"} <= set(names) and "HalfCheetah-v4" not in names


def test_a_module_that_fails_or_registers_nothing_is_an_error(adapter):
    with pytest.raises(EnvError, match="cannot be imported: ModuleNotFoundError"):
        adapter.resolve("no_such_module_here:X-v0")
    with pytest.raises(EnvError, match="registers no environment"):
        adapter.resolve("json:X-v0")


def test_a_module_is_imported_and_its_environment_built(adapter, tmp_path, monkeypatch):
    (tmp_path / "their_env.py").write_text(
        "import gymnasium, numpy as np\n"
        "from gymnasium import spaces\n"
        "class E(gymnasium.Env):\n"
        "    observation_space = spaces.Discrete(3)\n"
        "    action_space = spaces.Discrete(2)\n"
        "    def reset(self, *, seed=None, options=None): return 1, {}\n"
        "    def step(self, a): return 2, 0.5, False, False, {}\n"
        "gymnasium.register('TheirEnv-v0', entry_point='their_env:E', max_episode_steps=2)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    full = adapter.resolve("their_env:TheirEnv-v0")
    env = adapter.make(full, EnvSettings())
    assert env.reset()[0]["vector"].tolist() == [0, 1, 0]
    assert [env.step(0)[3] for _ in range(2)] == [False, True]


def test_an_environment_that_cannot_be_built_says_why(adapter):
    with pytest.raises(EnvError, match="cannot be built") as error:
        adapter.make("CartPole-v99", EnvSettings())
    assert error.value.cause and error.value.exit_code == 4


@pytest.mark.parametrize("repeat", [1, 4])
def test_car_racing_frames_are_those_of_gymnasium(adapter, repeat):
    ours = adapter.make("CarRacing-v3", EnvSettings(id="CarRacing", repeat=repeat))
    plain = gymnasium.make("CarRacing-v3")
    rng = np.random.default_rng(0)
    for seed in (3, 4):
        first, expected = ours.reset(seed=seed)[0]["image"], plain.reset(seed=seed)[0]
        np.testing.assert_array_equal(first, expected)
        for _ in range(100 // repeat // 2):
            action = (rng.random(3) * [2, 1, 0.2] - [1, 0, 0]).astype(np.float32)
            obs, reward, terminated, truncated, _ = ours.step(action)
            total = 0.0
            for _ in range(repeat):
                expected, one, *ends, _ = plain.step(action)
                total += float(one)
            np.testing.assert_array_equal(obs["image"], expected)
            assert (reward, [terminated, truncated]) == (total, ends)
    np.testing.assert_array_equal(ours.render() is not None, True)


def test_car_racing_draws_the_last_frame_when_an_episode_ends_inside_a_repeat(adapter):
    ours = adapter.make("CarRacing-v3", EnvSettings(repeat=4))
    plain = gymnasium.make("CarRacing-v3")
    ours.reset(seed=0), plain.reset(seed=0)
    for env in (ours, plain):
        env.unwrapped.tile_visited_count = len(env.unwrapped.track) - 1
        env.unwrapped.car.hull.position = (400.0, 0.0)  # outside of the playing field: the next frame ends it
    action = np.zeros(3, np.float32)
    obs, reward, terminated, _, _ = ours.step(action)
    expected, one, ended, _, _ = plain.step(action)
    assert terminated and ended and reward == one == -100
    np.testing.assert_array_equal(obs["image"], expected)


def test_car_racing_draws_once_a_decision(adapter):
    env = adapter.make("CarRacing-v3", EnvSettings(repeat=4))
    import pygame

    drawn = []
    scale = pygame.transform.smoothscale
    env.reset(seed=0)
    try:
        pygame.transform.smoothscale = lambda *args: drawn.append(1) or scale(*args)
        for _ in range(5):
            env.step(env.action_space.sample())
    finally:
        pygame.transform.smoothscale = scale
    assert len(drawn) == 5


def test_pixels_of_classic_control(adapter):
    env = adapter.make("Pendulum-v1", EnvSettings(pixels=True, size=32, repeat=2))
    obs = env.reset(seed=0)[0]["image"]
    assert obs.shape == (32, 32, 3) and obs.std() > 1
    assert not np.array_equal(env.step(np.array([2.0], np.float32))[0]["image"], obs)


def test_mujoco_pictures_are_plain_and_leave_no_log(adapter, tmp_path, monkeypatch):
    pytest.importorskip("imageio", reason="Gymnasium's MuJoCo environments import it")
    monkeypatch.chdir(tmp_path)
    env = adapter.make("InvertedPendulum-v5", EnvSettings(pixels=True, size=48))
    obs = env.reset(seed=0)[0]["image"]
    assert obs.shape == (48, 48, 3) and obs.std() > 1
    import mujoco

    scene = env.unwrapped.mujoco_renderer._get_viewer("rgb_array").scn
    assert not scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] and not scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION]
    env.unwrapped.data.qpos[:] = np.nan
    mujoco.mj_step(env.unwrapped.model, env.unwrapped.data)
    env.close()
    adapter.make("HalfCheetah-v5", EnvSettings()).close()  # its model warns when it is compiled
    assert not list(tmp_path.iterdir())


def test_what_the_compiler_of_models_warns_of_is_not_shown_and_what_the_simulation_warns_of_is(adapter, caplog):
    """HalfCheetah's model has an outdated attribute, which nobody who trains on it can change."""
    import mujoco

    env = adapter.make("HalfCheetah-v5", EnvSettings())
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == []
    env.unwrapped.data.qpos[:] = np.nan
    mujoco.mj_step(env.unwrapped.model, env.unwrapped.data)
    assert any(record.levelname == "WARNING" for record in caplog.records)


@pytest.mark.parametrize(("what", "value"), [("qpos", 1e12), ("qvel", math.nan), ("qfrc_applied", 1e15)])
def test_a_simulation_that_diverges_is_a_crash_and_the_next_episode_is_whole(what, value, adapter):
    """MuJoCo resets itself in the middle of the episode, so the step would be one that the physics does not have."""
    env = adapter.make("InvertedPendulum-v5", EnvSettings())
    env.reset(seed=0)
    env.step(np.zeros(1, np.float32))
    getattr(env.unwrapped.data, what)[0] = value
    with pytest.raises(EnvCrashedError, match="the simulation diverged"):
        env.step(np.zeros(1, np.float32))
    env.reset(seed=0)
    assert np.isfinite(env.step(np.zeros(1, np.float32))[0]["vector"]).all()


def test_headless_respects_the_users_own_setting():
    code = "from worldlab_envs.headless import go_headless; go_headless(); import os; print(os.environ['MUJOCO_GL'])"
    result = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "MUJOCO_GL": "glfw"}, capture_output=True, text=True
    )
    assert result.stdout.strip() == "glfw"


def test_registration_imports_nothing_heavy():
    code = (
        "import worldlab_envs, sys; print([m for m in ('gymnasium', 'numpy', 'torch', 'pygame') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr
