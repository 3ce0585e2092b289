"""The state of a run in progress: builds it, saves it to a checkpoint and restores it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import torch

from worldlab.agent import HasOwnState, LearnsFromEpisodes, OwnLearner
from worldlab.config.resolve import PARTS, RunConfig
from worldlab.env.episodes import CLOSING
from worldlab.env.find import make_env, open_adapter
from worldlab.env.none import NO_ENV, SpacesEnv
from worldlab.env.pool import EnvPool
from worldlab.env.spaces import Schema, action_spec, record_schema
from worldlab.errors import CheckpointError, ConfigError, WorldlabError, one_line
from worldlab.experience.acting import ActingAgent
from worldlab.experience.action_units import in_units_of
from worldlab.experience.collect import Collector, Unrepeatable
from worldlab.experience.dataset import Dataset, open_dataset
from worldlab.experience.offline import OfflineData, open_replay, training_steps
from worldlab.experience.playback import Playback
from worldlab.experience.replay import Replay
from worldlab.model.health import HealthMonitor
from worldlab.registry import PluginFiles, Registry
from worldlab.runs.checkpoint import STATE, Checkpoint, list_checkpoints, prune, save_checkpoint
from worldlab.runs.optimizer_state import flatten_optimizer, restore_optimizer
from worldlab.runs.storage import read_json, remove_tree
from worldlab.settings import CoreSettings
from worldlab.training.agent_process import learn_beside
from worldlab.training.compose import Composed, compose
from worldlab.training.data import data_spaces, open_source
from worldlab.training.dry_run import dry_run
from worldlab.training.engine import Engine, choose_engine, choose_storage
from worldlab.training.finetune import finetune
from worldlab.training.machine import set_up_machine
from worldlab.training.means import Means
from worldlab.training.saved_state import read_state
from worldlab.training.streams import Streams
from worldlab.training.trainer import Generators, Trainer

log = logging.getLogger("worldlab")
COLLECTOR, OWN = "collector", "agent_own"
"""Names in a checkpoint: of the episodes in progress and the state of acting; of what `HasOwnState` gives."""

Make = Callable[[], gymnasium.Env]
"""Builds one environment."""


@dataclass
class Counters:
    """The progress of a run."""

    env_steps: int = 0
    updates: int = 0
    episodes: int = 0
    credit: float = 0.0
    """Updates that are due for the environment steps taken so far."""
    pretrained: bool = False
    recent: list[float] = field(default_factory=list)
    """Returns of the last episodes."""
    evaluation: float | None = None
    """Mean return of the last evaluation."""
    best: dict[str, float] | None = None
    """The best evaluation so far: its "return", the number of its "episodes", and the "step"."""
    seconds: float = 0.0
    """Wall-clock time up to the last checkpoint: the only value here that differs between two identical runs."""
    lines: int | None = None
    """Lines of metrics.jsonl up to the last checkpoint."""
    due: list[str] = field(default_factory=list)
    """Periodic tasks of this step that a signal has prevented (see `Loop`)."""


@dataclass
class Session:
    """A run in progress."""

    config: RunConfig
    env_id: str
    make: Callable[[], gymnasium.Env]
    device: torch.device
    streams: Streams
    pool: EnvPool
    replay: Replay
    composed: Composed
    trainer: Trainer
    collector: Collector | Playback | OfflineData
    counters: Counters
    health: HealthMonitor
    engine: Engine
    threshold: float | None = None
    """The mean return of an evaluation at which training ends (`until`)."""
    means: Means = field(default_factory=Means)
    finetuned: dict[str, object] = field(default_factory=dict)
    """Which weights of another run this one began with (`finetune`); {} if it began with its own, or was resumed."""
    approximate: list[str] = field(default_factory=list)
    """Why the run, as it was resumed, is not bit for bit the one that was interrupted; empty if it is."""

    @property
    def core(self) -> CoreSettings:
        return self.config.core

    def evaluator(self, seed: int) -> ActingAgent:
        """Return the agent for evaluation. Its own random stream keeps evaluation from affecting training."""
        self.trainer.synchronise()
        generator = torch.Generator(self.device).manual_seed(seed)
        return ActingAgent(self.composed.model, self.composed.agent, self.pool.action_space, generator)

    @property
    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """All optimisers by name: those of the trainer, and those of an agent that steps its own."""
        agent = self.composed.agent
        own = agent.optimizers() if isinstance(agent, OwnLearner) else {}
        return {**self.trainer.optimizers, **{f"agent/{name}": optimizer for name, optimizer in own.items()}}

    def close(self, *, at_once: bool = False) -> None:
        """Close the environments, the replay and the process of the agent. at_once: wait for none of them."""
        if self.trainer.beside is not None:
            self.trainer.beside.close(0.0 if at_once else CLOSING)
        self.pool.close(0.1 if at_once else CLOSING)
        self.replay.close()
        if not isinstance(self.collector, Collector):
            self.collector.close()


@dataclass(frozen=True)
class EnvMaker:
    """Builds one environment, in this process or in a worker.

    files: the first field, so that a worker loads the plugin files before it unpickles `make`, which may need them.
    """

    files: PluginFiles
    make: Callable[[], gymnasium.Env]

    def __call__(self) -> gymnasium.Env:
        return self.make()


def open_env(
    config: RunConfig, registry: Registry, *, collecting: bool = False
) -> tuple[str, Callable[[], gymnasium.Env]]:
    """Return the full id of the run's environment and a function that builds it, in this process or in a worker.

    collecting: whether to apply the limits for data collection; evaluation plays whole episodes.
    """
    files = PluginFiles(registry.plugin_files)
    if config.core.env.id == NO_ENV:
        return NO_ENV, EnvMaker(files, partial(SpacesEnv, *data_spaces(config.core, registry)))
    adapter, env_id = open_adapter(registry, config.core.env.id)
    whole = {"patience": None, "collect_limit": None}
    settings = config.core.env if collecting else config.core.env.model_copy(update=whole)
    return env_id, EnvMaker(files, partial(make_env, adapter, env_id, settings))


def spaces_of(make: Make) -> tuple[gymnasium.spaces.Dict, gymnasium.Space]:
    """Return the observation and action space of an environment."""
    env = make()
    try:
        assert isinstance(env.observation_space, gymnasium.spaces.Dict)
        return env.observation_space, env.action_space
    finally:
        env.close()


def read_threshold(core: CoreSettings, env_id: str, make: Make) -> float | None:
    """Return the mean return at which training ends; None if only steps and minutes end it.

    Raises: ConfigError if the environment declares no threshold, or if no evaluation could reach one.
    """
    if core.until is None:
        return None
    if env_id == NO_ENV:
        raise ConfigError(
            "until needs an environment to evaluate in",
            cause="env.id is none: on held-out episodes there is no return",
            fix="--until none, or --env ID",
        )
    if not core.eval.every:
        raise ConfigError(
            "until needs evaluations while training",
            cause="eval.every is 0: the agent is evaluated at the end only",
            fix="--eval.every 1000, or --until none",
        )
    if core.until != "solved":
        return float(core.until)
    env = make()
    try:
        threshold = env.spec.reward_threshold if env.spec is not None else None
    finally:
        env.close()
    if threshold is None:
        raise ConfigError(
            f"{one_line(env_id, 40)} declares no return at which it is solved",
            cause="its Gymnasium registration has no reward_threshold",
            fix="--until with a return, for example --until -200",
        )
    return float(threshold)


def compose_checked(
    config: RunConfig,
    registry: Registry,
    obs_space: gymnasium.Space,
    action_space: gymnasium.Space,
    streams: Streams,
    device: torch.device,
) -> Composed:
    """Build a world model and an agent, and check both on a small batch. Raises: ConfigError, PluginError."""
    composed = compose(config, registry, obs_space, action_space, streams, device)
    dry_run(composed.model, composed.agent, {role: registry.get(role, getattr(config, role).name) for role in PARTS})
    return composed


def build(config: RunConfig, registry: Registry, replay_folder: Path, checkpoint: Checkpoint | None = None) -> Session:
    """Build the session of a new run, or restore it from a checkpoint.

    A restored session continues exactly, or `Session.approximate` holds the reasons why not. If the replay has damaged
    records, a strict run fails and any other run continues with the remaining experience (`replay.lost`).
    Raises: ConfigError, PluginError, EnvError, CheckpointError (DamagedReplayError if an older one may still work).
    """
    core = config.core
    device = set_up_machine(core)
    streams = Streams(core.seed)
    env_id, make = open_env(config, registry)
    _, make_collecting = open_env(config, registry, collecting=True)
    threshold = read_threshold(core, env_id, make)
    state = read_state(checkpoint, {item.name for item in fields(Counters)}) if checkpoint else {}
    counters = Counters(**state.get("counters", {}))
    seed = state.get("collector", {}).get("seed") or [streams.derive("env"), counters.env_steps]
    with ExitStack() as opened:
        pool = _open_pool(core, make_collecting, seed, counters.env_steps)
        opened.callback(pool.close)
        schema = record_schema(pool.observation_space, action_spec(pool.action_space))
        dataset = in_units_of(open_dataset(core.data, registry), pool.action_space) if core.data else None
        if dataset is not None:
            opened.callback(dataset.close)
        replay = _open_replay(core, schema, replay_folder, dataset, state.get("replay"), device)
        opened.callback(replay.close)
        composed = compose_checked(config, registry, pool.observation_space, pool.action_space, streams, device)
        if isinstance(composed.agent, LearnsFromEpisodes):
            pool.restarts = 0  # a broken episode has no return to learn from
        health = HealthMonitor(
            composed.model, config.core.train.freeze
        )  # it compares with untrained weights, so before `finetune`
        finetuned = finetune(composed, core.finetune, registry) if core.finetune and checkpoint is None else {}
        generators = Generators(streams.torch("model", device), streams.torch("agent", device))
        trainer = Trainer(composed.model, composed.agent, core.train, generators)
        engine = choose_engine(core, device, trainer, replay)
        learn_beside(trainer, core, device, PluginFiles(registry.plugin_files))
        if trainer.beside is not None:
            opened.callback(trainer.beside.close)
        source, noise = streams.torch("acting", device), composed.agent.noise
        acting = ActingAgent(composed.model, composed.agent, pool.action_space, source, noise)
        if dataset is not None:
            collector = open_source(core, dataset, replay, composed.agent)
        else:
            collector = Collector(pool, replay, acting, core.train.prefill_hold)
        session = Session(
            config,
            env_id,
            make,
            device,
            streams,
            pool,
            replay,
            composed,
            trainer,
            collector,
            counters,
            health,
            engine,
            threshold,
        )
        session.finetuned = finetuned
        if checkpoint:
            _restore(session, checkpoint, state)
            _restore_collector(session, make_collecting, checkpoint, state)
        opened.pop_all()  # from now on the session closes them
    return session


def _open_pool(core: CoreSettings, make: Make, seed: list[int], taken: int) -> EnvPool:
    settings = core.env
    return EnvPool(
        make,
        settings.num_envs,
        settings.workers,
        seed,
        same_episodes=settings.same_episodes,
        timeout=settings.timeout,
        restarts=0 if core.strict else settings.restarts,
        taken=taken,
    )


def _open_replay(
    core: CoreSettings,
    schema: Schema,
    folder: Path,
    dataset: Dataset | None,
    position: dict[str, Any] | None,
    device: torch.device,
) -> Replay:
    """Open the replay of a run: a new one, or that of a checkpoint at its position."""
    resumed: dict[str, Any] = {} if position is None else {"position": position, "exact": core.strict}
    if core.offline and dataset is not None:
        storage = choose_storage(core, schema, training_steps(dataset), device)
        return open_replay(dataset, schema, folder, storage, **resumed)
    # Every decision gives at most two records: its arrival and, at the end of an episode, the reset.
    capacity = min(core.replay.capacity, max(1000, 2 * core.steps + core.env.num_envs))
    storage = choose_storage(core, schema, capacity, device)
    if resumed:
        return Replay.open(folder, schema, capacity, core.env.num_envs, storage, **resumed)
    return Replay(schema, capacity, core.env.num_envs, folder, storage)


def save(session: Session, folder: Path, extra: dict[str, Any], spare: Path | None = None) -> Path:
    """Write a checkpoint of everything except the replay, which is written to disk first.

    spare: an earlier checkpoint that was saved because of the time. It is the first to go if there are too many.
    """
    session.trainer.synchronise()
    session.replay.flush(sync=True)
    random, random_state = session.streams.state()
    collector, collector_state = session.collector.state()
    tensors: dict[str, dict[str, torch.Tensor]] = {
        "model": session.composed.model.state_dict(),
        "agent": session.composed.agent.state_dict(),
        "random": random,
        COLLECTOR: collector,
    }
    if isinstance(session.composed.agent, HasOwnState):
        tensors[OWN] = session.composed.agent.own_state()
    optimizers = {}
    for name, optimizer in session.optimizers.items():
        tensors[f"optimizer_{name.replace('/', '_')}"], optimizers[name] = flatten_optimizer(optimizer)
    state = {
        "counters": vars(session.counters),
        "health": session.health.state(),
        "replay": session.replay.position(),
        "random": random_state,
        COLLECTOR: collector_state,
        "means": session.means.state(),
        "optimizers": optimizers,
        "trainer": {"updates": session.trainer.updates, "skips": session.trainer.skips},
    }
    # The state of acting may hold an infinite number, such as the score of a plan that was not tried yet.
    path = save_checkpoint(folder, session.counters.env_steps, tensors, state, extra, unchecked={COLLECTOR, OWN})
    if spare is not None and spare != path and len(list_checkpoints(folder)) > session.core.log.keep:
        remove_tree(spare)
    prune(folder, session.core.log.keep)
    oldest = list_checkpoints(folder)[0][1]
    try:
        reach = read_json(oldest / STATE)["replay"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("%s is damaged (%s); old experience is kept as long as this checkpoint exists", oldest.name, error)
    else:
        session.replay.prune(reach)
    return path


def _restore(session: Session, checkpoint: Checkpoint, state: dict[str, Any]) -> None:
    load_weights(session.composed, checkpoint)
    session.health.restore(state["health"])
    for name, optimizer in session.optimizers.items():
        tensors = checkpoint.tensors(f"optimizer_{name.replace('/', '_')}")
        restore_optimizer(optimizer, tensors, state["optimizers"].get(name))
    session.streams.restore(checkpoint.tensors("random"), state["random"])
    session.trainer.updates = state["trainer"]["updates"]
    session.trainer.bad.skips = state["trainer"]["skips"]
    session.means.restore(state.get("means", {}), session.device)
    agent = session.composed.agent
    if isinstance(agent, HasOwnState) and OWN in checkpoint.names:
        _load_own_state(agent, checkpoint)
    elif isinstance(agent, OwnLearner):
        session.approximate.append("the agent learns with state of its own that the checkpoint does not hold")
    if session.trainer.beside is not None:
        session.approximate.append("the process in which the agent learns begins new dreams")
    if session.replay.lost:
        session.approximate.append(f"the replay is damaged: {session.replay.lost} steps of experience are left out")


def _load_own_state(agent: HasOwnState, checkpoint: Checkpoint) -> None:
    try:
        agent.load_own_state(checkpoint.tensors(OWN))
    except WorldlabError:
        raise
    except Exception as error:  # of a state that fits no agent of these settings
        raise CheckpointError(
            f"checkpoint '{checkpoint.path.name}': the agent's own state does not fit",
            cause=f"{type(error).__name__}: {error}"[:200],
            fix="resume with the agent settings of the run's config.toml",
        ) from error


def _restore_collector(session: Session, make: Make, checkpoint: Checkpoint, state: dict[str, Any]) -> None:
    """Continue the episodes in progress, or begin new ones and say why."""
    if not isinstance(session.collector, Collector):
        return
    try:
        if COLLECTOR not in state:
            raise Unrepeatable("the checkpoint is of an earlier version, which saved no episodes")
        session.collector.restore(checkpoint.tensors(COLLECTOR), state[COLLECTOR])
    except Unrepeatable as reason:
        session.approximate.append(f"new episodes: {reason}")
        session.pool.close()
        seed = [session.streams.derive("env"), session.counters.env_steps]
        pool = _open_pool(session.core, make, seed, session.counters.env_steps)
        pool.restarts = session.pool.restarts
        session.pool = session.collector.pool = pool


def load_weights(composed: Composed, checkpoint: Checkpoint) -> None:
    """Load a checkpoint's weights into a model and an agent. Raises: CheckpointError if they do not fit."""
    for name, module in (("model", composed.model), ("agent", composed.agent)):
        tensors = checkpoint.tensors(name)
        try:
            module.load_state_dict(tensors)
        except RuntimeError as error:
            raise CheckpointError(
                f"the weights of '{name}' do not fit this configuration",
                cause=str(error).splitlines()[-1].strip()[:300],
                fix="use the run's own config.toml, and the plugins and the commit of worldlab that made it (run.json has them)",
            ) from error
