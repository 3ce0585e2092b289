"""Evaluates an agent in the real environment: a fixed number of episodes, new seeds, no exploration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch

from worldlab.agent import LearnsFromEpisodes
from worldlab.env.pool import TIMEOUT, EnvPool
from worldlab.env.spaces import decode_action
from worldlab.evaluation.dream_gap import Gap, GapProbe
from worldlab.experience.acting import ActingAgent
from worldlab.experience.collect import next_obs
from worldlab.runs.machine import available_cores

MAX_ENVS = 10
"""Largest number of environments that an evaluation steps together."""
EVAL_SEED = 10_000
"""Seed of the evaluation episodes, separate from the training seeds."""


@dataclass(frozen=True)
class Evaluation:
    """Returns and lengths (in decisions) of the evaluated episodes; frames of the first, if recorded."""

    returns: list[float]
    lengths: list[int]
    seed: int
    deterministic: bool
    frames: list[np.ndarray]
    gap: Gap | None = None

    def summary(self) -> dict[str, Any]:
        """Return the evaluation as result.json and `worldlab eval --json` show it."""
        count = len(self.returns)
        dream = {} if self.gap is None else {"dream": self.gap.summary()}
        return {
            "episodes": count,
            "return_mean": float(np.mean(self.returns)),
            "return_std": float(np.std(self.returns, ddof=1)) if count > 1 else None,
            "returns": self.returns,
            "lengths": self.lengths,
            "protocol": {
                "env": "real",
                "seed": self.seed,
                "deterministic": self.deterministic,
                "episodes_per_env": "equal shares, first episodes of each",
            },
            **dream,
        }


class Interrupted(Exception):
    """An evaluation was stopped before its end."""


def eval_workers(training: int) -> int:
    """Return the number of evaluation workers: all cores, since nothing trains meanwhile; 0 if training uses none."""
    return available_cores() if training else 0


def evaluate(
    acting: ActingAgent,
    make: Callable[[], gymnasium.Env],
    *,
    episodes: int,
    seed: int,
    workers: int = 0,
    timeout: float = TIMEOUT,
    record: str | None = None,
    deterministic: bool = True,
    dream_horizon: int = 0,
    stop: Callable[[], object] = lambda: False,
) -> Evaluation:
    """Play `episodes` whole episodes. deterministic: the agent does not explore.

    timeout: seconds an environment may take. record: an observation key; frames of the first episode are kept.
    dream_horizon: over how many decisions to measure the dream-to-real gap of the first episodes; 0 skips it. stop: called
    before each step; Interrupted is raised once it returns true. Each environment plays a number of episodes fixed
    beforehand, so that short episodes are not over-represented. A crash is an error: no episode is played again.
    """
    n = min(episodes, MAX_ENVS)
    share = [episodes // n + (i < episodes % n) for i in range(n)]
    results: list[list[tuple[float, int]]] = [[] for _ in range(n)]
    frames: list[np.ndarray] = []
    # Such an agent explores with sampled candidates; always evaluate the controller it would choose.
    deterministic = deterministic or isinstance(acting.agent, LearnsFromEpisodes)
    probe = GapProbe(acting, dream_horizon, deterministic) if dream_horizon else None
    with EnvPool(make, n, workers, seed, timeout=timeout) as pool:
        arrivals = pool.reset()
        state, first = None, np.ones(n, bool)
        while any(len(got) < want for got, want in zip(results, share, strict=True)):
            if stop():
                raise Interrupted
            obs = next_obs(arrivals)
            if record is not None and not results[0]:
                frames.append(obs[record][0].copy())
            encoded, state = acting.choose(obs, state, first, explore=not deterministic)
            arrivals = pool.step(decode_action(pool.action_space, encoded))
            first = arrivals.done
            if probe is not None:
                probe.record_decision(state)
                probe.record_step(arrivals.reward, arrivals.terminated, arrivals.truncated)
            for env, ret, length in arrivals.finished:
                if len(results[env]) < share[env]:
                    results[env].append((float(ret), int(length)))
    flat = [item for got in results for item in got]
    # A separate random stream, so that measuring the gap does not change the evaluation.
    source = torch.Generator(acting.model.device).manual_seed(seed)
    gap = None if probe is None else probe.measure(source)
    return Evaluation([ret for ret, _ in flat], [length for _, length in flat], seed, deterministic, frames, gap)
