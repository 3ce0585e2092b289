"""Turns a matrix into cells, and finds every mistake before anything runs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from worldlab.config.resolve import PARTS, RunConfig, part_config
from worldlab.config.schema import build, flatten
from worldlab.env.find import BoundsReturns, open_adapter
from worldlab.errors import ConfigError, WorldlabError, one_line
from worldlab.registry import Registration, Registry
from worldlab.settings import Config
from worldlab.study.compare.budgets import check_budgets
from worldlab.study.compare.configs import build_config, with_settings
from worldlab.study.compare.identity import env_source, fingerprint
from worldlab.study.compare.matrix import ALL, Matrix
from worldlab.study.compare.naming import Mix, make_title, name_models, slug
from worldlab.study.results import Method, Quantity

Result = TypeVar("Result")
WITH_MODEL = ("model", "untrained")
"""The kinds of cells with a world model, which measures apply to."""
SCALE_EPISODES = 20
"""The minimum number of episodes of random play per seed."""
_LABELS = {"random": "random actions", "untrained": "untrained dynamics", "model-free": "model-free"}


@dataclass(frozen=True)
class Cell:
    """A run of the comparison: one method on one environment with one seed.

    kind: "model", "untrained", "random", "model-free" (":NAME"), or "data" for a recording of shared data. config: the
    complete configuration of the run. hash: as computed by worldlab.study.compare.identity.
    """

    method: Method
    env: str
    seed: int
    kind: str
    config: RunConfig
    hash: str

    @property
    def name(self) -> str:
        """The name of the cell's folder."""
        return f"{self.method.key}-{slug(self.env, 40)}-s{self.seed}-{self.hash[:8]}"


@dataclass(frozen=True)
class Plan:
    """A resolved matrix.

    methods: the compared methods. cells: in the order in which they start; random play is included even where it is
    not a compared method, as it defines score 0. budgets: by environment. quantities: what is measured of each trained
    model. plugins: all installed plugins, with versions. bounds: of the returns, by environment, where they are known.
    """

    matrix: Matrix
    title: str
    methods: tuple[Method, ...]
    cells: tuple[Cell, ...]
    budgets: Mapping[str, Mapping[str, float]]
    quantities: tuple[Quantity, ...]
    plugins: tuple[str, ...]
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def plan(matrix: Matrix, registry: Registry, recordings: Mapping[str, Path] | None = None) -> Plan:
    """Resolve every cell of a matrix. The matrix of the plan has full environment ids, presets and all parts.

    recordings: the run whose data all models learn from, by environment, as far as shared data has been recorded.
    Raises: ConfigError, PluginError, EnvError; the first error lists all others in its cause.
    """
    quantities = _check_names(matrix, registry)
    full = [open_adapter(registry, env)[1] for env in matrix.envs]
    if len(set(full)) < len(full):
        raise ConfigError(one_line(f"compare: two names for the same environment: {', '.join(matrix.envs)}"))
    rows = collect_errors(
        lambda spec=spec, typed=typed, env=env: build_config(
            matrix, spec, typed, env, registry, (recordings or {}).get(env)
        )
        for spec in matrix.models
        for typed, env in zip(matrix.envs, full, strict=True)
    )
    configs = [dict(zip(full, rows[at : at + len(full)], strict=True)) for at in range(0, len(rows), len(full))]
    models = [_common_mix(list(of.values())) for of in configs]
    named = name_models(models, [spec.name for spec in matrix.models])
    methods = [Method(key, label, "model", **dict(mix)) for (key, label), mix in zip(named, models, strict=True)]
    entries = [_MethodConfigs(method, "model", of) for method, of in zip(methods, configs, strict=True)]
    budgets = {env: check_budgets(env, [(e.method.label, e.configs[env]) for e in entries]) for env in full}
    entries += _baselines(matrix, methods, configs[0])
    return Plan(
        matrix=_resolve_matrix(matrix, full, models, rows[0].presets),
        title=matrix.title or make_title(models, full, len(matrix.seeds)),
        methods=tuple(entry.method for entry in entries if entry.compared),
        cells=_cells(entries, full, matrix.seeds, registry),
        budgets=budgets,
        quantities=quantities,
        plugins=tuple(sorted({source.label for source in registry.sources})),
        bounds={env: known for env in full if (known := _return_bounds(env, configs[0][env], registry))},
    )


def _return_bounds(env: str, config: RunConfig, registry: Registry) -> tuple[float, float] | None:
    adapter, full = open_adapter(registry, env)
    return adapter.return_bounds(full, config.core.env) if isinstance(adapter, BoundsReturns) else None


def collect_errors(calls: Iterable[Callable[[], Result]]) -> list[Result]:
    """Make all calls and return their results.

    Raises: the first WorldlabError, with the messages of all others in its cause.
    """
    results, errors = [], []
    for call in calls:
        try:
            results.append(call())
        except WorldlabError as error:
            errors.append(error)
    if not errors:
        return results
    first, others = errors[0], dict.fromkeys(error.message for error in errors[1:])
    others.pop(first.message, None)
    causes = [*([first.cause] if first.cause else []), *(f"also: {message}" for message in others)]
    raise type(first)(first.message, cause="\n".join(causes) or None, fix=first.fix) from first


def find_launcher(matrix: Matrix, registry: Registry) -> tuple[Registration, Config]:
    """Return the launcher of a matrix and its settings. Raises: PluginError, ConfigError."""
    entry = registry.get("launcher", matrix.launcher)
    config = part_config(registry, "launcher", entry.name)
    return entry, build(config, flatten(matrix.launcher_settings, config, "a flag", "launcher."), "launcher.")


# Checks


def _check_names(matrix: Matrix, registry: Registry) -> tuple[Quantity, ...]:
    """Check all names in a matrix. Returns the quantities to measure."""
    used = dict.fromkeys((role, name) for spec in matrix.models for role in PARTS if (name := getattr(spec, role)))
    checked: list[Any] = collect_errors(
        [
            *((lambda role=role, name=name: registry.get(role, name)) for role, name in used),
            *((lambda env=env: open_adapter(registry, env)) for env in matrix.envs),
            lambda: find_launcher(matrix, registry),
            lambda: _check_settings(matrix),
            lambda: _quantities(matrix.measures),
        ]
    )
    return checked[-1]


def _check_settings(matrix: Matrix) -> None:
    """Check that settings contain neither seeds nor environments, and models no presets. Raises: ConfigError."""
    if any("presets" in model.settings for model in matrix.listed_models):
        raise ConfigError(
            "compare: a [[model]] cannot set presets",
            cause="presets also set budgets, which must be equal for all models",
            fix="set presets = [...] for all models, or settings of parts: settings.encoder.units = ...",
        )
    for table in (*matrix.settings, *(model.settings for model in matrix.listed_models)):
        env = table.get("env", {})
        if "seed" in table or not isinstance(env, Mapping) or "id" in env:
            raise ConfigError(
                "compare: seed and env.id cannot be set under [settings]: a matrix has several of each",
                fix="use --seeds and --env, or seeds and axes.env in matrix.toml",
            )


def _quantities(names: Sequence[str]) -> tuple[Quantity, ...]:
    """Return the selected quantities. Raises: ConfigError."""
    if not names:
        return ()
    from worldlab.study.measures.catalogue import catalogue, select

    _, wanted = select(None if names == (ALL,) else names)
    return tuple(quantity for quantity in catalogue() if quantity.name in wanted)


def _common_mix(configs: Sequence[RunConfig]) -> Mix:
    """Return the components of a model. Raises: ConfigError if they differ between environments."""
    for role in PARTS:
        names = {getattr(config, role).name: config.core.env.id for config in configs}
        if len(names) > 1:
            (one, here), (other, there), *_ = names.items()
            raise ConfigError(
                one_line(f"compare: the {role} would be '{one}' on {here} and '{other}' on {there}"),
                cause="a [for] table in the presets or files chooses it by environment",
                fix=f"choose one: --{role} NAME",
            )
    return {role: getattr(configs[0], role).name for role in PARTS}


def check_cells(cells: Sequence[Cell], registry: Registry, shared: bool) -> None:
    """Build the model and agent of each method on each environment, and check that baselines support the action spaces.

    shared: whether all models will learn from shared data.
    Raises: ConfigError, PluginError, EnvError; the first error lists all others in its cause.
    """
    first = {(cell.method.key, cell.env): cell for cell in reversed(cells) if cell.kind != "random"}
    if first:
        from worldlab.study.compare.cell_check import check_cell

        spaces: dict[str, Any] = {}
        collect_errors(
            partial(check_cell, cell.kind, cell.config, registry, spaces, shared or bool(cell.config.core.data))
            for cell in first.values()
        )


# Cells


@dataclass(frozen=True)
class _MethodConfigs:
    """A method and its configurations by environment. compared: False for random play that only defines score 0."""

    method: Method
    kind: str
    configs: Mapping[str, RunConfig]
    compared: bool = True


def _baselines(matrix: Matrix, models: Sequence[Method], configs: Mapping[str, RunConfig]) -> list[_MethodConfigs]:
    """Return the baselines, with the first model's configurations.

    Random play is always included: it defines score 0.
    """
    taken = {method.key.lower() for method in models}
    baselines = []
    for kind in dict.fromkeys((*matrix.baselines, "random")):
        name, _, algorithm = kind.partition(":")
        key = slug(kind.lower())
        label = f"{models[0].label}, {_LABELS[name]}" if name == "untrained" else f"{_LABELS[name]} {algorithm}".strip()
        method = Method(f"baseline-{key}" if key in taken else key, label, "baseline")
        of = configs
        if name == "untrained":
            method = replace(method, **{role: getattr(models[0], role) for role in PARTS})
            of = {env: _freeze_dynamics(config) for env, config in configs.items()}
        if name == "random":
            of = {env: _extend_evaluation(config) for env, config in configs.items()}
        baselines.append(_MethodConfigs(method, kind, of, kind in matrix.baselines))
    return baselines


def _freeze_dynamics(config: RunConfig) -> RunConfig:
    """Freeze the dynamics in addition to the parts that the model itself freezes, so that nothing else differs."""
    return with_settings(config, train={"freeze": tuple(dict.fromkeys((*config.core.train.freeze, "dynamics")))})


def _extend_evaluation(config: RunConfig) -> RunConfig:
    """Raise the number of final episodes to SCALE_EPISODES: random play is cheap, and it defines score 0."""
    return with_settings(config, eval={"final_episodes": max(SCALE_EPISODES, config.core.eval.final_episodes)})


def _cells(
    entries: Sequence[_MethodConfigs], envs: Sequence[str], seeds: Sequence[int], registry: Registry
) -> tuple[Cell, ...]:
    """Return all cells: random play first, then seed by seed, so that an unfinished matrix is a fair comparison."""
    cells, sources = [], {env: env_source(env, registry) for env in envs}
    for entry, env in itertools.product(entries, envs):
        for seed in seeds if entry.compared else seeds[:1]:
            config = entry.configs[env]
            config = replace(config, core=config.core.model_copy(update={"seed": seed}))
            digest = fingerprint(entry.kind, config, sources[env], registry)
            cells.append(Cell(entry.method, env, seed, entry.kind, config, digest))
    return tuple(sorted(cells, key=lambda cell: (cell.kind != "random", seeds.index(cell.seed))))


def _resolve_matrix(matrix: Matrix, envs: Sequence[str], models: Sequence[Mix], presets: tuple[str, ...]) -> Matrix:
    """Return the matrix with full ids, presets and components written out, so that it depends on no default."""
    if matrix.listed_models:
        rows = tuple(replace(row, **mix) for row, mix in zip(matrix.listed_models, models, strict=True))
        return replace(matrix, envs=tuple(envs), presets=presets, listed_models=rows)
    axes = {role: tuple(dict.fromkeys(model[role] for model in models)) for role in PARTS}
    return replace(matrix, envs=tuple(envs), presets=presets, axes=axes)
