"""The model-free baseline: trains an algorithm of Stable-Baselines3 in the real environment for the models' steps."""

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
from worldlab.env.arrivals import Obs
from worldlab.env.spaces import encode_action
from worldlab.errors import ConfigError, did_you_mean
from worldlab.evaluation.episodes import EVAL_SEED, Evaluation
from worldlab.interfaces import parameter_count
from worldlab.registry import Registry
from worldlab.settings import CoreSettings
from worldlab.study.compare.baselines import FixedPolicy, evaluate_fixed, save_video, video_key
from worldlab.study.results import Trial
from worldlab.training.loop import crossed
from worldlab.training.machine import set_up_machine
from worldlab.training.session import open_env, spaces_of

MIN_SIDE = 36
"""The smallest image side, in pixels, that the convolutions of SB3 support; smaller images are upscaled."""
ALGORITHMS = {
    "PPO": spaces.Space, "A2C": spaces.Space, "DQN": spaces.Discrete,
    "SAC": spaces.Box, "TD3": spaces.Box, "DDPG": spaces.Box,
}  # fmt: skip
"""The algorithms that `model-free:NAME` accepts, with the action spaces that each supports."""


def algorithm_for(action_space: spaces.Space, name: str = "") -> str:
    """Return the algorithm of Stable-Baselines3: by default PPO for discrete actions and SAC for continuous ones.

    Raises: ConfigError for an unknown name, and for an algorithm that does not support the action space.
    """
    if not name:
        return "PPO" if isinstance(action_space, spaces.Discrete) else "SAC"
    supported = [known for known, kind in ALGORITHMS.items() if isinstance(action_space, kind)]
    if name not in ALGORITHMS:
        raise ConfigError(
            f"no model-free algorithm named {name[:20]!r}.{did_you_mean(name, ALGORITHMS)}",
            fix=f"use model-free:NAME with one of {', '.join(supported)}",
        )
    if name not in supported:
        raise ConfigError(
            f"model-free:{name} does not support this action space",
            cause=f"the action space is {action_space}"[:300],
            fix=f"use model-free, which chooses an algorithm, or model-free:NAME with one of {', '.join(supported)}",
        )
    return name


def run_model_free(empty_trial: Trial, config: RunConfig, registry: Registry, folder: Path, name: str = "") -> Trial:
    """Train an algorithm of Stable-Baselines3 with its own defaults, and the steps and evaluations of the models."""
    start, core = time.perf_counter(), config.core
    device = set_up_machine(core)
    _, make = open_env(config, registry)
    _, make_collecting = open_env(config, registry, collecting=True)
    obs_space, action_space = spaces_of(make)
    env = UpscaledImages(make_collecting())
    try:
        cls = getattr(stable_baselines3, algorithm_for(action_space, name))
        sizes, steps = choose_sizes(cls, core.steps)
        algorithm = cls("MultiInputPolicy", env, seed=core.seed, device=device, **sizes)
        algorithm.set_logger(Logger(None, []))  # nothing is printed or written
        policy = FixedPolicy(lambda obs: _predict(algorithm, env, action_space, obs, core.eval.deterministic))
        periodic_eval = PeriodicEval(
            lambda episodes, record: evaluate_fixed(policy, make, core, episodes, record), core
        )
        updates = _count_updates(algorithm)
        algorithm.learn(steps, callback=periodic_eval, log_interval=None)
    finally:
        env.close()
    outcome = periodic_eval(core.eval.final_episodes, video_key(obs_space))
    save_video(outcome, folder)
    return replace(
        empty_trial,
        status="finished",
        env_steps=algorithm.num_timesteps,
        updates=len(updates),
        wall_seconds=round(time.perf_counter() - start, 1),
        parameters=parameter_count([algorithm.policy]),
        returns=tuple(outcome.returns),
        curve=(*periodic_eval.curve, (algorithm.num_timesteps, float(np.mean(outcome.returns)))),
    )


def choose_sizes(cls: type[BaseAlgorithm], steps: int) -> tuple[dict[str, int], int]:
    """Return constructor arguments that fit a budget of environment steps, and the number of steps to train for.

    On-policy algorithms learn from complete rollouts only, so rollouts are shortened until the budget is a whole
    number of them (with its default of 2,048 steps PPO would not learn at all in 2,000). A replay buffer is never
    larger than the run.
    """
    if not issubclass(cls, OnPolicyAlgorithm):
        return {"buffer_size": min(steps, inspect.signature(cls).parameters["buffer_size"].default)}, steps
    rollouts = -(-steps // inspect.signature(cls).parameters["n_steps"].default)
    return {"n_steps": steps // rollouts}, steps // rollouts * rollouts


class PeriodicEval(BaseCallback):
    """Evaluates an algorithm at the same steps as a model's run, and stops it at the same time limit."""

    def __init__(self, evaluate: Callable[[int, str | None], Evaluation], core: CoreSettings):
        super().__init__()
        self._evaluate, self._core, self._before = evaluate, core, 0
        self._end = math.inf if core.minutes is None else time.monotonic() + 60 * core.minutes
        self.curve: list[tuple[int, float]] = []

    def __call__(self, episodes: int, record: str | None = None) -> Evaluation:
        # Evaluation has its own random stream, so its frequency does not change training.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(EVAL_SEED)
            return self._evaluate(episodes, record)

    def _on_step(self) -> bool:
        before, self._before = self._before, self.num_timesteps
        if crossed(before, self.num_timesteps, self._core.eval.every) and self.num_timesteps < self._core.steps:
            outcome = self(self._core.eval.episodes)
            self.curve.append((self.num_timesteps, float(np.mean(outcome.returns))))
        return time.monotonic() < self._end


@final
class UpscaledImages(gymnasium.ObservationWrapper):
    """Repeats the pixels of images smaller than MIN_SIDE; other observations stay unchanged."""

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        assert isinstance(env.observation_space, spaces.Dict)
        self._factors = {
            key: -(-MIN_SIDE // min(space.shape[:2]))
            for key, space in env.observation_space.spaces.items()
            if space.shape is not None and len(space.shape) == 3
        }
        self.observation_space = spaces.Dict(
            {key: self._space(key, space) for key, space in env.observation_space.spaces.items()}
        )

    def observation(self, observation: Obs) -> Obs:
        """Upscale observations {key: [..., H, W, C] or vectors}, of a single environment or a batch."""
        return {key: _repeat_pixels(value, self._factors.get(key, 1)) for key, value in observation.items()}

    def _space(self, key: str, space: spaces.Space) -> spaces.Space:
        if self._factors.get(key, 1) == 1:
            return space
        assert isinstance(space, spaces.Box)
        factor = self._factors[key]
        return spaces.Box(_repeat_pixels(space.low, factor), _repeat_pixels(space.high, factor), dtype=space.dtype.type)


def _repeat_pixels(images: np.ndarray, factor: int) -> np.ndarray:
    return images if factor == 1 else images.repeat(factor, -3).repeat(factor, -2)


def _predict(
    algorithm: BaseAlgorithm, env: UpscaledImages, action_space: spaces.Space, obs: Obs, deterministic: bool
) -> np.ndarray:
    native, _ = algorithm.predict(env.observation(obs), deterministic=deterministic)
    return encode_action(action_space, native)


def _count_updates(algorithm: BaseAlgorithm) -> list[None]:
    """Return a list that grows by one with every gradient step: of the critic, if it has its own optimiser."""
    steps: list[None] = []
    owner = getattr(algorithm, "critic", None) or algorithm.policy
    owner.optimizer.register_step_post_hook(lambda *_: steps.append(None))
    return steps
