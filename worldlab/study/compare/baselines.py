"""Runs random play, and evaluates policies that have no world model by the models' protocol.

The model-free baseline is worldlab.study.compare.model_free. The baseline with untrained dynamics is an ordinary
training run with train.freeze = ["dynamics"].
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from gymnasium import spaces

from worldlab.config.resolve import RunConfig
from worldlab.env.arrivals import Obs
from worldlab.env.spaces import action_spec
from worldlab.evaluation.episodes import EVAL_SEED, Evaluation, eval_workers, evaluate
from worldlab.experience.acting import ActingAgent
from worldlab.experience.collect import random_actions
from worldlab.registry import Registry
from worldlab.runs.pictures import save_webp
from worldlab.runs.storage import make_folder
from worldlab.settings import CoreSettings
from worldlab.study.results import Trial
from worldlab.training.machine import set_up_machine
from worldlab.training.session import Make, open_env, spaces_of


class FixedPolicy:
    """A memoryless policy, in the form that `evaluate` needs.

    act: maps observations {key: [N, ...]} to encoded actions [N, A].
    """

    agent = None
    model = SimpleNamespace(device=torch.device("cpu"))

    def __init__(self, act: Callable[[Obs], np.ndarray]):
        self._act = act

    def choose(self, obs: Obs, state: Any, is_first: np.ndarray, explore: bool) -> tuple[np.ndarray, Any]:
        return self._act(obs), state


def run_random(empty_trial: Trial, config: RunConfig, registry: Registry, folder: Path) -> Trial:
    """Evaluate uniform actions in the real environment, on the episodes of every method's final evaluation."""
    start = time.perf_counter()
    set_up_machine(config.core)
    _, make = open_env(config, registry)
    obs_space, action_space = spaces_of(make)
    spec, rng = action_spec(action_space), np.random.default_rng([EVAL_SEED, config.core.seed])
    policy = FixedPolicy(lambda obs: random_actions(spec, len(next(iter(obs.values()))), rng))
    outcome = evaluate_fixed(policy, make, config.core, config.core.eval.final_episodes, video_key(obs_space))
    save_video(outcome, folder)
    mean = float(np.mean(outcome.returns))
    seconds = round(time.perf_counter() - start, 1)
    return replace(
        empty_trial, status="finished", returns=tuple(outcome.returns), curve=((0, mean),), wall_seconds=seconds
    )


def evaluate_fixed(
    policy: FixedPolicy, make: Make, core: CoreSettings, episodes: int, record: str | None
) -> Evaluation:
    """Evaluate a policy on the same episodes as every other method. record: the image observation to record."""
    return evaluate(
        cast(ActingAgent, policy),
        make,
        episodes=episodes,
        seed=EVAL_SEED,
        workers=eval_workers(core.env.workers),
        timeout=core.env.timeout,
        record=record,
        deterministic=core.eval.deterministic,
    )


def video_key(obs_space: spaces.Dict) -> str | None:
    """Return the key of the first image observation, which videos show; None if there is none."""
    return next((key for key, space in obs_space.spaces.items() if len(space.shape or ()) == 3), None)


def save_video(outcome: Evaluation, folder: Path) -> None:
    """Save the recorded first episode, if any, at the path that a training run uses."""
    if outcome.frames:
        save_webp(np.stack(outcome.frames), make_folder(folder / "videos") / "evaluation.webp", fps=15)
