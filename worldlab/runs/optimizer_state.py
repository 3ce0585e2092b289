"""Converts the state of a torch optimizer to plain tensors and JSON, so that checkpoints need no pickle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from worldlab.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer


def flatten_optimizer(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split an optimizer's state into (tensors, JSON) for `save_checkpoint`.

    Tensors are named "PARAMETER.KEY" by the parameter's position ("3.exp_avg") or "group.GROUP.KEY".
    """
    full, tensors = optimizer.state_dict(), {}
    scalars: dict[str, dict[str, Any]] = {}
    for index, entry in full["state"].items():
        scalars[str(index)] = _split(entry, f"{index}", tensors)
    groups = [_split(group, f"group.{index}", tensors) for index, group in enumerate(full["param_groups"])]
    return tensors, {"kind": type(optimizer).__name__, "state": scalars, "param_groups": groups}


def _split(entry: Mapping[str, Any], prefix: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    import torch

    rest = {}
    for key, value in entry.items():
        if isinstance(value, torch.Tensor):
            tensors[f"{prefix}.{key}"] = value
        else:
            rest[key] = value
    return rest


def restore_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor], state: Mapping[str, Any] | None) -> None:
    """Restore the state that `flatten_optimizer` returned; the next step is then bit for bit the same.

    optimizer: same class over the same parameters, in the same order. Learning rates and other group options are
    restored too. Raises: CheckpointError if class, parameters or shapes do not fit; the optimizer is then unchanged.
    """
    if not isinstance(state, Mapping):
        raise _misfit("it holds no state of this optimizer")
    if state.get("kind") != type(optimizer).__name__:
        raise _misfit(f"it holds {state.get('kind')}, this run uses {type(optimizer).__name__}")
    try:
        entries = {int(index): dict(entry) for index, entry in state["state"].items()}
        groups = [dict(group) for group in state["param_groups"]]
        for name, tensor in tensors.items():
            head, key = name.rsplit(".", 1)
            # Cloned: the optimizer steps in place and must not change the caller's tensors.
            target = groups[int(head[6:])] if head.startswith("group.") else entries[int(head)]
            target[key] = tensor.clone()
        for group, current in zip(groups, optimizer.param_groups, strict=True):
            for key, value in group.items():
                if isinstance(current.get(key), tuple):
                    group[key] = tuple(value)  # JSON has no tuples (Adam's betas)
        _check_shapes(optimizer, entries)
        optimizer.load_state_dict({"state": entries, "param_groups": groups})
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise _misfit(str(error)) from error


def _check_shapes(optimizer: Optimizer, entries: Mapping[int, Mapping[str, Any]]) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, entry in entries.items():
        for key, value in entry.items():
            shape = tuple(getattr(value, "shape", ()))
            # Scalars are counters; every other state tensor of torch's optimizers mirrors its parameter.
            if shape and shape != tuple(parameters[index].shape):
                expected = tuple(parameters[index].shape)
                raise ValueError(f"{key} of parameter {index} is {shape}, the parameter is {expected}")


def _misfit(cause: str) -> CheckpointError:
    return CheckpointError(
        "the checkpoint's optimizer state does not fit this run's parameters",
        cause=cause,
        fix="resume with the run's own config.toml (same parts, same sizes)",
    )
