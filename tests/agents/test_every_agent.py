"""Every agent with every family in all three roles, on vectors and on pictures: it trains, acts and is judged."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from config_kit import configured
from family_kit import FAMILIES
from gymnasium import spaces
from worldlab_agents.configs import ActorCriticConfig

from worldlab.config.resolve import Part, RunConfig
from worldlab.errors import ConfigError
from worldlab.experience.acting import ActingAgent
from worldlab.model.noise import noise_batch, stream
from worldlab.registry import load_registry
from worldlab.settings import CoreSettings
from worldlab.testing import small_config
from worldlab.training.compose import compose
from worldlab.training.streams import Streams
from worldlab.training.train import train
from worldlab.training.trainer import Generators, Trainer

pytestmark = pytest.mark.usefixtures("blank_plots")
REGISTRY = load_registry()
AGENTS = [found.name for found in REGISTRY.registrations("agent")]
ENVS = {"vectors": "Pendulum", "pictures": "branch"}
CASES = [
    (agent, family, list(ENVS)[(row + column) % 2])
    for row, agent in enumerate(AGENTS)
    for column, family in enumerate(FAMILIES)
]
"""Every agent with every family, and every agent and every family with vectors and with pictures: an agent reads features, so
the kind of observation and the family do not meet in it."""
CONTINUOUS_ONLY = {"sac"}
SMALL = {
    "horizon": 3, "units": 8, "layers": 1, "candidates": 8, "elites": 4, "iterations": 2, "proposals": 2, "every": 1,
    "num_envs": 2, "steps": 8, "batch_size": 4, "epochs": 1, "buffer": 32, "population": 4, "rollouts": 2, "reused": 2,
}  # fmt: skip


VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "a guided planner": (
        "mppi",
        {"guide": True, "guide_with": ActorCriticConfig(units=8, horizon=2)},
    ),
    "a planner in a hurry": ("icem", {"budget_ms": 2.0}),
    "evolution in episodes": ("cma", {"where": "real"}),
    "evolution in dreams, then in episodes": ("cma", {"where": "both", "settle": 2, "averaging": 0.5}),
    "hot dreams": ("ppo", {"temperature": 1.5}),
}
"""Ways to use an agent that its defaults are not."""


def agent_part(name: str, more: dict[str, Any] | None = None) -> Part:
    registered = REGISTRY.get("agent", name)
    config = registered.config
    assert config is not None
    small = {key: value for key, value in SMALL.items() if key in config.model_fields or hasattr(config, key)}
    return Part(name, configured(config, **{**registered.preset, **small, **(more or {})}))


def config_of(agent: str, family: str, env: str, more: dict[str, Any] | None = None) -> RunConfig:
    core = CoreSettings.model_validate(
        {
            "env": {"id": env, "time_limit": 8},
            "steps": 28,
            "device": "cpu",
            "model": {"units": 8, "frames_per_update": 4},
            "train": {"prefill": 16, "pretrain": 1, "ratio": 0.2, "batch_size": 2, "batch_length": 8, "starts": 6, "threads": 1},
            "eval": {"every": 0, "final_episodes": 1, "dream_horizon": 4},
            "log": {"every": 14, "pictures": 0, "checkpoint": 1000, "track": ["none"]},
        }
    )  # fmt: skip
    roles = {
        role: Part(family, small_config(REGISTRY.get(role, family).config))
        for role in ("encoder", "dynamics", "decoder")
    }
    return RunConfig(core=core, **roles, agent=agent_part(agent, more), presets=())


@pytest.mark.slow
@pytest.mark.parametrize(("agent", "family", "kind"), CASES)
def test_every_agent_works_in_every_family(agent: str, family: str, kind: str, tmp_path: Path):
    torch.set_num_threads(1)
    config = config_of(agent, family, ENVS[kind])
    if kind == "pictures" and agent in CONTINUOUS_ONLY:
        with pytest.raises(ConfigError, match="discrete actions"):
            train(config, REGISTRY, run=tmp_path / "run")
        return
    result = train(config, REGISTRY, run=tmp_path / "run")
    assert result["env_steps"] == 28 and result["updates"] >= 2
    assert len(result["returns"]) == 1 and math.isfinite(result["return_mean"])


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_what_agents_offer_beyond_their_defaults_works_in_every_family(variant: str, family: str, tmp_path: Path):
    torch.set_num_threads(1)
    agent, more = VARIANTS[variant]
    result = train(config_of(agent, family, ENVS["vectors"], more), REGISTRY, run=tmp_path / "run")
    assert result["env_steps"] >= 28 and len(result["returns"]) == 1 and math.isfinite(result["return_mean"])


@pytest.mark.parametrize("agent", AGENTS)
def test_every_agent_acts_on_particles_and_learns_from_them(agent: str):
    """With `model.samples` above 1 agents see features of the same width, of the carry's mean."""
    base = config_of(agent, "vae", "Pendulum")
    core = base.core.model_copy(update={"model": base.core.model.model_copy(update={"samples": 3})})
    box = spaces.Dict({"obs": spaces.Box(-1, 1, (3,), np.float32)})
    act = spaces.Box(-2, 2, (1,), np.float32)
    built = compose(replace(base, core=core), REGISTRY, box, act, Streams(0), torch.device("cpu"))
    acting, state = ActingAgent(built.model, built.agent, act, stream(0)), None
    for explore, first in ((True, True), (False, False), (False, True)):
        obs = {"obs": np.full((2, 3), 0.3, np.float32)}
        action, state = acting.choose(obs, state, np.array([first, False]), explore)
        assert action.shape == (2, 1) and np.isfinite(action).all()
        assert state["carry"].particles.z.shape[:2] == (2, 3)
    trainer = Trainer(built.model, built.agent, core.train, Generators(stream(1), stream(2)))
    out = trainer.update(noise_batch(built.specs.obs, built.specs.action, 2, 6, stream(3)))
    assert all(bool(value.isfinite().all()) for value in out.values()) and "loss/dyn" in out
