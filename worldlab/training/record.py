"""Records episodes of an environment, played by a trained run or at random, in the form of a run's replay."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np

from worldlab.config.resolve import resolve
from worldlab.env.none import NO_ENV
from worldlab.env.pool import EnvPool
from worldlab.env.spaces import action_spec, decode_action, encode_action, record_schema
from worldlab.env.spaces_json import to_json
from worldlab.errors import ConfigError, one_line
from worldlab.experience.collect import next_obs, random_actions
from worldlab.experience.replay import Replay, records
from worldlab.registry import Registry
from worldlab.runs.find import find_run
from worldlab.runs.storage import atomic_write_json, make_folder
from worldlab.training.loaded import LoadedRun, load_run
from worldlab.training.session import Make, open_env

RECORDING = "recording.json"
"""What a recording says about itself: environment, spaces, and who played."""

Choose = Callable[[dict[str, np.ndarray], np.ndarray], np.ndarray]
"""Chooses encoded actions [1, A] for observations {key: [1, ...]}; is_first [1] marks the first of an episode."""


def record(
    registry: Registry,
    out: Path,
    *,
    env: str | None = None,
    agent: str | None = None,
    episodes: int = 10,
    seed: int = 0,
    explore: bool = False,
    trusted: Collection[str] = (),
) -> dict[str, Any]:
    """Play episodes and write them to a new folder. agent: a run; None plays uniformly random actions.

    Returns: the number of episodes and decisions, and the mean return. Raises: ConfigError, EnvError, StorageError.
    """
    if out.exists() or out.is_symlink():
        raise ConfigError(one_line(f"{str(out)[-60:]!r} is there already"), fix="--out with a new name")
    loaded = None if agent is None else load_run(find_run(agent, registry=registry), registry, trusted=trusted)
    env_id, make = _environment(registry, env, loaded)
    with EnvPool(make, 1, 0, seed) as pool:
        choose = _player(loaded, pool, seed, explore)
        returns, lengths = _play(pool, choose, episodes, out)
        entry = {
            "env": env_id,
            "observation_space": to_json(pool.observation_space),
            "action_space": to_json(pool.action_space),
            "agent": agent or "random",
            "seed": seed,
            "whole_episodes": True,  # the last one is no longer in progress
        }
    atomic_write_json(out / RECORDING, entry)
    return {
        "env": env_id,
        "episodes": len(returns),
        "decisions": sum(lengths),
        "return_mean": float(np.mean(returns)),
        "out": str(out),
    }


def _environment(registry: Registry, env: str | None, loaded: LoadedRun | None) -> tuple[str, Make]:
    """Return the environment to play in: the named one, with the settings of the run if one plays."""
    if env is None and loaded is None:
        raise ConfigError("record: no environment is given", fix="--env ID, or --agent RUN")
    if env is None and loaded is not None:
        if loaded.env_id == NO_ENV:
            raise ConfigError("the run has no environment to play in", fix="--env ID")
        return loaded.env_id, loaded.make
    config = resolve(registry, flags={"env": {"id": env}}) if loaded is None else loaded.config
    settings = config.core.env.model_copy(update={"id": env})
    core = config.core.model_copy(update={"env": settings})
    return open_env(type(config)(**{**vars(config), "core": core}), registry)


def _player(loaded: LoadedRun | None, pool: EnvPool, seed: int, explore: bool) -> Choose:
    """Return what chooses the actions. Raises: ConfigError if the run was trained with other spaces."""
    spec = action_spec(pool.action_space)
    schema = record_schema(pool.observation_space, spec)
    if loaded is None:
        rng = np.random.default_rng(seed)
        return lambda obs, first: random_actions(spec, 1, rng)
    if loaded.schema != schema:
        raise ConfigError(
            "the environment has other observations or actions than the run was trained with",
            cause=f"expected {loaded.schema}, found {schema}"[:400],
            fix="leave --env out, to play in the environment of the run",
        )
    acting, state = loaded.acting(seed), None
    acting.noise = loaded.composed.agent.noise if explore else 0.0

    def choose(obs: dict[str, np.ndarray], first: np.ndarray) -> np.ndarray:
        nonlocal state
        encoded, state = acting.choose(obs, state, first, explore=explore)
        return encoded

    return choose


def _play(pool: EnvPool, choose: Choose, episodes: int, out: Path) -> tuple[list[float], list[int]]:
    """Play whole episodes and append their steps to segment files. Returns the returns and lengths."""
    schema = record_schema(pool.observation_space, action_spec(pool.action_space))
    replay = Replay(schema, 2**40, 1, make_folder(out) / "replay", "disk")
    returns: list[float] = []
    lengths: list[int] = []
    arrivals = pool.reset()
    nothing = np.zeros((1, action_spec(pool.action_space).dim), np.float32)
    for env, row in records(arrivals, nothing):
        replay.append(env, row)
    first = np.ones(1, bool)
    while len(returns) < episodes:
        action = decode_action(pool.action_space, choose(next_obs(arrivals), first))
        arrivals = pool.step(action)
        first = arrivals.done
        for _, ret, length in arrivals.finished:
            returns.append(float(ret))
            lengths.append(int(length))
        # The reset after the last episode is no part of it.
        rows = records(arrivals, np.asarray(encode_action(pool.action_space, action), np.float32))
        kept = list(rows)[: 1 if len(returns) == episodes else None]
        for env, row in kept:
            replay.append(env, row)
    replay.flush(sync=True)
    replay.close()
    return returns, lengths


__all__ = ["record"]
