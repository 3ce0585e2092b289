"""Defines what a step of several environments gives: the result of one, and those of all as arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Obs = dict[str, np.ndarray]


@dataclass(frozen=True)
class Arrivals:
    """The results of one step of N environments; row i belongs to environment i.

    obs: {key: [N, ...]}; where an episode ended, its final observation. reward: float32 [N]. terminated, truncated:
    bool [N]. is_first: bool [N], true after `reset`, and where an environment was restarted after a crash: its step is
    lost, and obs is the first observation of a new episode. reset_obs: {key: [N, ...]}, the first observation of the
    next episode, meaningful where `done`; None when nothing ended. finished: (env, return, length in steps) of the
    episodes that ended. skipped: bool [N], true where the environment was not stepped: obs is the last
    one again, reward is 0.
    """

    obs: Obs
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    is_first: np.ndarray
    reset_obs: Obs | None
    finished: list[tuple[int, float, int]]
    skipped: np.ndarray

    @property
    def done(self) -> np.ndarray:
        """bool [N]: the episode ended with this step."""
        return self.terminated | self.truncated

    @property
    def taken(self) -> int:
        """Number of environments that were stepped: those that neither were skipped nor began an episode."""
        return int((~self.skipped & ~self.is_first).sum())


@dataclass(slots=True)
class Step:
    """The result of one environment; reset_obs and finished are set when the episode ended."""

    obs: Obs
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    first: bool = False
    reset_obs: Obs | None = None
    finished: tuple[float, int] | None = None
    skipped: bool = False


def stack(steps: list[Step]) -> Arrivals:
    """Return the results of all environments as arrays; they are copies."""
    obs = {key: _stack_arrays([step.obs[key] for step in steps]) for key in steps[0].obs}
    finished = [(env, *step.finished) for env, step in enumerate(steps) if step.finished is not None]
    reset_obs = None
    if finished:
        reset_obs = {key: np.zeros_like(value) for key, value in obs.items()}
        for env, step in enumerate(steps):
            for key, value in (step.reset_obs or {}).items():
                reset_obs[key][env] = value
    flags = np.array([(step.terminated, step.truncated, step.first, step.skipped) for step in steps], bool)
    return Arrivals(
        obs=obs,
        reward=np.array([step.reward for step in steps], np.float32),
        terminated=flags[:, 0],
        truncated=flags[:, 1],
        is_first=flags[:, 2],
        reset_obs=reset_obs,
        finished=finished,
        skipped=flags[:, 3],
    )


def _stack_arrays(values: list[Any]) -> np.ndarray:
    """Stack copies of the values along a new first axis: an environment may reuse its buffers."""
    return np.array(values[0])[None] if len(values) == 1 else np.stack(values)  # np.stack of one value is slow
