"""Checks that a cell can run, before any cell runs: builds and tries its environment, model and agent."""

from __future__ import annotations

from typing import Any

import torch

from worldlab.config.resolve import RunConfig
from worldlab.registry import Registry
from worldlab.training.data import check_agent_can_use_recording
from worldlab.training.session import compose_checked, open_env, spaces_of
from worldlab.training.streams import Streams
from worldlab.training.trackers import make_trackers


def check_cell(kind: str, config: RunConfig, registry: Registry, spaces: dict[str, Any], recorded: bool) -> None:
    """Build and dry-run what a cell needs.

    spaces: caches (observation space, action space) by environment. recorded: whether the cell learns from a
    recording.
    Raises: ConfigError, PluginError, EnvError if the cell cannot run.
    """
    env_id = config.core.env.id
    if env_id not in spaces:
        spaces[env_id] = spaces_of(open_env(config, registry)[1])
    observations, actions = spaces[env_id]
    if kind.startswith("model-free"):
        from worldlab.study.compare.model_free import algorithm_for

        algorithm_for(actions, kind.partition(":")[2])
    else:
        make_trackers(config.core.log.track, registry)
        composed = compose_checked(config, registry, observations, actions, Streams(0), torch.device("cpu"))
        if recorded:
            check_agent_can_use_recording(composed.agent)
