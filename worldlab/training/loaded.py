"""Loads a trained run, evaluates it, draws its dreams and provides them as environments."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
import torch

from worldlab.config import provenance
from worldlab.config.resolve import RunConfig
from worldlab.env.none import NO_ENV
from worldlab.env.pool import EnvPool
from worldlab.env.spaces import action_spec, record_schema
from worldlab.errors import ConfigError
from worldlab.evaluation import open_loop
from worldlab.evaluation.episodes import EVAL_SEED, Evaluation, eval_workers, evaluate
from worldlab.evaluation.held_out import evaluate_held_out
from worldlab.experience.acting import ActingAgent
from worldlab.experience.collect import Collector, to_batch
from worldlab.experience.dataset import open_dataset
from worldlab.experience.offline import HeldOut
from worldlab.experience.replay import Replay
from worldlab.interfaces import Batch
from worldlab.registry import Registry
from worldlab.runs.best import open_best
from worldlab.runs.checkpoint import latest_valid
from worldlab.runs.folder import RunFolder
from worldlab.runs.pictures import save_webp
from worldlab.runs.storage import make_folder, refuse_links
from worldlab.training import session
from worldlab.training.compose import Composed, compose
from worldlab.training.machine import set_up_machine
from worldlab.training.session import Make
from worldlab.training.streams import Streams

if TYPE_CHECKING:
    from worldlab.evaluation.dream_env import DreamPool

log = logging.getLogger("worldlab")

STARTS = (4, 256, 32)
"""Experience from which dreams start: number of environments, steps in each, and length of the sampled sequences."""


@dataclass(frozen=True)
class LoadedRun:
    """A loaded run: its configuration, its model and agent with the newest weights, and its environment."""

    folder: RunFolder
    config: RunConfig
    env_id: str
    make: Make
    composed: Composed
    device: torch.device
    step: int
    action_space: gymnasium.Space[Any]
    schema: dict[str, Any]
    held_out: HeldOut | None = None
    """The held-out episodes of a run that has a data set and no environment."""

    def acting(self, seed: int) -> ActingAgent:
        """Return the agent, ready to act, with random numbers from `seed`."""
        generator = torch.Generator(self.device).manual_seed(seed)
        return ActingAgent(self.composed.model, self.composed.agent, self.action_space, generator)


def load_run(
    run: Path, registry: Registry, device: str = "auto", trusted: Collection[str] = (), *, best: bool = False
) -> LoadedRun:
    """Load a run from its folder without writing to it.

    trusted: modules that its environment may import. best: load the weights of the run's best evaluation, instead of the
    last ones. Raises: ConfigError, CheckpointError, PluginError.
    """
    folder = RunFolder.open(run)
    folder.report_texts()
    flags = {"device": device} if device != "auto" else {}
    config = provenance.resolve_saved(folder.path, registry, flags, trusted)
    provenance.warn_of_changes(provenance.find_changes(folder.path, config, registry))
    checkpoint = open_best(folder.checkpoints) if best else latest_valid(folder.checkpoints, move=False)
    for sentence in checkpoint.skipped:
        log.warning("%s", sentence)
    torch_device = set_up_machine(config.core)
    env_id, make = session.open_env(config, registry)
    with EnvPool(make, 1, timeout=config.core.env.timeout) as pool:
        obs_space, action_space = pool.observation_space, pool.action_space
    composed = compose(config, registry, obs_space, action_space, Streams(config.core.seed), torch_device)
    session.load_weights(composed, checkpoint)
    schema = record_schema(obs_space, action_spec(action_space))
    held_out = None
    if env_id == NO_ENV:
        held_out = HeldOut(open_dataset(config.core.data, registry), schema, config.core.env.size)
    return LoadedRun(
        folder, config, env_id, make, composed, torch_device, checkpoint.step, action_space, schema, held_out
    )


def evaluate_run(
    loaded: LoadedRun, *, episodes: int | None = None, seed: int | None = None, video: Path | None = None
) -> dict[str, Any]:
    """Play evaluation episodes with a trained run. video: file for the first episode, .webp (or .png for a strip)."""
    images = list(loaded.composed.specs.obs.images)
    if video is not None and (loaded.held_out is not None or not images):
        raise ConfigError(
            "this run has no environment or observes no images, so there is no video to record",
            cause=f"observations: {', '.join(loaded.composed.specs.obs.keys)}",
            fix="train with --env.pixels, or leave --video out",
        )
    seed = EVAL_SEED if seed is None else seed
    start = time.perf_counter()
    if loaded.held_out is not None:
        outcome = evaluate_held_out(loaded.acting(seed), loaded.held_out, seed)
    else:
        outcome = _play_episodes(loaded, episodes, seed, images[0] if video is not None else None)
    if video is not None and isinstance(outcome, Evaluation):
        save_webp(np.stack(outcome.frames), make_folder(video.parent) / video.name, fps=15)
    return {
        "env": loaded.env_id,
        "run": loaded.folder.name,
        "step": loaded.step,
        **outcome.summary(),
        "wall_seconds": round(time.perf_counter() - start, 2),
    }


def _play_episodes(loaded: LoadedRun, episodes: int | None, seed: int, record: str | None) -> Evaluation:
    """Play evaluation episodes. record: the observation whose frames are kept."""
    core = loaded.config.core
    return evaluate(
        loaded.acting(seed),
        loaded.make,
        episodes=episodes or core.eval.final_episodes,
        seed=seed,
        workers=eval_workers(core.env.workers),
        timeout=core.env.timeout,
        record=record,
        deterministic=core.eval.deterministic,
        dream_horizon=core.eval.dream_horizon,
    )


def draw_dreams(
    loaded: LoadedRun, *, out: Path | None = None, horizon: int = 45, count: int = 4, seed: int = 0
) -> dict[str, Any]:
    """Let the agent play in `count` environments, then draw the model's open-loop predictions next to the real frames.

    Returns the written files and the open-loop error by step. Raises: StorageError if the run's folder for them is a link.
    """
    if out is None:
        refuse_links(loaded.folder.path)
    length = open_loop.CONTEXT_FRAMES + horizon
    batch = _dream_batch(loaded, count, length, seed)
    generator = torch.Generator(loaded.device).manual_seed(seed)
    shown = open_loop.open_loop(loaded.composed.model, batch, generator)
    target = make_folder(out or loaded.folder.videos)
    paths = open_loop.save(shown, target, f"dream-{loaded.step:09d}")
    errors = {key: [round(float(e), 4) for e in value.mean(0)[shown.start :]] for key, value in shown.errors.items()}
    return {
        "run": loaded.folder.name,
        "env": loaded.env_id,
        "step": loaded.step,
        "pictures_by": shown.drawn_by,
        "seen": shown.start,
        "horizon": horizon,
        "files": [str(path) for path in paths],
        "rmse_by_step": errors,
    }


def _dream_batch(loaded: LoadedRun, count: int, length: int, seed: int) -> Batch:
    """Return sequences to dream from: the agent plays them, or where it cannot they are held-out ones of the data set."""
    model = loaded.composed.model
    if loaded.held_out is not None:
        return to_batch(loaded.held_out.windows(count, length), model.preprocess, model.device)
    return open_loop.sample_unbroken(play(loaded, count, 2 * length, seed), model, count, length, seed)


def dream_pool(loaded: LoadedRun, *, num_envs: int, horizon: int, temperature: float, seed: int) -> DreamPool:
    """Return dreams of a loaded run to train in, which start from states that its exploring agent visits.

    Raises: ConfigError if the dynamics does not support the temperature.
    """
    from worldlab.evaluation.dream_env import DreamPool, starts_from  # imports Stable-Baselines3, which is slow

    model = loaded.composed.model
    model.check_temperature(temperature)
    count = STARTS[0] * STARTS[1] // STARTS[2]
    if loaded.held_out is not None:
        sampled = loaded.held_out.windows(count, STARTS[2])
    else:
        sampled = play(loaded, STARTS[0], STARTS[1], seed).sample(count, STARTS[2], np.random.default_rng(seed))
    batch = to_batch(sampled, model.preprocess, model.device)
    starts = starts_from(model, batch, torch.Generator(model.device).manual_seed(seed))
    return DreamPool(model, starts, num_envs, horizon, temperature=temperature, seed=seed)


def play(loaded: LoadedRun, envs: int, steps: int, seed: int) -> Replay:
    """Collect fresh experience with a run's exploring agent: `steps` decisions in each of `envs` environments."""
    replay = Replay(loaded.schema, max(1000, 2 * envs * steps), envs)
    with EnvPool(loaded.make, envs, 0, seed, timeout=loaded.config.core.env.timeout) as pool:
        collector = Collector(pool, replay, loaded.acting(seed))
        collector.start()
        for _ in range(steps):
            collector.step()
    return replay
