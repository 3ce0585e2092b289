"""Environments, heads and agents whose episodes and dreams have known returns."""

from __future__ import annotations

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from worldlab.agent import Agent
from worldlab.specs import ArraySpec, ObsSpec

OBS = ObsSpec((("vector", ArraySpec("vector", (3,))),))


class Evaluated(Agent):
    """Acts on the features, without noise in evaluation; exploration would be detected."""

    def __init__(self) -> None:
        super().__init__(None, None)  # type: ignore[arg-type]
        self.explored = False

    def act(self, model, carry, features, state, generator, explore):
        self.explored |= explore
        return torch.tanh(features[:, -2:]), state


class Constant(torch.nn.Module):
    """A head whose mean is the same everywhere."""

    def __init__(self, value: float):
        super().__init__()
        self.value = value

    def forward(self, features: Tensor) -> Constant:
        self.mean = torch.full(features.shape[:-1], self.value)
        return self


class Steady(gymnasium.Env):
    """Has reward 2 per step; ends after 4 + 2 n steps in the n-th environment."""

    observation_space = spaces.Dict({"vector": spaces.Box(-np.inf, np.inf, (3,), np.float32)})
    action_space = spaces.Box(-1, 1, (2,), np.float32)
    made = 0
    cut = False
    """Whether episodes end by truncation."""

    def __init__(self) -> None:
        self.length = 4 + 2 * Steady.made
        Steady.made += 1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return {"vector": np.zeros(3, np.float32)}, {}

    def step(self, action):
        self.t += 1
        return (
            {"vector": np.full(3, self.t, np.float32)},
            2.0,
            self.t == self.length and not self.cut,
            self.t == self.length and self.cut,
            {},
        )
