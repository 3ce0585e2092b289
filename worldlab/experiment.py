"""What the command line and the Python API call: train a run, evaluate it, dream in it."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from worldlab import dreaming, envs, provenance, session
from worldlab.acting import ActingAgent
from worldlab.checkpoint import Checkpoint, latest_valid, older_valid, quarantine
from worldlab.collect import Collector, to_batch
from worldlab.compose import Composed, compose
from worldlab.envs import open_adapter
from worldlab.errors import CheckpointError, ConfigError
from worldlab.evaluate import evaluate as judge
from worldlab.evaluate import judging_workers
from worldlab.interfaces import parameter_count
from worldlab.loop import Loop, Stopped
from worldlab.metrics import MetricsBus
from worldlab.panel import Progress
from worldlab.pictures import save_webp
from worldlab.recorded import Recorded
from worldlab.registry import Registry
from worldlab.replay import Replay
from worldlab.run_folder import RunFolder
from worldlab.runconfig import RunConfig
from worldlab.runs import new_run_path
from worldlab.segments import DamagedReplayError
from worldlab.settings import EnvSettings
from worldlab.spaces import action_spec, record_schema
from worldlab.storage import make_folder
from worldlab.streams import Streams
from worldlab.vector import EnvPool

if TYPE_CHECKING:
    from worldlab.dream_env import Dreamer

log = logging.getLogger("worldlab")

EVAL_SEED = 10_000
"""Evaluation episodes are seeded from here, apart from the training seeds."""
STARTS = (4, 256, 32)
"""Environments and steps in each of the experience that dreams of a loaded run start from, and how long its sequences are."""


def train(
    config: RunConfig, registry: Registry, *, run: Path | None = None, resume: bool = False, explain: bool = False
) -> dict[str, Any]:
    """Train a run to its end and return the content of result.json.

    run: its folder; None makes runs/<env>-<time>. resume: continue from the newest valid checkpoint.
    Stopped by SIGINT or SIGTERM it saves a checkpoint and raises SystemExit(130 or 143).
    """
    folder, changed = _open_folder(config, registry, run, resume)
    with folder:
        if resume:
            live, checkpoint = _resumed(config, registry, folder)
            _keep_configuration(folder, config, registry)
        else:
            checkpoint = None
            try:
                live = session.build(config, registry, folder.replay)
            except BaseException:
                folder.write_run_json({"status": "failed"})
                raise
        try:
            log.info("env %s on %s, run %s", live.env_id, live.device, folder.path)
            if explain:
                log.info("%s", live.composed.explain())
            _describe(folder, live, registry, config, changed)
            result = _run_loop(live, folder, registry, checkpoint)
        finally:
            live.close()
        return result


def _open_folder(
    config: RunConfig, registry: Registry, run: Path | None, resume: bool
) -> tuple[RunFolder, list[dict[str, str]]]:
    """The run's folder, locked, and the parts whose plugin is another one than when a resumed run was made."""
    changed: list[dict[str, str]] = []
    if resume:
        if run is None:
            raise ConfigError("--resume needs a run to go on with", fix="--run DIR --resume")
        changed = provenance.changes(run, config, registry)
        if changed and config.core.strict:
            raise provenance.refuse(changed)
        _warn_of(changed)
        folder = RunFolder.open(run, write=True)
    else:
        folder = RunFolder.create(run or new_run_path(config.core.env.id))
        _keep_configuration(folder, config, registry)
    return folder, changed


def _keep_configuration(folder: RunFolder, config: RunConfig, registry: Registry) -> None:
    """Of a resumed run only once it is known to fit: one that was refused is left as it was."""
    for file in registry.plugin_files:
        folder.keep_plugin(file)
    folder.write_config(config.to_toml())


def _resumed(config: RunConfig, registry: Registry, folder: RunFolder) -> tuple[session.Session, Checkpoint]:
    """The run as its newest checkpoint left it, or an older one where the replay does not hold what that counts on."""
    checkpoint = newest = _find_checkpoint(folder)
    passed = []
    while True:
        try:
            live = session.build(config, registry, folder.replay, checkpoint)
            break
        except DamagedReplayError as error:
            passed.append(checkpoint)
            older = older_valid(folder.checkpoints, checkpoint)
            if older is None:
                raise
            log.warning("%s; trying checkpoint step-%d", error.message, older.step)
            checkpoint = older
    for one in passed:
        quarantine(one.path)
    if passed:
        log.warning("going on from step %d, not from %d", checkpoint.step, newest.step)
    if live.replay.lost:
        log.warning(
            "the replay is damaged: %d steps of experience are left out, so this is no longer the same run bit for bit",
            live.replay.lost,
        )
    return live, checkpoint


def _warn_of(changed: list[dict[str, str]]) -> None:
    for one in changed:
        log.warning("%s is of %s now; the run was made with %s", one["role"], one["now"], one["was"])


def _find_checkpoint(folder: RunFolder) -> Checkpoint:
    try:
        checkpoint = latest_valid(folder.checkpoints)
    except CheckpointError as error:
        if any(folder.checkpoints.glob("step-*")):
            raise
        raise ConfigError(
            f"run '{folder.name}' stopped before its first checkpoint",
            cause=str(error),
            fix="start it anew with another --run",
        ) from error
    for sentence in checkpoint.skipped:
        log.warning("%s", sentence)
    log.info("resuming at step %d", checkpoint.step)
    return checkpoint


def _describe(
    folder: RunFolder, live: session.Session, registry: Registry, config: RunConfig, changed: list[dict[str, str]]
) -> None:
    now = [{**one, "step": live.counters.env_steps} for one in changed]
    parts = {role: parameter_count([part]) for role, part in live.composed.model.parts.items()}
    parts["total"] = parameter_count([live.composed.model, live.composed.agent])
    folder.write_run_json(
        {
            "status": "running",
            "env": live.env_id,
            "seed": config.core.seed,
            "strict": config.core.strict,
            "device": str(live.device),
            "threads": torch.get_num_threads(),
            "plugins": registry.plugins_record(),
            "components": provenance.components(config, registry),
            "changes": [*folder.read_run_json().get("changes", []), *now],
            "parameters": parts,
            "matching": live.composed.model.rule.why,
            **_data(live),
        }
    )


def _data(live: session.Session) -> dict[str, Any]:
    """What run.json says of the experience, where it was recorded by another run."""
    source = live.collector
    if not isinstance(source, Recorded):
        return {}
    return {"data": {"source": live.core.replay.source, "sha256": source.sha256, "decisions": source.decisions}}


def _run_loop(
    live: session.Session, folder: RunFolder, registry: Registry, checkpoint: Checkpoint | None
) -> dict[str, Any]:
    core = live.core
    title = (
        f"{live.env_id}  {'/'.join(getattr(live.config, r).name for r in ('encoder', 'dynamics', 'decoder', 'agent'))}"
    )
    with (
        MetricsBus(folder, core.log.tensorboard) as metrics,
        Progress(title, total=core.steps, start=live.counters.env_steps) as progress,
    ):
        if checkpoint:
            metrics.truncate_after(checkpoint.step, live.counters.lines)
        metrics.hparams(_flat(live.config.to_mapping()))
        loop = Loop(live, folder, metrics, progress, EVAL_SEED, {"plugins": registry.plugins_record()})
        try:
            result = loop.run()
        except Stopped as stop:
            folder.write_run_json({"status": "stopped", "step": live.counters.env_steps})
            log.info(
                "stopped at step %d, checkpoint saved; go on with --run %s --resume",
                live.counters.env_steps,
                folder.path,
            )
            raise SystemExit(128 + stop.signal) from None
        except BaseException as error:
            status = "diverged" if type(error).__name__ == "DivergedError" else "failed"
            folder.write_run_json({"status": status, "step": live.counters.env_steps})
            raise
    folder.write_result(result)
    folder.write_run_json({"status": "finished", "step": live.counters.env_steps})
    return result


def _flat(mapping: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, dict):
            out.update(_flat(value, f"{prefix}{key}."))
        else:
            out[prefix + key] = value if isinstance(value, int | float | str) else str(value)
    return out


@dataclass(frozen=True)
class LoadedRun:
    """A run read back: its configuration, its model and agent with their last weights, and how to make its environment."""

    folder: RunFolder
    config: RunConfig
    env_id: str
    make: Any
    composed: Composed
    device: torch.device
    step: int
    action_space: Any
    schema: dict[str, Any]

    def acting(self, seed: int) -> ActingAgent:
        generator = torch.Generator(self.device).manual_seed(seed)
        return ActingAgent(self.composed.model, self.composed.agent, self.action_space, generator)


def load_run(run: Path, registry: Registry, device: str = "auto") -> LoadedRun:
    """Read a run from its folder, without writing to it. Raises: ConfigError, CheckpointError, PluginError."""
    folder = RunFolder.open(run)
    flags = {"device": device} if device != "auto" else {}
    config = provenance.reopened(folder.path, registry, flags)
    _warn_of(provenance.changes(folder.path, config, registry))
    checkpoint = latest_valid(folder.checkpoints, move=False)
    for sentence in checkpoint.skipped:
        log.warning("%s", sentence)
    torch_device = session.set_up_machine(config.core)
    env_id, make = session.open_env(config, registry)
    with EnvPool(make, 1) as pool:
        obs_space, action_space = pool.observation_space, pool.action_space
    composed = compose(config, registry, obs_space, action_space, Streams(config.core.seed), torch_device)
    session.load_weights(composed, checkpoint)
    schema = record_schema(obs_space, action_spec(action_space))
    return LoadedRun(folder, config, env_id, make, composed, torch_device, checkpoint.step, action_space, schema)


def evaluate(
    run: Path,
    registry: Registry,
    *,
    episodes: int | None = None,
    seed: int | None = None,
    video: Path | None = None,
    device: str = "auto",
) -> dict[str, Any]:
    """Play evaluation episodes with a trained run. video: a .webp (or .png strip) of the first episode's observations."""
    return evaluate_loaded(load_run(run, registry, device), episodes=episodes, seed=seed, video=video)


def evaluate_loaded(
    loaded: LoadedRun, *, episodes: int | None = None, seed: int | None = None, video: Path | None = None
) -> dict[str, Any]:
    """The same with a run that was read already."""
    core = loaded.config.core
    images = list(loaded.composed.specs.obs.images)
    if video is not None and not images:
        raise ConfigError(
            "this run observes no images, so there is nothing to film",
            cause=f"observations: {', '.join(loaded.composed.specs.obs.keys)}",
            fix="train with --env.pixels, or leave --video out",
        )
    seed = EVAL_SEED if seed is None else seed
    start = time.perf_counter()
    outcome = judge(
        loaded.acting(seed),
        loaded.make,
        episodes=episodes or core.eval.final_episodes,
        seed=seed,
        workers=judging_workers(core.env.workers),
        record=images[0] if video is not None else None,
        deterministic=core.eval.deterministic,
        dream_horizon=core.eval.dream_horizon,
    )
    if video is not None:
        save_webp(np.stack(outcome.frames), make_folder(video.parent) / video.name, fps=15)
    return {
        "env": loaded.env_id,
        "run": loaded.folder.name,
        "step": loaded.step,
        **outcome.summary(),
        "wall_seconds": round(time.perf_counter() - start, 2),
    }


def dream(
    run: Path, registry: Registry, *, out: Path | None = None, horizon: int = 45, count: int = 4, seed: int = 0
) -> dict[str, Any]:
    """Let the agent play `count` environments, then draw what the model dreams from there beside what really happened.

    Returns the files written and the open-loop error by step.
    """
    return dream_loaded(load_run(run, registry), out=out, horizon=horizon, count=count, seed=seed)


def dream_loaded(
    loaded: LoadedRun, *, out: Path | None = None, horizon: int = 45, count: int = 4, seed: int = 0
) -> dict[str, Any]:
    """The same with a run that was read already."""
    length = dreaming.FRAMES_SEEN + horizon
    replay = play(loaded, count, 2 * length, seed)
    batch = dreaming.sample_unbroken(replay, loaded.composed.model, count, length, seed)
    generator = torch.Generator(loaded.device).manual_seed(seed)
    shown = dreaming.open_loop(loaded.composed.model, batch, generator)
    target = make_folder(out or loaded.folder.videos)
    paths = dreaming.save(shown, target, f"dream-{loaded.step:09d}")
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


def dreamer_loaded(loaded: LoadedRun, *, num_envs: int, horizon: int, temperature: float, seed: int) -> Dreamer:
    """Dreams of a loaded run, to be learned in. They start where its agent, exploring, comes to in fresh episodes.

    Raises: ConfigError where the dynamics has no such temperature.
    """
    from worldlab.dream_env import Dreamer, starts_from  # Stable-Baselines3: only who dreams in it pays

    model = loaded.composed.model
    model.check_temperature(temperature)
    replay = play(loaded, STARTS[0], STARTS[1], seed)
    sampled = replay.sample(STARTS[0] * STARTS[1] // STARTS[2], STARTS[2], np.random.default_rng(seed))
    batch = to_batch(sampled, model.preprocess, model.device)
    starts = starts_from(model, batch, torch.Generator(model.device).manual_seed(seed))
    return Dreamer(model, starts, num_envs, horizon, temperature=temperature, seed=seed)


def play(loaded: LoadedRun, envs: int, steps: int, seed: int) -> Replay:
    """Fresh experience of a loaded run's agent, exploring: `steps` decisions in each of `envs` environments."""
    replay = Replay(loaded.schema, max(1000, 2 * envs * steps), envs)
    with EnvPool(loaded.make, envs, 0, seed) as pool:
        collector = Collector(pool, replay, loaded.acting(seed))
        collector.start()
        for _ in range(steps):
            collector.step()
    return replay


def check_env(id: str, registry: Registry) -> dict[str, Any]:
    """Check an environment as `worldlab check-env` does."""
    adapter, env_id = open_adapter(registry, id)
    env = adapter.make(env_id, EnvSettings(id=env_id))
    try:
        findings = envs.check_env(env)
    finally:
        env.close()
    return {"env": env_id, "ok": all(f["status"] != "fail" for f in findings), "findings": findings}


__all__ = ["EVAL_SEED", "LoadedRun", "check_env", "dream", "evaluate", "load_run", "play", "train"]
