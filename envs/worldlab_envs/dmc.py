"""The DeepMind Control Suite: dm_control's tasks as Gymnasium environments, from states or pictures."""

from __future__ import annotations

import importlib
import math
import os
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from worldlab.env.wrappers import wrap
from worldlab.errors import EnvError, one_line
from worldlab.settings import EnvSettings
from worldlab_envs.mujoco_support import log_warnings
from worldlab_envs.package_adapter import PackageAdapter

SUITE = "dm_control.suite"
"""The module that builds tasks. It is imported by name, as it may be missing."""
DOMAINS = {
    "acrobot": "swingup swingup_sparse",
    "ball_in_cup": "catch",
    "cartpole": "balance balance_sparse swingup swingup_sparse two_poles three_poles",
    "cheetah": "run",
    "dog": "stand walk trot run fetch",
    "finger": "spin turn_easy turn_hard",
    "fish": "upright swim",
    "hopper": "stand hop",
    "humanoid": "stand walk run run_pure_state",
    "humanoid_CMU": "stand walk run",
    "manipulator": "bring_ball bring_peg insert_ball insert_peg",
    "pendulum": "swingup",
    "point_mass": "easy hard",
    "quadruped": "walk run escape fetch",
    "reacher": "easy hard",
    "stacker": "stack_2 stack_4",
    "swimmer": "swimmer6 swimmer15",
    "walker": "stand walk run",
}
"""The tasks of the suite by domain, written here because dm_control takes seconds to import.

Without lqr, whose actions have no meaningful bounds.
"""
TASKS = {
    f"{domain}-{task}".replace("_", "-"): (domain, task) for domain, tasks in DOMAINS.items() for task in tasks.split()
}
EPISODE = 1000
"""Frames of an episode: the limit of every task here."""
CAMERA = {"quadruped": 2}
"""Cameras other than 0, as published results have them (Hafner et al. 2023, arXiv:2301.04104)."""
SIDE = 64
"""Pixels along a side of a picture, unless env.size says otherwise."""


class ControlTask(gymnasium.Env):
    """A task of the DeepMind Control Suite. Tassa et al. 2018, arXiv:1801.00690.

    ## Spaces
    Action: the Box of dm_control, [-1, 1]^n for most tasks. Observation: Box R^k float32, the entries of dm_control's
    observation in its order, joined.

    ## Reward
    0 to 1 for each frame, so an episode of 1,000 frames returns at most 1,000.

    ## Ends
    Terminates where dm_control ends an episode with discount 0. The task's own time limit is off: the limit is the
    wrappers', which truncate.

    ## Exact quantities
    `truth()`: dm_control's observation by name. It is what an agent sees without pictures, and the state behind them.
    """

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    render_mode = "rgb_array"

    def __init__(self, task: str, size: int = SIDE):
        suite = _import_suite()
        domain, name = TASKS[task]
        with log_warnings():
            self._task = suite.load(domain, name, task_kwargs={"random": 0, "time_limit": math.inf})
        self._size, self._camera_id, self._camera = size, CAMERA.get(domain, 0), None
        self._last: dict[str, Any] = {}
        numbers = sum(math.prod(spec.shape) for spec in self._task.observation_spec().values())
        self.observation_space = spaces.Box(-np.inf, np.inf, (numbers,), np.float32)
        action = self._task.action_spec()
        low, high = (np.broadcast_to(bound, action.shape) for bound in (action.minimum, action.maximum))
        self.action_space = spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self._task.task.random.seed(seed % 2**32)
        return self._observe(self._task.reset()), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        found = self._task.step(action)
        ended = found.last()
        return (
            self._observe(found),
            float(found.reward),
            ended and found.discount == 0,
            ended and found.discount > 0,
            {},
        )

    def render(self) -> Any:
        """Return the picture uint8 [size, size, 3] of the task's camera. Raises: EnvError if nothing can render."""
        try:
            if self._camera is None:
                self._camera = self._place_camera()
            # Without shadows and reflections, as Gymnasium's MuJoCo environments here: 3 to 33 times faster.
            return self._camera.render(render_flag_overrides={"shadow": False, "reflection": False})
        except Exception as error:  # OpenGL loaders raise their own kinds
            raise EnvError(
                "MuJoCo cannot render on this machine",
                cause=one_line(_why_no_renderer or f"{type(error).__name__}: {error}", 300),
                fix="install libegl1 or libosmesa6, or set MUJOCO_GL; or unset env.pixels",
            ) from error

    def close(self) -> None:
        self._task.close()

    def truth(self) -> dict[str, np.ndarray]:
        """Return dm_control's observation, float64 [k] by name."""
        return {name: np.atleast_1d(np.asarray(value, np.float64)).ravel() for name, value in self._last.items()}

    def _observe(self, found: Any) -> np.ndarray:
        self._last = found.observation
        return np.concatenate([np.ravel(value) for value in self._last.values()]).astype(np.float32)

    def _place_camera(self) -> Any:
        self._task.physics.model.vis.quality.offsamples = 0  # read when the first picture is drawn
        engine: Any = importlib.import_module("dm_control.mujoco.engine")
        return engine.Camera(self._task.physics, self._size, self._size, self._camera_id)


_why_no_renderer = ""
"""Why dm_control was imported without a renderer; empty if it has one."""


def _import_suite() -> Any:
    """Import dm_control's suite. It is imported without a renderer if that of MUJOCO_GL does not work."""
    global _why_no_renderer
    try:
        return importlib.import_module(SUITE)
    except (ImportError, AttributeError, RuntimeError) as error:
        backend = os.environ.get("MUJOCO_GL")
        if backend is None:
            raise
        os.environ["MUJOCO_GL"] = "disabled"
        try:
            suite = importlib.import_module(SUITE)
        finally:
            os.environ["MUJOCO_GL"] = backend
        _why_no_renderer = f"MUJOCO_GL={backend}: {type(error).__name__}: {error}"
        return suite


def _build(task: str, settings: EnvSettings) -> gymnasium.Env:
    env = ControlTask(task, settings.size or SIDE)
    return wrap(env, settings, name=f"dmc:{task}", frame_limit=EPISODE)


def _tasks() -> list[str]:
    return list(TASKS)


ADAPTER = PackageAdapter("dmc", "dm_control", _tasks, _build, ("mujoco",), (0.0, float(EPISODE)))
