"""MiniGrid's and BabyAI's gridworlds, observed as the agent sees them."""

from __future__ import annotations

import importlib
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from worldlab.env.wrappers import wrap
from worldlab.settings import EnvSettings
from worldlab_envs.package_adapter import PackageAdapter, installed

PREFIXES = ("MiniGrid-", "BabyAI-")
TILE = 8
"""Pixels along a side of a cell in pictures."""


class OneHotView(gymnasium.ObservationWrapper):
    """Converts the codes (object, colour, state) of each cell in view into one-hots.

    ## Spaces
    Observation: Dict of view, Box float32 (cells * (objects + colours + states),), which is 980 numbers for 7 x 7
    cells, instead of image; the other entries are unchanged: direction, and mission, a text that the wrappers drop.
    """

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        constants: Any = importlib.import_module("minigrid.core.constants")
        tables = (constants.OBJECT_TO_IDX, constants.COLOR_TO_IDX, constants.STATE_TO_IDX)
        assert isinstance(env.observation_space, spaces.Dict)
        parts = dict(env.observation_space.spaces)
        self._codes = [np.eye(len(table), dtype=np.float32) for table in tables]
        height, width, _ = parts.pop("image").shape or (0, 0, 0)
        parts["view"] = spaces.Box(0, 1, (height * width * sum(map(len, self._codes)),), np.float32)
        self.observation_space = spaces.Dict(parts)

    def observation(self, observation: dict[str, Any]) -> dict[str, Any]:
        parts = dict(observation)
        cells = parts.pop("image").reshape(-1, len(self._codes))
        view = np.concatenate([code[cells[:, i]] for i, code in enumerate(self._codes)], axis=1)
        return {**parts, "view": view.ravel()}


def _short_names() -> dict[str, str]:
    """Return {short name: Gymnasium id} of the newest version of each environment; empty if MiniGrid is missing."""
    if not installed("minigrid"):
        return {}
    importlib.import_module("minigrid")  # registers its environments; by name, as it may be missing
    from gymnasium.envs.registration import registry

    found = sorted(
        (spec.version or 0, spec.name, id) for id, spec in registry.items() if spec.name.startswith(PREFIXES)
    )
    return {name.removeprefix(PREFIXES[0]): id for _, name, id in found}


def _build(task: str, settings: EnvSettings) -> gymnasium.Env:
    id = _short_names()[task]
    # What is drawn is what the agent sees: `env.pixels` keeps the task partially observed.
    env = gymnasium.make(
        id, render_mode="rgb_array", agent_pov=True, tile_size=TILE, highlight=False, disable_env_checker=True
    )
    return wrap(OneHotView(env), settings, name=f"minigrid:{task}")


def _tasks() -> list[str]:
    return list(_short_names())


ADAPTER = PackageAdapter("minigrid", "minigrid", _tasks, _build, returns=(-1.0, 1.0))
