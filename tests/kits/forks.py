"""Functions in processes that are forked from one which has imported what a run needs. Command lines: warm_process.py."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

PRELOAD = (
    "worldlab.cli.train", "worldlab.training.train", "worldlab.training.loaded", "worldlab.registry.discovery",
    "worldlab_vae.encoder", "worldlab_vae.dynamics", "worldlab_vae.decoder", "worldlab_flow.configs", "worldlab_gan.configs",
    "worldlab_autoregressive.configs", "worldlab_cpc.configs", "worldlab_launchers.configs", "worldlab_agents.dreamer",
    "worldlab_envs.gymnasium_adapter", "gymnasium.envs.classic_control", "matplotlib.backends.backend_agg", "psutil",
    "rich.style", "safetensors.torch", "tomli_w",
)  # fmt: skip
"""What a run of the core's own parts imports; to import it takes a third of the time of a small run."""
SECONDS = 240


def start_fork(function: Callable[..., Any], *arguments: Any) -> BaseProcess:
    """Start a function in a fork. It and its arguments must be picklable."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOAD))
    process = context.Process(target=function, args=arguments)
    process.start()
    return process


def run_in_fork(function: Callable[..., Any], *arguments: Any, seconds: float = SECONDS) -> int | None:
    """Run a function in a fork; kill it when its time is up. Returns: the exit code."""
    process = start_fork(function, *arguments)
    process.join(seconds)
    process.kill()
    process.join()
    return process.exitcode
