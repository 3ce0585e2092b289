"""The environment catch, and the adapter by which worldlab finds it."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from worldlab.settings import EnvSettings

SIDE = 8
"""Cells along a side."""
PIXELS = 2
"""Pixels along a side of a cell."""


class CatchWorld(gymnasium.Env):
    """A ball falls down a grid of 8 x 8 cells, and a paddle in the last row must be below it.

    Observation: uint8 (16, 16, 3). Action: Discrete(3), the paddle goes left, stays, goes right. Reward: 1 if the ball is
    caught, -1 if not. Terminates when the ball is in the last row, after 7 steps. After Osband et al. 2019 (bsuite),
    arXiv:1908.03568.
    """

    observation_space = spaces.Box(0, 255, (SIDE * PIXELS, SIDE * PIXELS, 3), np.uint8)
    action_space = spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Start with the ball in a random column of the first row."""
        super().reset(seed=seed)
        self.row, self.column, self.paddle = 0, int(self.np_random.integers(SIDE)), SIDE // 2
        return self.observe(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Move the paddle, then the ball."""
        self.paddle = min(max(self.paddle + int(action) - 1, 0), SIDE - 1)
        self.row += 1
        ended = self.row == SIDE - 1
        reward = (1.0 if self.paddle == self.column else -1.0) if ended else 0.0
        return self.observe(), reward, ended, False, {}

    def observe(self) -> np.ndarray:
        """Draw the ball in white and the paddle in blue."""
        cells = np.zeros((SIDE, SIDE, 3), np.uint8)
        cells[SIDE - 1, self.paddle] = (40, 80, 255)
        cells[self.row, self.column] = 255
        return cells.repeat(PIXELS, 0).repeat(PIXELS, 1)


class CatchAdapter:
    """Names the environments of this plugin and builds them. `--env catch` finds it by `resolve`."""

    def names(self) -> list[str]:
        """Return the ids."""
        return ["catch"]

    def resolve(self, id: str) -> str | None:
        """Return the full id for what a user typed; None if it is not one of this plugin's."""
        return id if id in self.names() else None

    def make(self, id: str, settings: EnvSettings) -> gymnasium.Env:
        """Build the environment. worldlab applies the settings (repeat, size, time_limit) to what this returns."""
        return CatchWorld()
