"""The stand-in where there is no environment: a data set gives the spaces, and nothing can be stepped."""

from __future__ import annotations

from typing import Any

import gymnasium
from gymnasium import spaces

from worldlab.errors import EnvError

NO_ENV = "none"
"""The id of `--env` for a run that learns from a data set without an environment."""


class SpacesEnv(gymnasium.Env):
    """Has the spaces of a data set. Raises: EnvError when it is reset or stepped."""

    def __init__(self, observation_space: spaces.Dict, action_space: spaces.Space):
        self.observation_space = observation_space
        self.action_space = action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        raise EnvError(
            "this run has no environment, only a data set",
            cause="its env.id is none, so its agent can act in dreams only",
            fix="train with --env ID, an environment with the spaces of the data set",
        )

    def step(self, action: Any) -> Any:
        return self.reset()


__all__ = ["NO_ENV", "SpacesEnv"]
