"""Builds the run configuration of each model on each environment, from presets, matrix and defaults.

Runs are strict on the CPU by default, so that an interrupted comparison ends with the same numbers as one that was not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from worldlab.config.resolve import PARTS, RunConfig, applies, resolve
from worldlab.errors import ConfigError, one_line
from worldlab.experience.dataset import absolute_name
from worldlab.registry import Registry
from worldlab.runs.machine import available_cores
from worldlab.runs.storage import read_toml
from worldlab.study.compare.matrix import Matrix, ModelSpec, overlay


def build_config(
    matrix: Matrix, spec: ModelSpec, typed: str, env: str, registry: Registry, recording: Path | None = None
) -> RunConfig:
    """Build the configuration of a model on an environment, without the seed.

    typed: the environment as the user named it. env: its full id. recording: the run whose data all models learn from,
    if they share data. Raises: ConfigError, PluginError.
    """
    tables = [*_read(matrix.configs), *matrix.settings, spec.settings]
    config = _resolve(matrix, spec, env, tables, registry)
    if typed != env:
        other = _resolve(matrix, spec, typed, tables, registry)
        core = other.core.model_copy(update={"env": other.core.env.model_copy(update={"id": env})})
        if replace(other, core=core) != config:
            raise ConfigError(
                one_line(f'compare: a [for] table matches "{typed}" and not its full id "{env}"'),
                cause="matrix.toml stores full ids, as short names depend on what is installed",
                fix=f'[for."{env}"]',
            )
    core = config.core
    interval = max(1, core.steps // 10) if can_resume(config) else core.steps
    log = {"pictures": 0, "track": ("none",), "keep": 2, "checkpoint": interval}
    log = {key: value for key, value in log.items() if not any(_sets(table, env, "log", key) for table in tables)}
    if matrix.shared_data and core.data:
        raise ConfigError(
            "compare: --shared-data and --data exclude each other",
            cause="shared data records the data all models learn from; --data names existing ones",
            fix="remove one of them",
        )
    source = str(recording) if recording else absolute_name(core.data)
    train = _share_of_cores(config, matrix.jobs)
    # Cells already run in parallel, so separate env workers would idle half of the time.
    env_settings = {} if any(_sets(table, env, "env", "workers") for table in tables) else {"workers": 0}
    config = replace(config, core=core.model_copy(update={"data": source}))
    return with_settings(config, log=log, env=env_settings, train=train)


def with_settings(config: RunConfig, **groups: Mapping[str, Any]) -> RunConfig:
    """Return a copy of a configuration with some settings of the core's groups replaced."""
    update = {name: getattr(config.core, name).model_copy(update=values) for name, values in groups.items()}
    return replace(config, core=config.core.model_copy(update=update))


def can_resume(config: RunConfig) -> bool:
    """Return whether an interrupted run may resume from a checkpoint.

    A run with a time limit starts over: its time would count twice. A strict run resumes if it can do so exactly.
    """
    return config.core.minutes is None


def _resolve(
    matrix: Matrix, spec: ModelSpec, env: str, tables: Sequence[Mapping[str, Any]], registry: Registry
) -> RunConfig:
    device = next(
        (value for table in reversed(tables) if (value := _value_set(table, env, "device")) is not None), None
    )
    strict = device != "cuda" and not any(_sets(table, env, key) for table in tables for key in ("strict", "minutes"))
    parts = {role: {"name": name} for role in PARTS if (name := getattr(spec, role))}
    own = overlay(overlay(spec.settings, parts), {"env": {"id": env}})
    # Tables are applied one after the other, so a model's own settings win over common ones, whichever key either uses.
    # A common setting of the role ("decoder.frames") applies to this model's component.
    named = {role: {"name": name} for role in PARTS if (name := _component_name(own.get(role)))}
    defaults = {"strict": True, "device": "cpu"} if strict else {}
    common = [overlay(table, named) for table in (defaults, *matrix.settings)]
    return resolve(registry, presets=matrix.presets, files=matrix.configs, tables=common, flags=own)


def _component_name(part: Any) -> str:
    """Return the name of the component that a part's table chooses, or ""."""
    return part if isinstance(part, str) else part.get("name", "") if isinstance(part, Mapping) else ""


def _share_of_cores(config: RunConfig, jobs: int) -> dict[str, Any]:
    """Return the threads and processes of a cell: 1 for a strict run, else at most its share of the cores."""
    share = max(1, available_cores() // max(1, jobs))
    if config.core.strict:
        return {"threads": 1, "parallel": False}
    threads = min(config.core.train.threads or share, share)
    return {"threads": threads, "parallel": config.core.train.parallel and share >= 2 * threads}


def _read(files: Sequence[Path]) -> list[dict[str, Any]]:
    """Read config files. A file that cannot be read is skipped here: `resolve` reports it."""
    tables = []
    for path in files:
        try:
            tables.append(read_toml(path))
        except (OSError, ValueError):
            continue
    return tables


def _sets(table: Mapping[str, Any], env: str, *path: str) -> bool:
    """Return whether a table, or one of its [for] tables that match the environment, sets a path."""
    return _value_set(table, env, *path) is not None


def _value_set(table: Mapping[str, Any], env: str, *path: str) -> Any:
    """Return the value that a table sets at a path; the last matching [for] table wins. None if it is not set."""
    inner = table.get("for", {})
    for pattern, own in reversed(inner.items()) if isinstance(inner, dict) else ():
        if isinstance(own, Mapping) and applies(pattern, env) and (value := _value_set(own, env, *path)) is not None:
            return value
    value: Any = table
    for key in path:
        if not isinstance(value, Mapping) or key not in value:
            return None
        value = value[key]
    return value
