"""Begins a run with the weights of another run; what has another shape begins anew and is named."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch
from torch import nn

from worldlab.errors import ConfigError
from worldlab.registry import Registry
from worldlab.runs.checkpoint import latest_valid
from worldlab.runs.find import find_run
from worldlab.runs.folder import RunFolder
from worldlab.training.compose import Composed

log = logging.getLogger("worldlab")
NAMED = 12
"""Most weights that a message names."""


def finetune(composed: Composed, run: str, registry: Registry) -> dict[str, object]:
    """Load the weights of a run's newest checkpoint into a model and an agent, as far as names and shapes agree.

    Returns: the entry of run.json: the run, its step, how many weights were taken and which began anew. Raises:
    ConfigError if no weight fits; CheckpointError.
    """
    folder = RunFolder.open(find_run(run, registry=registry))
    checkpoint = latest_valid(folder.checkpoints, move=False)
    taken, fresh = 0, []
    for name, module in (("model", composed.model), ("agent", composed.agent)):
        count, left = _take(module, checkpoint.tensors(name))
        taken += count
        fresh += [f"{name}.{weight}" for weight in left]
    if not taken:
        raise ConfigError(
            f"no weight of run '{folder.name}' fits this model",
            cause="its parts or sizes are others",
            fix="choose the parts and the --size of that run",
        )
    log.info("finetune: %d weights of run '%s' at step %d", taken, folder.name, checkpoint.step)
    if fresh:
        more = f" and {len(fresh) - NAMED} more" if len(fresh) > NAMED else ""
        log.warning(
            "finetune: these begin anew, as their shapes differ or they are new: %s%s", ", ".join(fresh[:NAMED]), more
        )
    return {"run": folder.name, "step": checkpoint.step, "taken": taken, "fresh": fresh}


def _take(module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> tuple[int, list[str]]:
    """Load the tensors that fit. Returns how many, and the names of the module's that did not come."""
    own = module.state_dict()
    fitting = {name: value for name, value in tensors.items() if name in own and own[name].shape == value.shape}
    module.load_state_dict(fitting, strict=False)
    return len(fitting), sorted(set(own) - set(fitting))


__all__ = ["finetune"]
