"""The DeepMind Control Suite against dm_control itself: numbers, pictures, ends, and machines that cannot render."""

from __future__ import annotations

import ctypes.util
import os
import subprocess
import sys

import numpy as np
import pytest
from worldlab_envs.dmc import ADAPTER, EPISODE, TASKS, ControlTask
from worldlab_envs.headless import go_headless

from worldlab.settings import EnvSettings

go_headless()
suite = pytest.importorskip("dm_control.suite", reason='pip install "worldlab[dmc]"')


def plain(task: str, seed: int):
    return suite.load(*TASKS[task], task_kwargs={"random": np.random.RandomState(seed)})


def flat(step) -> np.ndarray:
    return np.concatenate([np.ravel(value) for value in step.observation.values()]).astype(np.float32)


def test_the_tasks_are_those_of_the_suite():
    assert set(TASKS.values()) == {(domain, task) for domain, task in suite.ALL_TASKS if domain != "lqr"}


@pytest.mark.parametrize("task", ["cartpole-swingup", "walker-walk"])
def test_an_episode_is_that_of_dm_control(task):
    env = ADAPTER.make(f"dmc:{task}", EnvSettings(repeat=2))
    theirs = plain(task, 5)
    env.reset(seed=1)
    np.testing.assert_array_equal(env.reset(seed=5)[0]["vector"], flat(theirs.reset()))
    rng = np.random.default_rng(0)
    for decision in range(1, EPISODE // 2 + 1):
        action = rng.uniform(-1, 1, env.action_space.shape).astype(np.float32)
        obs, reward, terminated, truncated, _ = env.step(action)
        first, step = theirs.step(action), theirs.step(action)
        np.testing.assert_array_equal(obs["vector"], flat(step))
        assert reward == first.reward + step.reward
        assert (terminated, truncated) == (False, decision == EPISODE // 2)
    assert step.last() and step.discount == 1
    for name, value in env.unwrapped.truth().items():
        np.testing.assert_array_equal(value, np.ravel(step.observation[name]))


def test_a_time_limit_of_the_user_replaces_that_of_the_task():
    env = ADAPTER.make("dmc:cartpole-balance", EnvSettings(repeat=4, time_limit=300))
    env.reset(seed=0)
    action = np.zeros(1, np.float32)
    assert [env.step(action)[3] for _ in range(300)] == [False] * 299 + [True]


def test_a_discount_of_zero_terminates():
    env = ControlTask("cartpole-swingup")
    env.reset(seed=0)
    assert env.step(np.zeros(1))[2:4] == (False, False)
    env._task.task.get_termination = lambda physics: 0.0
    assert env.step(np.zeros(1))[2:4] == (True, False)


@pytest.mark.parametrize(("task", "camera"), [("reacher-easy", 0), ("quadruped-walk", 2)])
def test_a_picture_is_the_view_of_the_published_camera(task, camera):
    env = ADAPTER.make(f"dmc:{task}", EnvSettings(pixels=True, size=48))
    theirs = plain(task, 3)
    theirs.physics.model.vis.quality.offsamples = 0
    theirs.reset()
    off = {"shadow": False, "reflection": False}
    seen = env.reset(seed=3)[0]["image"]
    assert seen.shape == (48, 48, 3) and seen.std() > 1
    np.testing.assert_array_equal(seen, theirs.physics.render(48, 48, camera_id=camera, render_flag_overrides=off))


def test_without_a_size_a_picture_has_64_pixels_along_a_side():
    env = ADAPTER.make("dmc:pendulum-swingup", EnvSettings(pixels=True))
    assert env.observation_space["image"].shape == (64, 64, 3)


def test_a_machine_that_cannot_render_still_has_states_and_says_why_it_has_no_pictures(tmp_path):
    if ctypes.util.find_library("OSMesa"):
        pytest.skip("OSMesa, the renderer that this test needs to be missing, is installed")
    code = (
        "from worldlab_envs.dmc import ADAPTER; from worldlab.settings import EnvSettings\n"
        "env = ADAPTER.make('dmc:dog-stand', EnvSettings()); print(env.reset(seed=0)[0]['vector'].shape)\n"
        "try: ADAPTER.make('dmc:dog-stand', EnvSettings(pixels=True))\n"
        "except Exception as error: print(error)\n"
    )
    place = {**os.environ, "MUJOCO_GL": "osmesa"}
    place.pop("PYOPENGL_PLATFORM", None)
    done = subprocess.run([sys.executable, "-c", code], env=place, cwd=tmp_path, capture_output=True, text=True)
    shape, *rest = done.stdout.splitlines()
    assert shape == "(223,)" and done.stderr == ""
    assert rest[0] == "MuJoCo cannot render on this machine" and rest[1].startswith("cause: MUJOCO_GL=osmesa: ")
    assert not list(tmp_path.iterdir())


def test_a_comparison_knows_the_versions_behind_a_task():
    from importlib.metadata import version

    from worldlab.registry import load_registry
    from worldlab.study.compare.identity import env_source

    task = env_source("dmc:walker-walk", load_registry())["task"]
    assert task == f"dm_control {version('dm_control')}, mujoco {version('mujoco')}"
