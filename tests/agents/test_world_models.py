"""`--preset world-models`: the paper's sizes, and the whole recipe in small."""

from __future__ import annotations

import math
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from worldlab.config.resolve import resolve
from worldlab.interfaces import parameter_count
from worldlab.registry import load_registry
from worldlab.training.compose import compose
from worldlab.training.streams import Streams
from worldlab.training.train import train

pytestmark = pytest.mark.usefixtures("blank_plots")
REGISTRY = load_registry()
PRESET = ["world-models"]


def test_the_parts_have_the_papers_sizes():
    """V 4,348,547 and M 422,368 (423,392 with the second, idle bias of PyTorch's LSTM); C 867 numbers."""
    config = resolve(REGISTRY, presets=PRESET, flags={"env": {"id": "CarRacing"}, "agent": {"components": 0}})
    image = spaces.Dict({"image": spaces.Box(0, 255, (64, 64, 3), np.uint8)})
    action = spaces.Box(np.array([-1, 0, 0], np.float32), np.ones(3, np.float32))
    built = compose(config, REGISTRY, image, action, Streams(0), torch.device("cpu"))
    model = built.model
    assert parameter_count([model.encoder, model.decoder]) == 4_348_547
    assert parameter_count([model.dynamics]) == 422_368
    assert built.agent.controller.size == 867  # type: ignore[union-attr]
    assert not (built.specs.use_memory or built.specs.decoder_memory)


class Dial(gymnasium.Env):
    """A picture as bright as a dial that the action turns; the brighter the better. Ten steps."""

    observation_space = spaces.Box(0, 255, (16, 16, 3), np.uint8)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.level, self.count = 0.5, 0
        return self._picture(), {}

    def step(self, action):
        self.level = float(np.clip(self.level + 0.2 * action[0], 0, 1))
        self.count += 1
        return self._picture(), self.level, False, self.count == 10, {}

    def _picture(self):
        return np.full((16, 16, 3), 255 * self.level, np.uint8)


gymnasium.register("worldlab-test/Dial-v0", Dial)


@pytest.mark.slow
def test_the_recipe_finds_out_how_to_turn_the_dial(tmp_path: Path):
    flags = {
        "env": {"id": "worldlab-test/Dial-v0", "repeat": 1, "size": 64, "num_envs": 4, "workers": 0},
        "steps": 1_200,
        "train": {
            "prefill": 240,
            "pretrain": 60,
            "pretrain_agent": 40,
            "batch_size": 4,
            "batch_length": 8,
            "threads": 1,
        },
        "encoder": {"width": 4, "latent_dim": 4},
        "decoder": {"width": 4, "frames": 16},
        "dynamics": {"memory": 16},
        "agent": {"population": 4, "rollouts": 4, "horizon": 5, "components": 4},
        "eval": {"every": 0, "final_episodes": 4, "dream_horizon": 4},
        "log": {"every": 200, "pictures": 0, "checkpoint": 10_000, "track": ["none"]},
    }
    result = train(resolve(REGISTRY, presets=PRESET, flags=flags), REGISTRY, run=tmp_path / "run")
    assert result["updates"] == 100  # V and M, then the agent in dreams; none while it plays
    # Standing still earns 5 an episode, turning up at once 0.7 + 0.9 + 8 = 9.6.
    assert math.isfinite(result["return_mean"]) and result["return_mean"] > 8
