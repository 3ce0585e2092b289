"""Enforces equal budgets: a comparison of models with different budgets or tasks is an error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from worldlab.config.resolve import RunConfig
from worldlab.errors import ConfigError, one_line

EQUAL = (
    ("steps", "env_steps"), ("minutes", "minutes"), ("strict", ""), ("device", ""), ("data", ""), ("offline", ""),
    ("replay.capacity", ""), ("train.prefill", "prefill"), ("train.prefill_hold", ""),
    ("train.pretrain", "pretrain"), ("train.pretrain_agent", "pretrain_agent"), ("train.ratio", "updates_per_step"),
    ("train.batch_size", "batch_size"), ("train.batch_length", "batch_length"), ("eval.every", ""),
    ("eval.episodes", ""), ("eval.final_episodes", "eval_episodes"), ("eval.deterministic", ""), ("env", ""),
)  # fmt: skip
"""Settings that must be equal for all models on an environment, with their names in the budgets ("": not listed)."""


def check_budgets(env: str, configs: Sequence[tuple[str, RunConfig]]) -> dict[str, float]:
    """Return the budget that all models have on an environment.

    Raises: ConfigError naming the first setting in which they differ.
    """
    stopping = next((label for label, config in configs if config.core.until is not None), None)
    if stopping is not None:
        raise ConfigError(
            one_line(f"compare: until is set for {stopping} on {env}"),
            cause="runs that end when they are solved have different budgets",
            fix='set until = "none", and compare the steps to a threshold instead: the report has them',
        )
    budget: dict[str, float] = {}
    for path, name in EQUAL:
        values = [(label, _setting(config.core.model_dump(), path)) for label, config in configs]
        (first, value), different = values[0], [item for item in values if item[1] != values[0][1]]
        if different:
            other, instead = different[0]
            path, value, instead = _leaf(path, value, instead)
            raise ConfigError(
                one_line(f"compare: unequal budgets on {env}: {path} is {value} for {first}, {instead} for {other}"),
                cause="the results would differ because of budgets or tasks, not because of models",
                fix=f"set {path} once under [settings], not in a [[model]]",
            )
        if name and value is not None:
            budget[name] = float(value)
    return budget


def _leaf(path: str, first: Any, other: Any) -> tuple[str, Any, Any]:
    """Return the path of the first leaf in which two values differ, and both leaves."""
    if not isinstance(first, Mapping):
        return path, first, other
    key = next(key for key in first if first[key] != other[key])
    return f"{path}.{key}", first[key], other[key]


def _setting(table: Mapping[str, Any], path: str) -> Any:
    value: Any = table
    for key in path.split("."):
        value = value[key]
    return {key: leaf for key, leaf in value.items() if key != "id"} if isinstance(value, Mapping) else value
