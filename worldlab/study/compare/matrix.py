"""The matrix of a comparison: its models, tasks, seeds and baselines, read from matrix.toml and flags.

seeds = 5
presets = ["debug"]
baselines = ["random", "model-free"]
[axes]                       # models are the product of the axes; the preset chooses parts without an axis
env = ["CarRacing", "Pendulum"]
encoder = ["vae", "cpc"]
[settings]                   # settings of all runs, on top of presets and config files; or several [[settings]]
train.ratio = 0.3
[[model]]                    # instead of axes of parts: one model each, with its own name and settings
name = "wide"
encoder = "vae"
settings.encoder.units = 256
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from worldlab.config.resolve import PARTS
from worldlab.config.schema import Text
from worldlab.errors import ConfigError, did_you_mean, one_line
from worldlab.runs import storage

AXES = ("env", *PARTS)
ALL, NONE = "all", "none"
BASELINES = ("random", "untrained", "model-free")
"""Kinds of baselines; "model-free:NAME" chooses an algorithm of Stable-Baselines3."""
SIZES = ("full", "quick")
"""How much data measures use: worldlab.study.measures.SampleSizes() or QUICK."""
DATA_SOURCES = ("replay", "random")
"""Sources of shared data: the replay of the first model as it trains, or random play."""
SEED_LIMIT = 2**32
"""Seeds must be less than this."""
PATH_KEYS = ("configs", "plugins")
"""Keys of a matrix whose values are paths of files."""
_KEYS = (
    "title",
    "seeds",
    "presets",
    "configs",
    "plugins",
    "baselines",
    "measures",
    "sizes",
    "jobs",
    "shared_data",
    "model",
    "axes",
    "settings",
    "launcher",
)


@dataclass(frozen=True)
class ModelSpec:
    """A model of the comparison, as the user gives it.

    encoder, dynamics, decoder, agent: registered names; "" leaves the choice to the preset. name: overrides the name
    that is made of the parts. settings: override common settings; nested as in a config file.
    """

    encoder: str = ""
    dynamics: str = ""
    decoder: str = ""
    agent: str = ""
    name: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Matrix:
    """The definition of a comparison. Made by `matrix_of`.

    axes: names of components by role; models are their product. listed_models: the [[model]] tables, used instead of
    axes. presets, configs, settings: the layers of every run's configuration, as in worldlab.config.resolve.resolve;
    later tables of settings win. measures: names or groups of names, or "all". sizes: how much data measures use, one
    of SIZES. shared_data: the source of the data that all models learn from, one of DATA_SOURCES; "" if each model
    collects its own. jobs: how many cells run at once; 0 lets the launcher decide.
    """

    envs: tuple[str, ...]
    axes: Mapping[str, tuple[str, ...]]
    listed_models: tuple[ModelSpec, ...]
    seeds: tuple[int, ...]
    presets: tuple[str, ...]
    configs: tuple[Path, ...]
    plugins: tuple[Path, ...]
    settings: tuple[Mapping[str, Any], ...]
    baselines: tuple[str, ...]
    measures: tuple[str, ...]
    sizes: str
    launcher: str
    launcher_settings: Mapping[str, Any]
    jobs: int
    shared_data: str = ""
    title: str = ""

    @property
    def models(self) -> tuple[ModelSpec, ...]:
        """The models to compare: the listed ones, or the product of the axes."""
        if self.listed_models:
            return self.listed_models
        crossed = itertools.product(*(self.axes.get(role, ("",)) for role in PARTS))
        return tuple(ModelSpec(encoder, dynamics, decoder, agent) for encoder, dynamics, decoder, agent in crossed)

    def to_toml(self) -> str:
        """Return the content of a matrix.toml that reads back as this matrix; paths are written unchanged."""
        import tomli_w

        table: dict[str, Any] = {"title": self.title} if self.title else {}
        table |= {
            "seeds": list(self.seeds),
            "presets": list(self.presets),
            "configs": [path.as_posix() for path in self.configs],
            "plugins": [path.as_posix() for path in self.plugins],
            "baselines": list(self.baselines) or [NONE],
            "measures": list(self.measures) or [NONE],
            "sizes": self.sizes,
            "jobs": self.jobs,
            "shared_data": self.shared_data or False,
            "launcher": {"name": self.launcher, **self.launcher_settings},
            "axes": {"env": list(self.envs), **{role: list(names) for role, names in self.axes.items()}},
            "settings": self.settings[0] if len(self.settings) == 1 else list(self.settings),
            "model": [_non_empty(model) for model in self.listed_models],
        }
        return tomli_w.dumps({key: value for key, value in table.items() if value not in ({}, [])})


def matrix_of(*layers: Mapping[str, Any]) -> Matrix:
    """Build a matrix from tables in the form of matrix.toml; later tables win.

    Strings in settings are parsed by the type of the setting, as flags are; keys may be dotted. Raises: ConfigError.
    """
    table = _merge([_read_toml(Path(__file__).with_name("defaults.toml")), *layers])
    axes = {role: names for role, value in table["axes"].items() if (names := _names(value, f"axes.{role}"))}
    envs = axes.pop("env", ())
    models = tuple(_model_spec(row, number) for number, row in enumerate(table.get("model", []), 1))
    if not envs:
        raise ConfigError("compare: no environment is given", fix="--env ID, or several IDs")
    if models and axes:
        raise ConfigError(
            f"compare: [[model]] tables and the axis '{next(iter(axes))}' exclude each other",
            cause="models are either listed one by one or made as the product of the axes",
            fix="set this part in each [[model]], or remove the [[model]] tables",
        )
    launcher = dict(table["launcher"])
    return Matrix(
        envs=envs,
        axes=axes,
        listed_models=models,
        seeds=_seeds(table["seeds"]),
        presets=_names(table.get("presets", []), "presets"),
        configs=_paths(table.get("configs", [])),
        plugins=_paths(table.get("plugins", [])),
        settings=tuple(table["settings"]),
        baselines=_selection(table["baselines"], "baselines", BASELINES),
        measures=_selection(table["measures"], "measures", ()),
        sizes=_one_of(table["sizes"], "sizes", SIZES),
        launcher=str(launcher.pop("name")),
        launcher_settings=launcher,
        jobs=_whole_number(table["jobs"], "jobs"),
        shared_data=_data_source(table["shared_data"]),
        title=one_line(table.get("title", "")),
    )


def read_matrix(path: Path) -> dict[str, Any]:
    """Read the table of a matrix.toml; its paths are relative to the folder of the file. Raises: ConfigError."""
    return resolve_paths(path.parent, _read_toml(path))


def resolve_paths(folder: Path, table: Mapping[str, Any]) -> dict[str, Any]:
    """Return the table of a matrix with its paths resolved relative to a folder. Raises: ConfigError."""
    paths = {key: [str(folder / name) for name in _names(table[key], key)] for key in PATH_KEYS if key in table}
    return {**table, **paths}


def _read_toml(
    path: Path, fix: str = "pass the path of a matrix.toml, or flags: worldlab compare --env ID"
) -> dict[str, Any]:
    try:
        return storage.read_toml(path)
    except ValueError as exc:
        shown = one_line(path, 60)
        raise ConfigError(
            f"compare: {shown} is not valid TOML", cause=one_line(exc, 200), fix="correct the file"
        ) from exc
    except OSError as exc:
        raise ConfigError(one_line(f"compare: cannot read {one_line(path, 60)}: {exc.strerror}"), fix=fix) from exc


# Layers


def _merge(layers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {"axes": {}, "settings": [], "launcher": {}}
    for layer in layers:
        for key, value in layer.items():
            if key not in _KEYS:
                raise ConfigError(
                    one_line(f"compare: {one_line(key, 40)!r} is not a key of a matrix.{did_you_mean(key, _KEYS)}"),
                    cause=f"keys: {', '.join(_KEYS)}",
                    fix=f"put settings of the runs under [settings]: settings.{key} = ...",
                )
            if key == "launcher":
                table = {"name": value} if isinstance(value, str) else _table(key, value)
                changed = table.get("name", out[key].get("name")) != out[key].get("name")
                out[key] = {**({} if changed else out[key]), **table}
            elif key == "axes":
                _check_axes(_table(key, value))
                out[key] |= value
            elif key == "plugins":
                out[key] = [*out.get(key, []), *_names(value, key)]
            elif key not in ("configs", "settings"):
                out[key] = value
        _add_settings(out, layer)
    return out


def _add_settings(out: dict[str, Any], layer: Mapping[str, Any]) -> None:
    """Add a layer's config files and settings to the lower layers, in this order."""
    files = _names(layer.get("configs", []), "configs")
    if out["settings"]:
        # Config files rank below all settings. These must rank above earlier settings, so they become settings
        # themselves.
        read = (_read_toml(Path(name).expanduser(), "check the path given with --config") for name in files)
        out["settings"] += map(_without_seed_and_env, read)
    else:
        out["configs"] = [*out.get("configs", []), *files]
    own = layer.get("settings", [])
    tables = own if isinstance(own, list | tuple) else [own]
    out["settings"] += [nest_settings(table) for table in (_table("settings", entry) for entry in tables) if table]


def _table(key: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(one_line(f"compare: {key} must be a table, got {value!r}"), fix=f"[{key}]")
    return value


def _without_seed_and_env(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's configuration without seed and environment, which the matrix sets."""
    env = table.get("env")
    out = {key: value for key, value in table.items() if key != "seed"}
    if isinstance(env, Mapping):
        out["env"] = {key: value for key, value in env.items() if key != "id"}
    return out


def _check_axes(table: Mapping[str, Any]) -> None:
    for role in table:
        if role not in AXES:
            raise ConfigError(
                one_line(f"compare: {one_line(role, 40)!r} is not an axis.{did_you_mean(role, AXES)}"),
                fix=f"axes: {', '.join(AXES)}",
            )


def nest_settings(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with dotted keys nested, and every string marked to be parsed by the type of its setting."""
    out: dict[str, Any] = {}
    for path, value in table.items():
        *groups, leaf = path.split(".") if path != "for" else [path]
        node = out
        for group in groups:
            node = node.setdefault(group, {})
        if path == "for" and isinstance(value, Mapping):  # its keys are patterns, which may contain dots
            node[leaf] = {
                pattern: nest_settings(inner) if isinstance(inner, Mapping) else inner
                for pattern, inner in value.items()
            }
        elif isinstance(value, Mapping):
            node[leaf] = overlay(node.get(leaf, {}), nest_settings(value))
        else:
            node[leaf] = Text(value) if type(value) is str else value
    return out


def overlay(table: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of `table` in which the values of `top` win, recursively."""
    out = dict(table)
    for key, value in top.items():
        below = out.get(key)
        out[key] = overlay(below, value) if isinstance(value, Mapping) and isinstance(below, Mapping) else value
    return out


# Values


def _model_spec(row: Any, number: int) -> ModelSpec:
    known = tuple(ModelSpec.__dataclass_fields__)
    unknown = [key for key in row if key not in known] if isinstance(row, Mapping) else [repr(row)]
    if unknown:
        raise ConfigError(
            one_line(
                f"compare: [[model]] {number} has no key {one_line(unknown[0], 30)!r}.{did_you_mean(unknown[0], known)}"
            ),
            fix=f"keys: {', '.join(known)}",
        )
    own = row.get("settings", {})
    if not isinstance(own, Mapping) or not all(isinstance(row.get(key, ""), str) for key in (*PARTS, "name")):
        raise ConfigError(f"compare: [[model]] {number}: parts and name must be strings, settings a table")
    named: dict[str, Any] = {key: row[key] for key in row if key != "settings"}
    return ModelSpec(**named, settings=nest_settings(own))


def _non_empty(model: ModelSpec) -> dict[str, Any]:
    return {key: value for key, value in vars(model).items() if value}


def _names(value: Any, key: str) -> tuple[str, ...]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) and name for name in names):
        raise ConfigError(one_line(f"compare: {key} = {value!r} must be a list of names"))
    duplicate = next((name for name in names if names.count(name) > 1), None)
    if duplicate is not None:
        raise ConfigError(one_line(f"compare: {key} has {duplicate!r} twice"), fix="list each name once")
    return tuple(names)


def _paths(value: list[str]) -> tuple[Path, ...]:
    return tuple(Path(name).expanduser() for name in dict.fromkeys(value))


def _selection(value: Any, key: str, known: Sequence[str]) -> tuple[str, ...]:
    """Return the names of a selection, which may also be "all" or "none".

    known: the accepted names; empty accepts any name.
    """
    names = _names(value, key)
    if ALL in names or NONE in names:
        if len(names) > 1:
            raise ConfigError(one_line(f"compare: {key} = {list(names)}: {ALL} and {NONE} exclude other names"))
        return () if names == (NONE,) else tuple(known) or (ALL,)
    for name in names:
        if known and name.partition(":")[0] not in known:
            raise ConfigError(
                one_line(f"compare: no baseline named {one_line(name, 30)!r}.{did_you_mean(name, known)}"),
                fix=f"{key}: {', '.join((*known, NONE))}",
            )
    return names


def _seeds(value: Any) -> tuple[int, ...]:
    """Return the seeds: 0 to n - 1 for a count n, or the listed ones."""
    seeds: Any = range(value) if type(value) is int and value <= 10_000 else value
    listed = isinstance(seeds, list | tuple | range) and len(seeds) > 0
    if listed and all(type(seed) is int and 0 <= seed < SEED_LIMIT for seed in seeds) and len(set(seeds)) == len(seeds):
        return tuple(seeds)
    raise ConfigError(
        one_line(f"compare: seeds = {value!r} must be a count of at least 1, or a list of different seeds"),
        fix="--seeds 5 for seeds 0 to 4, --seeds 3 7 for seeds 3 and 7",
    )


def _one_of(value: Any, key: str, known: Sequence[str]) -> str:
    if value not in known:
        raise ConfigError(one_line(f"compare: {key} = {value!r} must be {' or '.join(known)}"))
    return value


def _data_source(value: Any) -> str:
    """Return the source of shared data: the first of DATA_SOURCES for true, "" for false."""
    return (DATA_SOURCES[0] if value else "") if type(value) is bool else _one_of(value, "shared_data", DATA_SOURCES)


def _whole_number(value: Any, key: str) -> int:
    if type(value) is not int or value < 0:
        raise ConfigError(one_line(f"compare: {key} = {value!r} must be a whole number >= 0"))
    return value
