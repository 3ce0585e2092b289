"""The data set of a run: its environment, its spaces, and what plays it back."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import cache
from typing import Any

from gymnasium import spaces

from worldlab.agent import Agent, LearnsFromEpisodes
from worldlab.config.provenance import env_module
from worldlab.config.resolve import RunConfig, resolve
from worldlab.env.find import open_adapter
from worldlab.env.none import NO_ENV
from worldlab.errors import ConfigError, EnvError, one_line
from worldlab.experience.data_records import resized_space
from worldlab.experience.dataset import Dataset, DatasetFacts, absolute_name, open_dataset
from worldlab.experience.offline import OfflineData
from worldlab.experience.playback import Playback
from worldlab.experience.replay import Replay
from worldlab.registry import Registry
from worldlab.settings import CoreSettings

log = logging.getLogger("worldlab")


def resolve_run(registry: Registry, **layers: Any) -> RunConfig:
    """Resolve the configuration of a run, as `resolve` does; with a data set and no env.id, the data set's environment.

    Raises: ConfigError, also if the data set names none and the run is not offline; PluginError.
    """
    config = resolve(registry, **layers)
    if not config.core.data:
        return config
    if resolve(registry, **layers, env=NO_ENV).core.env.id == NO_ENV:
        config = resolve(registry, **layers, env=_env_of(config.core, registry))
    core = config.core.model_copy(update={"data": absolute_name(config.core.data)})
    return replace(config, core=core)


def _env_of(core: CoreSettings, registry: Registry) -> str:
    """Return the environment that a data set names; NO_ENV if it cannot be built and the run can do without."""
    named = data_facts(core.data, registry).env_id
    if not named:
        reason = "the data set does not name its environment"
    elif env_module(named, registry) is not None:
        reason = f"its environment {named!r} would import a module, which needs your word: --env {named}"
    else:
        try:
            return open_adapter(registry, named)[1]
        except EnvError as error:
            reason = f"its environment is not there: {error.message}"
    if not core.offline:
        raise ConfigError(
            one_line(f"no environment to evaluate in: {reason}"),
            fix="--env ID, or --offline to learn and to be evaluated without one",
        )
    log.info("%s; evaluated on held-out episodes, the agent in dreams only", one_line(reason, 300))
    return NO_ENV


@cache
def data_facts(name: str, registry: Registry) -> DatasetFacts:
    """Return the description of a data set. It is opened and closed once for each process."""
    dataset = open_dataset(name, registry)
    dataset.close()
    return dataset.facts


def data_spaces(core: CoreSettings, registry: Registry) -> tuple[spaces.Dict, spaces.Space]:
    """Return the spaces of the run's data set, images resized to env.size. Raises: ConfigError without one."""
    if not (core.data and core.offline):
        raise ConfigError(
            "a run without an environment learns from a data set",
            cause="env.id is none",
            fix="--data PATH --offline, or --env ID",
        )
    facts = data_facts(core.data, registry)
    return resized_space(facts.observation_space, core.env.size), facts.action_space


def open_source(core: CoreSettings, dataset: Dataset, replay: Replay, agent: Agent) -> Playback | OfflineData:
    """Return what replaces the collector of a run that learns from a data set. Raises: ConfigError."""
    check_agent_can_use_recording(agent)
    if core.offline:
        return OfflineData(dataset, replay, core.env.size)
    recorded = Playback(dataset, replay, core.env.size)
    if recorded.decisions < core.steps:
        raise ConfigError(
            f"the recording has {recorded.decisions} decisions, steps is {core.steps}",
            fix=f"--steps {recorded.decisions}, a longer recording, or --offline to learn from all of it at once",
        )
    return recorded


def check_agent_can_use_recording(agent: Agent) -> None:
    """Check that an agent can learn from a recording. Raises: ConfigError if it learns only from its own episodes."""
    # Such an agent is idle until it gets an episode to play; a recording never gives it one.
    if isinstance(agent, LearnsFromEpisodes) and bool(agent.idle(agent.initial(1)).any()):
        raise ConfigError(
            "this agent learns from the episodes it plays, but a recording replaces all of them",
            fix="another --agent, or leave --data and --shared-data out",
        )


__all__ = ["check_agent_can_use_recording", "data_facts", "data_spaces", "open_source", "resolve_run"]
