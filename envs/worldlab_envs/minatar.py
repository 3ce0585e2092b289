"""MinAtar's five games on a grid of 10 x 10 cells."""

from __future__ import annotations

import importlib
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from worldlab.env.wrappers import wrap
from worldlab.settings import EnvSettings
from worldlab_envs.package_adapter import PackageAdapter

GAMES = ("asterix", "breakout", "freeway", "seaquest", "space-invaders")
FRAMES = 10_000
"""Frames of an episode. MinAtar has no limit but for freeway's, and good play would never end."""
CELL = 8
"""Pixels along a side of a cell in pictures."""


class MinAtarGame(gymnasium.Env):
    """A game of MinAtar. Young & Tian 2019, arXiv:1903.03176.

    Actions are sticky with probability 0.1 and the difficulty grows, as published.

    ## Spaces
    Action: Discrete, the game's own actions (the "minimal" set). Observation: Box float32 (10 * 10 * channels,), 0 or
    1 for each cell and kind of object, the kind changing fastest.

    ## Ends
    Terminates when the game is over. The limit of 10,000 frames is the wrappers', which truncate.
    """

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    render_mode = "rgb_array"

    def __init__(self, game: str):
        package: Any = importlib.import_module("minatar")  # by name, as it may be missing
        self._game = package.Environment(game)
        self._actions = self._game.minimal_action_set()
        self.action_space = spaces.Discrete(len(self._actions))
        self._kinds = self._game.state_shape()[2]
        self.observation_space = spaces.Box(0, 1, (int(np.prod(self._game.state_shape())),), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self._game.seed(seed % 2**32)
        self._game.last_action = 0  # a sticky first action would repeat one of the last episode
        self._game.reset()
        return self._observe(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        reward, over = self._game.act(self._actions[int(action)])
        return self._observe(), float(reward), bool(over), False, {}

    def render(self) -> Any:
        """Return the picture uint8 [80, 80, 3]: one colour for each kind of object, the last kind on top."""
        kind = (self._game.state() * np.arange(1, self._kinds + 1)).max(-1)
        return _palette(self._kinds)[kind].repeat(CELL, 0).repeat(CELL, 1)

    def _observe(self) -> np.ndarray:
        return self._game.state().astype(np.float32).ravel()


def _palette(kinds: int) -> np.ndarray:
    """Return colours uint8 [kinds + 1, 3]: black, then hues spaced evenly."""
    hue = np.arange(kinds)[:, None] / kinds + np.array([0, 1 / 3, 2 / 3])
    colours = 140 + 110 * np.cos(2 * np.pi * hue)
    return np.concatenate([np.zeros((1, 3)), colours]).astype(np.uint8)


def _build(task: str, settings: EnvSettings) -> gymnasium.Env:
    game = MinAtarGame(task.replace("-", "_"))
    return wrap(game, settings, name=f"minatar:{task}", frame_limit=FRAMES)


def _tasks() -> tuple[str, ...]:
    return GAMES


ADAPTER = PackageAdapter("minatar", "minatar", _tasks, _build)
