"""From what is asked to the cells that answer it: every mistake is found before anything runs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from worldlab.config.resolve import PARTS, RunConfig, part_config
from worldlab.config.schema import build, flatten
from worldlab.env.find import open_adapter
from worldlab.errors import ConfigError, WorldlabError, one_line
from worldlab.registry import Registration, Registry
from worldlab.settings import Config
from worldlab.study.compare.budgets import common_budget
from worldlab.study.compare.configs import changed, config_of
from worldlab.study.compare.identity import env_source, fingerprint
from worldlab.study.compare.matrix import ALL, Matrix
from worldlab.study.compare.naming import Mixture, name_models, slug, title_of
from worldlab.study.results import Method, Quantity

Answer = TypeVar("Answer")
MEASURED = ("model", "untrained")
"""The kinds of cells that have a world model to be measured."""
SCALE_EPISODES = 20
"""Episodes of random play, at least, with each seed."""
_LABELS = {"random": "random actions", "untrained": "untrained dynamics", "model-free": "model-free"}


@dataclass(frozen=True)
class Cell:
    """One method on one environment with one seed. kind: "model", "untrained", "random", "model-free" (":NAME") or "data"."""

    method: Method
    env: str
    seed: int
    kind: str
    config: RunConfig
    hash: str

    @property
    def name(self) -> str:
        """Its folder's name."""
        return f"{self.method.key}-{slug(self.env, 40)}-s{self.seed}-{self.hash[:8]}"


@dataclass(frozen=True)
class Plan:
    """A matrix, resolved. cells: in the order they are begun; those of a method that is not among `methods` are there for
    the scale of the scores only. quantities: what is measured of each trained model. plugins: all in use, with versions."""

    matrix: Matrix
    title: str
    methods: tuple[Method, ...]
    cells: tuple[Cell, ...]
    budgets: Mapping[str, Mapping[str, float]]
    quantities: tuple[Quantity, ...]
    plugins: tuple[str, ...]


def plan(matrix: Matrix, registry: Registry, recordings: Mapping[str, Path] | None = None) -> Plan:
    """Resolve every cell. The matrix comes back with full ids, presets and parts written out.

    recordings: by environment the run that all models learn from, where they share data and it is there.

    Raises: ConfigError, PluginError, EnvError; one that names all that is wrong.
    """
    quantities = _check_names(matrix, registry)
    full = [open_adapter(registry, env)[1] for env in matrix.envs]
    if len(set(full)) < len(full):
        raise ConfigError(one_line(f"compare: two names of one environment: {', '.join(matrix.envs)}"))
    rows = gather(
        lambda c=contender, typed=typed, env=env: config_of(
            matrix, c, typed, env, registry, (recordings or {}).get(env)
        )
        for contender in matrix.contenders
        for typed, env in zip(matrix.envs, full, strict=True)
    )
    configs = [dict(zip(full, rows[at : at + len(full)], strict=True)) for at in range(0, len(rows), len(full))]
    models = [_mixture(list(of.values())) for of in configs]
    named = name_models(models, [contender.name for contender in matrix.contenders])
    methods = [Method(key, label, "model", **dict(mix)) for (key, label), mix in zip(named, models, strict=True)]
    entries = [_Entry(method, "model", of) for method, of in zip(methods, configs, strict=True)]
    budgets = {env: common_budget(env, [(e.method.label, e.configs[env]) for e in entries]) for env in full}
    entries += _baselines(matrix, methods, configs[0])
    return Plan(
        matrix=_written_out(matrix, full, models, rows[0].presets),
        title=matrix.title or title_of(models, full, len(matrix.seeds)),
        methods=tuple(entry.method for entry in entries if entry.shown),
        cells=_cells(entries, full, matrix.seeds, registry),
        budgets=budgets,
        quantities=quantities,
        plugins=tuple(sorted({source.label for source in registry.sources})),
    )


def gather(calls: Iterable[Callable[[], Answer]]) -> list[Answer]:
    """What all calls return. Raises: the first WorldlabError, with what was wrong with the others in its cause."""
    answers, errors = [], []
    for call in calls:
        try:
            answers.append(call())
        except WorldlabError as error:
            errors.append(error)
    if not errors:
        return answers
    first, others = errors[0], dict.fromkeys(error.message for error in errors[1:])
    others.pop(first.message, None)
    causes = [*([first.cause] if first.cause else []), *(f"also: {message}" for message in others)]
    raise type(first)(first.message, cause="\n".join(causes) or None, fix=first.fix) from first


def launcher_of(matrix: Matrix, registry: Registry) -> tuple[Registration, Config]:
    """The launcher that is asked for, and its settings. Raises: PluginError, ConfigError."""
    entry = registry.get("launcher", matrix.launcher)
    config = part_config(registry, "launcher", entry.name)
    return entry, build(config, flatten(matrix.launcher_settings, config, "a flag", "launcher."), "launcher.")


# Checks


def _check_names(matrix: Matrix, registry: Registry) -> tuple[Quantity, ...]:
    """Look up all that is named. Returns what is to be measured."""
    used = dict.fromkeys(
        (role, name) for contender in matrix.contenders for role in PARTS if (name := getattr(contender, role))
    )
    found: list[Any] = gather(
        [
            *((lambda role=role, name=name: registry.get(role, name)) for role, name in used),
            *((lambda env=env: open_adapter(registry, env)) for env in matrix.envs),
            lambda: launcher_of(matrix, registry),
            lambda: _refuse_own(matrix),
            lambda: _quantities(matrix.measures),
        ]
    )
    return found[-1]


def _refuse_own(matrix: Matrix) -> None:
    if any("presets" in model.settings for model in matrix.models):
        raise ConfigError(
            "compare: presets are no settings of a [[model]]",
            cause="a preset sets budgets too, which are equal for all models",
            fix="presets = [...] for all of them, or a part's own settings under settings.encoder and so on",
        )
    for table in (*matrix.settings, *(model.settings for model in matrix.models)):
        env = table.get("env", {})
        if "seed" in table or not isinstance(env, Mapping) or "id" in env:
            raise ConfigError(
                "compare: seed and env.id are no settings of a matrix, which has many of them",
                fix="--seeds and --env, or seeds and axes.env in matrix.toml",
            )


def _quantities(asked: Sequence[str]) -> tuple[Quantity, ...]:
    """What is to be measured. Raises: ConfigError."""
    if not asked:
        return ()
    from worldlab.study.measures.catalogue import catalogue, select

    _, wanted = select(None if asked == (ALL,) else asked)
    return tuple(quantity for quantity in catalogue() if quantity.name in wanted)


def _mixture(configs: Sequence[RunConfig]) -> Mixture:
    """The parts of one model on all environments. Raises: ConfigError if they are not the same everywhere."""
    for role in PARTS:
        names = {getattr(config, role).name: config.core.env.id for config in configs}
        if len(names) > 1:
            (one, here), (other, there), *_ = names.items()
            raise ConfigError(
                one_line(f"compare: the {role} would be '{one}' on {here} and '{other}' on {there}"),
                cause="a [for] table of the presets or files chooses it by environment",
                fix=f"say which: --{role} NAME",
            )
    return {role: getattr(configs[0], role).name for role in PARTS}


def check_mixes(cells: Sequence[Cell], registry: Registry, shared: bool) -> None:
    """Build the model and agent of each method on each environment once, and look whether baselines can do with its actions.

    shared: whether models will learn from data that is recorded for all of them.

    Raises: ConfigError, PluginError, EnvError; one that names all that cannot be.
    """
    first = {(cell.method.key, cell.env): cell for cell in reversed(cells) if cell.kind != "random"}
    if first:
        from worldlab.study.compare.mixes import check_mix

        spaces: dict[str, Any] = {}
        gather(
            partial(check_mix, cell.kind, cell.config, registry, spaces, shared or bool(cell.config.core.replay.source))
            for cell in first.values()
        )


# Cells


@dataclass(frozen=True)
class _Entry:
    """A method and its configurations by environment. shown: whether it is among the methods that are compared."""

    method: Method
    kind: str
    configs: Mapping[str, RunConfig]
    shown: bool = True


def _baselines(matrix: Matrix, models: Sequence[Method], configs: Mapping[str, RunConfig]) -> list[_Entry]:
    """The baselines, made of the first model's configurations; random play always, which the scale of scores hangs on."""
    taken = {method.key.lower() for method in models}
    found = []
    for kind in dict.fromkeys((*matrix.baselines, "random")):
        name, _, algorithm = kind.partition(":")
        key = slug(kind.lower())
        label = f"{models[0].label}, {_LABELS[name]}" if name == "untrained" else f"{_LABELS[name]} {algorithm}".strip()
        method = Method(f"baseline-{key}" if key in taken else key, label, "baseline")
        of = configs
        if name == "untrained":
            method = replace(method, **{role: getattr(models[0], role) for role in PARTS})
            of = {env: _with_frozen_dynamics(config) for env, config in configs.items()}
        if name == "random":
            of = {env: _long_enough_for_a_scale(config) for env, config in configs.items()}
        found.append(_Entry(method, kind, of, kind in matrix.baselines))
    return found


def _with_frozen_dynamics(config: RunConfig) -> RunConfig:
    """Frozen besides what the model freezes anyway: its training is all the two differ in."""
    return changed(config, train={"freeze": tuple(dict.fromkeys((*config.core.train.freeze, "dynamics")))})


def _long_enough_for_a_scale(config: RunConfig) -> RunConfig:
    """Random play costs next to nothing, and the scale of all scores hangs on it."""
    return changed(config, eval={"final_episodes": max(SCALE_EPISODES, config.core.eval.final_episodes)})


def _cells(
    entries: Sequence[_Entry], envs: Sequence[str], seeds: Sequence[int], registry: Registry
) -> tuple[Cell, ...]:
    """All cells: random play first, then seed by seed, so that half a matrix is a fair one."""
    found, sources = [], {env: env_source(env, registry) for env in envs}
    for entry, env in itertools.product(entries, envs):
        for seed in seeds if entry.shown else seeds[:1]:
            config = entry.configs[env]
            config = replace(config, core=config.core.model_copy(update={"seed": seed}))
            digest = fingerprint(entry.kind, config, sources[env], registry)
            found.append(Cell(entry.method, env, seed, entry.kind, config, digest))
    return tuple(sorted(found, key=lambda cell: (cell.kind != "random", seeds.index(cell.seed))))


def _written_out(matrix: Matrix, envs: Sequence[str], models: Sequence[Mixture], presets: tuple[str, ...]) -> Matrix:
    """The matrix with nothing left to defaults that may change: full ids, presets, the parts of every model."""
    if matrix.models:
        rows = tuple(replace(row, **mix) for row, mix in zip(matrix.models, models, strict=True))
        return replace(matrix, envs=tuple(envs), presets=presets, models=rows)
    axes = {role: tuple(dict.fromkeys(model[role] for model in models)) for role in PARTS}
    return replace(matrix, envs=tuple(envs), presets=presets, axes=axes)
