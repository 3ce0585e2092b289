"""The baseline without a world model: Stable-Baselines3's own algorithms on the environment itself, at the same steps."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import final

import gymnasium
import numpy as np
import stable_baselines3
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from worldlab.config.resolve import RunConfig
from worldlab.env.pool import Obs
from worldlab.env.spaces import encode_action
from worldlab.errors import ConfigError, did_you_mean
from worldlab.evaluation.episodes import EVAL_SEED, Evaluation
from worldlab.interfaces import parameter_count
from worldlab.registry import Registry
from worldlab.settings import CoreSettings
from worldlab.study.compare.baselines import FixedPolicy, film, judged, picture_of
from worldlab.study.results import Trial
from worldlab.training.loop import crossed
from worldlab.training.session import open_env, set_up_machine, spaces_of

SMALLEST = 36
"""Pixels along a side below which SB3's convolutions have nothing left to look at; smaller pictures are enlarged."""
ALGORITHMS = {
    "PPO": spaces.Space, "A2C": spaces.Space, "DQN": spaces.Discrete,
    "SAC": spaces.Box, "TD3": spaces.Box, "DDPG": spaces.Box,
}  # fmt: skip
"""What `model-free:NAME` may name, and the actions each can do with."""


def algorithm_for(action_space: spaces.Space, name: str = "") -> str:
    """The algorithm of Stable-Baselines3: PPO for discrete actions and SAC for continuous ones, unless one is named.

    Raises: ConfigError for a name that is unknown or cannot do with the actions.
    """
    if not name:
        return "PPO" if isinstance(action_space, spaces.Discrete) else "SAC"
    fitting = [known for known, kind in ALGORITHMS.items() if isinstance(action_space, kind)]
    if name not in ALGORITHMS:
        raise ConfigError(
            f"no model-free algorithm named {name[:20]!r}.{did_you_mean(name, ALGORITHMS)}",
            fix=f"model-free:NAME with one of {', '.join(fitting)}",
        )
    if name not in fitting:
        raise ConfigError(
            f"model-free:{name} cannot do with these actions",
            cause=f"the action space is {action_space}"[:300],
            fix=f"model-free, which chooses by itself, or model-free:NAME with one of {', '.join(fitting)}",
        )
    return name


def model_free_trial(blank: Trial, config: RunConfig, registry: Registry, folder: Path, name: str = "") -> Trial:
    """An algorithm of Stable-Baselines3 on the environment itself: its own defaults, the models' steps and evaluations."""
    start, core = time.perf_counter(), config.core
    device = set_up_machine(core)
    _, make = open_env(config, registry)
    _, make_collecting = open_env(config, registry, collecting=True)
    obs_space, action_space = spaces_of(make)
    env = EnlargedPictures(make_collecting())
    try:
        cls = getattr(stable_baselines3, algorithm_for(action_space, name))
        sizes, steps = sizes_for(cls, core.steps)
        algorithm = cls("MultiInputPolicy", env, seed=core.seed, device=device, **sizes)
        algorithm.set_logger(Logger(None, []))  # nothing is printed or written
        policy = FixedPolicy(lambda obs: _chosen(algorithm, env, action_space, obs, core.eval.deterministic))
        judge = Judge(lambda episodes, record: judged(policy, make, core, episodes, record), core)
        updates = _count_updates(algorithm)
        algorithm.learn(steps, callback=judge, log_interval=None)
    finally:
        env.close()
    outcome = judge(core.eval.final_episodes, picture_of(obs_space))
    film(outcome, folder)
    return replace(
        blank,
        status="finished",
        env_steps=algorithm.num_timesteps,
        updates=len(updates),
        wall_seconds=round(time.perf_counter() - start, 1),
        parameters=parameter_count([algorithm.policy]),
        returns=tuple(outcome.returns),
        curve=(*judge.curve, (algorithm.num_timesteps, float(np.mean(outcome.returns)))),
    )


def sizes_for(cls: type[BaseAlgorithm], steps: int) -> tuple[dict[str, int], int]:
    """The sizes that a budget of environment steps asks for where SB3's defaults would leave steps unused, and the steps.

    On-policy algorithms learn from whole rollouts: theirs are cut so that as many as are begun are also learned from
    (2,048 steps each would leave PPO untrained after 2,000). A buffer larger than the run would only cost memory.
    """
    if not issubclass(cls, OnPolicyAlgorithm):
        return {"buffer_size": min(steps, inspect.signature(cls).parameters["buffer_size"].default)}, steps
    rollouts = -(-steps // inspect.signature(cls).parameters["n_steps"].default)
    return {"n_steps": steps // rollouts}, steps // rollouts * rollouts


class Judge(BaseCallback):
    """Evaluates an algorithm as it learns, at the steps at which a model's run would be; stops it when a model's time is up."""

    def __init__(self, judge: Callable[[int, str | None], Evaluation], core: CoreSettings):
        super().__init__()
        self._judge, self._core, self._before = judge, core, 0
        self._end = math.inf if core.minutes is None else time.monotonic() + 60 * core.minutes
        self.curve: list[tuple[int, float]] = []

    def __call__(self, episodes: int, record: str | None = None) -> Evaluation:
        # A stream of its own: how often an algorithm is judged does not change what it learns.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(EVAL_SEED)
            return self._judge(episodes, record)

    def _on_step(self) -> bool:
        before, self._before = self._before, self.num_timesteps
        if crossed(before, self.num_timesteps, self._core.eval.every) and self.num_timesteps < self._core.steps:
            outcome = self(self._core.eval.episodes)
            self.curve.append((self.num_timesteps, float(np.mean(outcome.returns))))
        return time.monotonic() < self._end


@final
class EnlargedPictures(gymnasium.ObservationWrapper):
    """Shows pictures below SMALLEST pixels with every pixel repeated; all else as it is."""

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        assert isinstance(env.observation_space, spaces.Dict)
        self._times = {
            key: -(-SMALLEST // min(space.shape[:2]))
            for key, space in env.observation_space.spaces.items()
            if space.shape is not None and len(space.shape) == 3
        }
        self.observation_space = spaces.Dict(
            {key: self._space(key, space) for key, space in env.observation_space.spaces.items()}
        )

    def observation(self, observation: Obs) -> Obs:
        """obs: {key: [..., H, W, C] or vectors}, of one environment or of several."""
        return {key: _repeated(value, self._times.get(key, 1)) for key, value in observation.items()}

    def _space(self, key: str, space: spaces.Space) -> spaces.Space:
        if self._times.get(key, 1) == 1:
            return space
        assert isinstance(space, spaces.Box)
        times = self._times[key]
        return spaces.Box(_repeated(space.low, times), _repeated(space.high, times), dtype=space.dtype.type)


def _repeated(pictures: np.ndarray, times: int) -> np.ndarray:
    return pictures if times == 1 else pictures.repeat(times, -3).repeat(times, -2)


def _chosen(
    algorithm: BaseAlgorithm, env: EnlargedPictures, action_space: spaces.Space, obs: Obs, deterministic: bool
) -> np.ndarray:
    native, _ = algorithm.predict(env.observation(obs), deterministic=deterministic)
    return encode_action(action_space, native)


def _count_updates(algorithm: BaseAlgorithm) -> list[None]:
    """A list that grows by one with every gradient step: of the critic where it has an optimiser of its own."""
    steps: list[None] = []
    owner = getattr(algorithm, "critic", None) or algorithm.policy
    owner.optimizer.register_step_post_hook(lambda *_: steps.append(None))
    return steps
