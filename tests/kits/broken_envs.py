"""Environments that break Gymnasium's interface or their own declaration, each in one way."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from worldlab_envs.wrappers import wrap_env

from worldlab.settings import EnvSettings

BOX = spaces.Box(-1, 1, (2, 2), np.float64)
ZEROS = np.zeros((2, 2))


class Scripted(gymnasium.Env):
    """Returns `wrong` at its third step, and the observation `obs` before."""

    def __init__(self, wrong: Any = None, space: Any = BOX, obs: Any = ZEROS, action_space: Any = None):
        self.observation_space, self.obs, self.wrong = space, obs, wrong
        self.action_space = spaces.Discrete(2) if action_space is None else action_space
        self.t = 0

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return self.obs, {}

    def step(self, action):
        self.t += 1
        return self.wrong if self.t == 3 else (self.obs, 0.0, False, False, {})


class Reusing(gymnasium.Env):
    """Returns one array at every step, which holds the number of the step."""

    observation_space = spaces.Dict({"vector": spaces.Box(-np.inf, np.inf, (1,), np.float32)})
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.array = np.zeros(1, np.float32)
        return self.observation, {}

    def step(self, action):
        self.array += 1
        return self.observation, 0.0, False, False, {}

    @property
    def observation(self):
        return {"vector": self.array}


def _obs(obs: Any) -> tuple:
    return obs, 0.0, False, False, {}


def _reward(reward: Any) -> tuple:
    return ZEROS, reward, False, False, {}


def _with(value: float) -> np.ndarray:
    return np.array([[0, value], [0, 0]])


MISTAKES: dict[str, tuple] = {
    "obs: float32": _obs(np.zeros((2, 2), np.float32)),
    "obs: float16": _obs(np.zeros((2, 2), np.float16)),
    "obs: int64": _obs(np.zeros((2, 2), np.int64)),
    "obs: object": _obs(np.array([[None, 0], [0, 0]])),
    "obs: complex": _obs(np.zeros((2, 2), complex)),
    "obs: flat": _obs(np.zeros(4)),
    "obs: one more row": _obs(np.zeros((3, 2))),
    "obs: one more axis": _obs(np.zeros((1, 2, 2))),
    "obs: a scalar": _obs(0.0),
    "obs: a list": _obs([[0.0, 0.0], [0.0, 0.0]]),
    "obs: None": _obs(None),
    "obs: a dict": _obs({"obs": ZEROS}),
    "obs: a text": _obs("observation"),
    "obs: empty": _obs(np.zeros((0, 2))),
    "obs: NaN": _obs(_with(math.nan)),
    "obs: inf": _obs(_with(math.inf)),
    "obs: -inf": _obs(_with(-math.inf)),
    "obs: infinite as float32": _obs(_with(1e300)),
    "reward: NaN": _reward(math.nan),
    "reward: inf": _reward(math.inf),
    "reward: infinite as float32": _reward(1e39),
    "reward: None": _reward(None),
    "reward: a text": _reward("1"),
    "reward: a list": _reward([1.0]),
    "reward: an array": _reward(np.zeros(2)),
    "reward: complex": _reward(1j),
    "terminated: None": (ZEROS, 0.0, None, False, {}),
    "terminated: a number": (ZEROS, 0.0, 0.5, False, {}),
    "truncated: a text": (ZEROS, 0.0, False, "no", {}),
    "truncated: a list": (ZEROS, 0.0, False, [False], {}),
}
"""What a step may return wrongly, by name."""


def build_mistaken(name: str) -> gymnasium.Env:
    """Build the wrapped environment whose third step makes a mistake."""
    return wrap_env(Scripted(MISTAKES[name]), "Scripted-v0", EnvSettings())


class OldReset(Scripted):
    """Resets as gym did before version 0.26."""

    def reset(self, **_):
        return self.obs


class Unlike(Scripted):
    """Every one that is built has one more action."""

    built = 0

    def __init__(self):
        Unlike.built += 1
        super().__init__(action_space=spaces.Discrete(2 + Unlike.built))


class Unsaid(Scripted):
    """Has no space of actions."""

    def __init__(self):
        super().__init__()
        del self.action_space


class Unseeding(Scripted):
    """Its reset takes no seed."""

    def reset(self):  # type: ignore[override]
        return self.obs, {}


MISDECLARED: dict[str, Callable[[], gymnasium.Env]] = {
    "no observation space": lambda: Scripted(space=None),
    "no action space": Unsaid,
    "an observation space of bits": lambda: Scripted(space=spaces.MultiBinary(3), obs=np.zeros(3, np.int8)),
    "images of float32": lambda: Scripted(space=spaces.Box(0, 1, (32, 32, 3), np.float32)),
    "images with channels first": lambda: Scripted(space=spaces.Box(0, 255, (3, 32, 32), np.uint8)),
    "images that are too small": lambda: Scripted(space=spaces.Box(0, 255, (4, 4, 3), np.uint8)),
    "several discrete actions": lambda: Scripted(action_space=spaces.MultiDiscrete([2, 2])),
    "actions without bounds": lambda: Scripted(action_space=spaces.Box(-np.inf, np.inf, (1,), np.float32)),
    "the reset of gym 0.25": OldReset,
    "a reset without a seed": Unseeding,
    "spaces that differ": Unlike,
}
"""Environments that no run can use, by the reason."""


def build_declared(name: str) -> gymnasium.Env:
    """Build the wrapped environment that no run can use."""
    return wrap_env(MISDECLARED[name](), "Scripted-v0", EnvSettings())
