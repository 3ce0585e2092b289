"""The configuration of each model on each environment: the preset's, with what a comparison needs laid over and under it.

Runs are strict on the CPU unless something else is asked for: a matrix that was interrupted then ends with the same numbers.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from worldlab.config.resolve import PARTS, RunConfig, applies, resolve
from worldlab.errors import ConfigError, one_line
from worldlab.registry import Registry
from worldlab.runs.machine import available_cores
from worldlab.study.compare.matrix import Contender, Matrix, laid_over


def config_of(
    matrix: Matrix, contender: Contender, typed: str, env: str, registry: Registry, recording: Path | None = None
) -> RunConfig:
    """The configuration of a model on an environment, all but its seed. typed: the environment as the user named it; env: its
    full id; recording: the run that all models learn from, where they share one. Raises: ConfigError, PluginError."""
    tables = [*_read(matrix.configs), *matrix.settings, contender.settings]
    config = _resolved(matrix, contender, env, tables, registry)
    if typed != env:
        other = _resolved(matrix, contender, typed, tables, registry)
        core = other.core.model_copy(update={"env": other.core.env.model_copy(update={"id": env})})
        if replace(other, core=core) != config:
            raise ConfigError(
                one_line(f'compare: a [for] table matches "{typed}" and not its full id "{env}"'),
                cause="a comparison is repeated by full ids, which do not change with what is installed",
                fix=f'[for."{env}"]',
            )
    core = config.core
    often = max(1, core.steps // 10) if goes_on(config) else core.steps
    log = {"pictures": 0, "tensorboard": False, "keep": 2, "checkpoint": often}
    log = {key: value for key, value in log.items() if not any(_asks(table, env, "log", key) for table in tables)}
    if matrix.shared_data and core.replay.source:
        raise ConfigError(
            "compare: shared data and replay.source exclude each other",
            cause="the one records what all models learn from, the other names a recording",
            fix="leave one of them out",
        )
    source = recording or (core.replay.source and Path(core.replay.source).expanduser().absolute())
    threads = _threads(config, matrix.jobs)
    # Many cells keep the cores busy without help; a process that steps one cell's environment would wait for it half of the time.
    env_settings = {} if any(_asks(table, env, "env", "workers") for table in tables) else {"workers": 0}
    return changed(config, log=log, env=env_settings, train={"threads": threads}, replay={"source": str(source)})


def changed(config: RunConfig, **groups: Mapping[str, Any]) -> RunConfig:
    """The configuration with some settings of the core's groups set to other values."""
    update = {name: getattr(config.core, name).model_copy(update=values) for name, values in groups.items()}
    return replace(config, core=config.core.model_copy(update=update))


def goes_on(config: RunConfig) -> bool:
    """Whether a run that was cut off may go on from a checkpoint. A resumed run begins new episodes, so one that must repeat
    to the bit is begun anew; so is one that ends by the clock, whose time would be counted twice."""
    return not config.core.strict and config.core.minutes is None


def _resolved(
    matrix: Matrix, contender: Contender, env: str, tables: Sequence[Mapping[str, Any]], registry: Registry
) -> RunConfig:
    device = next((said for table in reversed(tables) if (said := _said(table, env, "device")) is not None), None)
    ours = device != "cuda" and not any(_asks(table, env, key) for table in tables for key in ("strict", "minutes"))
    parts = {role: {"name": name} for role in PARTS if (name := getattr(contender, role))}
    own = laid_over(laid_over(contender.settings, parts), {"env": {"id": env}})
    # One table after the other: what a model says of its decoder counts before what is said of all models, by whatever name.
    # What is said there of "the decoder" is meant of this model's.
    named = {role: {"name": name} for role in PARTS if (name := _named(own.get(role)))}
    under = {"strict": True, "device": "cpu"} if ours else {}
    common = [laid_over(table, named) for table in (under, *matrix.settings)]
    return resolve(registry, presets=matrix.presets, files=matrix.configs, tables=common, flags=own)


def _named(part: Any) -> str:
    """The component that a table of a part names, or ""."""
    return part if isinstance(part, str) else part.get("name", "") if isinstance(part, Mapping) else ""


def _threads(config: RunConfig, jobs: int) -> int:
    """Threads of a cell: one where it must repeat to the bit, else its share of the cores."""
    cores = available_cores()
    share = max(1, cores // max(1, jobs))
    return 1 if config.core.strict else min(config.core.train.threads or share, share)


def _read(files: Sequence[Path]) -> list[dict[str, Any]]:
    """The tables of config files; `resolve` says what is wrong with one that cannot be read."""
    tables = []
    for path in files:
        try:
            tables.append(tomllib.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            continue
    return tables


def _asks(table: Mapping[str, Any], env: str, *path: str) -> bool:
    """Whether a table, or one of its [for] tables that are for this environment, sets something."""
    return _said(table, env, *path) is not None


def _said(table: Mapping[str, Any], env: str, *path: str) -> Any:
    """What a table, or the last of its [for] tables that are for this environment, sets something to; None if nothing does."""
    inner = table.get("for", {})
    for pattern, own in reversed(inner.items()) if isinstance(inner, dict) else ():
        if isinstance(own, Mapping) and applies(pattern, env) and (said := _said(own, env, *path)) is not None:
            return said
    found: Any = table
    for key in path:
        if not isinstance(found, Mapping) or key not in found:
            return None
        found = found[key]
    return found
