"""Whether a cell could run, asked before any does: its environment, model and agent are built, tried and thrown away."""

from __future__ import annotations

from typing import Any

import torch

from worldlab.config.resolve import RunConfig
from worldlab.registry import Registry
from worldlab.training.session import check_agent_can_use_recording, compose_checked, open_env, spaces_of
from worldlab.training.streams import Streams


def check_mix(kind: str, config: RunConfig, registry: Registry, spaces: dict[str, Any], given: bool) -> None:
    """Build what a cell needs. spaces: (observations, actions) by environment, filled as they become known. given: whether it
    learns from what others played.

    Raises: ConfigError, PluginError, EnvError if it cannot be.
    """
    env_id = config.core.env.id
    if env_id not in spaces:
        spaces[env_id] = spaces_of(open_env(config, registry)[1])
    observations, actions = spaces[env_id]
    if kind.startswith("model-free"):
        from worldlab.study.compare.model_free import algorithm_for

        algorithm_for(actions, kind.partition(":")[2])
    else:
        composed = compose_checked(config, registry, observations, actions, Streams(0), torch.device("cpu"))
        if given:
            check_agent_can_use_recording(composed.agent)
