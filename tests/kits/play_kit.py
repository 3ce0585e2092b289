"""A game without training: an environment that draws a dot, and reference models whose pictures react to everything."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from model_kit import build_model, gen

from worldlab.agent import Agent
from worldlab.evaluation.playing.session import PlaySession
from worldlab.evaluation.playing.views import PlayedModel
from worldlab.specs import ActionSpec, ArraySpec, ObsSpec

SIDE = 16
IMAGE = ObsSpec((("image", ArraySpec("image", (3, SIDE, SIDE))),))
VECTOR = ObsSpec((("vector", ArraySpec("vector", (2,))),))
STEPS = ActionSpec("discrete", 3)


class Dot(gymnasium.Env):
    """A dot that actions 0 and 2 move to the sides, as a picture or as numbers; the reward is its place."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 15}  # noqa: RUF012
    action_space = spaces.Discrete(3)
    render_mode = "rgb_array"

    def __init__(self, *, vector: bool = False, length: int = 200, fail_at: int = -1):
        self.vector, self.length, self.fail_at, self.closed = vector, length, fail_at, False
        part = (
            spaces.Box(-np.inf, np.inf, (2,), np.float32) if vector else spaces.Box(0, 255, (SIDE, SIDE, 3), np.uint8)
        )
        self.observation_space = spaces.Dict({"vector" if vector else "image": part})

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.t = int(self.np_random.integers(4, 12)), 0
        return self._obs(), {}

    def step(self, action):
        self.t += 1
        if self.t == self.fail_at:
            raise ValueError("the dot is gone")
        self.x = int(np.clip(self.x + int(action) - 1, 0, SIDE - 1))
        return self._obs(), float(self.x), self.t == self.length, False, {}

    def render(self):
        picture = np.zeros((SIDE, SIDE, 3), np.uint8)
        picture[6:10, max(0, self.x - 1) : self.x + 2] = (255, 200, 40)
        return picture

    def close(self):
        self.closed = True

    def _obs(self) -> dict[str, np.ndarray]:
        return {"vector": np.array([self.x, self.t], np.float32)} if self.vector else {"image": self.render()}


class RightWard(Agent):
    """Always moves the dot to the right; its value is 1.5."""

    def __init__(self) -> None:
        super().__init__(None, None)  # type: ignore[arg-type]

    def act(self, model, carry, features, state, generator, explore):
        assert not explore, "a played agent does not explore"
        return torch.eye(3)[torch.full((len(features),), 2)], state

    def value(self, features):
        return torch.full(features.shape[:-1], 1.5)


def played(name: str = "dot", obs: ObsSpec = IMAGE, gain: float = 6.0, **choices: Any) -> PlayedModel:
    """A model with random weights, `gain` times as large as at the start, so that every input shows in its pictures."""
    model = build_model(obs=obs, action=STEPS, **choices)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(gain if weight.dim() > 1 else 1.0)
        for weight in model.cont.parameters():
            weight.normal_(generator=gen())
    return PlayedModel(name, model.requires_grad_(False), RightWard())


def names(*models: str) -> list[dict[str, Any]]:
    parts = {"encoder": "e", "dynamics": "d", "decoder": "p", "agent": "a"}
    return [{"name": model, "env": "Dot", "step": 1000, "parts": parts} for model in models or ("dot",)]


def session(*models: PlayedModel, seed: int = 0, **env: Any) -> PlaySession:
    return PlaySession(lambda: Dot(**env), models or (played(),), seed)
