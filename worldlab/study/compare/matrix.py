"""What a comparison is asked for: which models on which tasks, seeds and baselines; read from matrix.toml and flags.

seeds = 5
presets = ["debug"]
baselines = ["random", "model-free"]
[axes]                       # crossed; a part that is not named is the preset's choice
env = ["CarRacing", "Pendulum"]
encoder = ["vae", "cpc"]
[settings]                   # as in a run's config, its highest layer; or [[settings]], one laid over the other
train.ratio = 0.3
[[model]]                    # instead of axes of parts: mixes one by one, with a name and settings of their own
name = "wide"
encoder = "vae"
settings.encoder.units = 256
"""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from worldlab.config.resolve import PARTS
from worldlab.config.schema import Text
from worldlab.errors import ConfigError, did_you_mean, one_line

AXES = ("env", *PARTS)
ALL, NOTHING = "all", "none"
BASELINES = ("random", "untrained", "model-free")
"""What a baseline may be; "model-free:NAME" chooses the algorithm of Stable-Baselines3."""
SIZES = ("full", "quick")
"""How much is measured of a run: worldlab.study.measures.SampleSizes() or QUICK."""
PLAYERS = ("replay", "random")
"""Who plays what all models learn from: the first of them as it learns, or nobody."""
SEEDS = 2**32
"""Seeds are below this."""
FILES = ("configs", "plugins")
"""Keys of a matrix whose values are paths."""
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
class Contender:
    """A model that is compared. Parts: registered names, "" is the preset's choice. name: of its own, where the parts do
    not tell it from others. settings: of its own, nested as a config file's."""

    encoder: str = ""
    dynamics: str = ""
    decoder: str = ""
    agent: str = ""
    name: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Matrix:
    """What is asked. Made by `matrix_of`.

    axes: the parts that are crossed, by role; models: those listed one by one instead. presets, configs, settings: the
    layers of every run's configuration, as in worldlab.config.resolve.resolve, of settings the later ones above. measures: names
    or groups of names, or "all"; sizes: how much is measured, one of SIZES. shared_data: who plays what all models learn from,
    one of PLAYERS, or "". jobs: cells at a time, 0 as many as the launcher has room for.
    """

    envs: tuple[str, ...]
    axes: Mapping[str, tuple[str, ...]]
    models: tuple[Contender, ...]
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
    def contenders(self) -> tuple[Contender, ...]:
        """The models: those listed, or the product of the axes."""
        if self.models:
            return self.models
        crossed = itertools.product(*(self.axes.get(role, ("",)) for role in PARTS))
        return tuple(Contender(encoder, dynamics, decoder, agent) for encoder, dynamics, decoder, agent in crossed)

    def to_toml(self) -> str:
        """As matrix.toml: read back it is this matrix, paths as they stand here."""
        import tomli_w

        table: dict[str, Any] = {"title": self.title} if self.title else {}
        table |= {
            "seeds": list(self.seeds),
            "presets": list(self.presets),
            "configs": [path.as_posix() for path in self.configs],
            "plugins": [path.as_posix() for path in self.plugins],
            "baselines": list(self.baselines) or [NOTHING],
            "measures": list(self.measures) or [NOTHING],
            "sizes": self.sizes,
            "jobs": self.jobs,
            "shared_data": self.shared_data or False,
            "launcher": {"name": self.launcher, **self.launcher_settings},
            "axes": {"env": list(self.envs), **{role: list(names) for role, names in self.axes.items()}},
            "settings": self.settings[0] if len(self.settings) == 1 else list(self.settings),
            "model": [_without_blanks(model) for model in self.models],
        }
        return tomli_w.dumps({key: value for key, value in table.items() if value not in ({}, [])})


def matrix_of(*layers: Mapping[str, Any]) -> Matrix:
    """The matrix that tables of the form of matrix.toml ask for, later ones winning. Raises: ConfigError.

    In settings, texts are read by the setting's type, as flags are; keys may be dotted.
    """
    table = _merged([_read_toml(Path(__file__).with_name("defaults.toml")), *layers])
    axes = {role: names for role, value in table["axes"].items() if (names := _names(value, f"axes.{role}"))}
    envs = axes.pop("env", ())
    models = tuple(_contender(row, number) for number, row in enumerate(table.get("model", []), 1))
    if not envs:
        raise ConfigError("compare: no environment to compare on", fix="--env ID, or several")
    if models and axes:
        raise ConfigError(
            f"compare: [[model]] tables and the axis '{next(iter(axes))}' exclude each other",
            cause="either models are listed one by one, or parts are crossed",
            fix="name that part in each [[model]], or leave the tables out",
        )
    launcher = dict(table["launcher"])
    return Matrix(
        envs=envs,
        axes=axes,
        models=models,
        seeds=_seeds(table["seeds"]),
        presets=_names(table.get("presets", []), "presets"),
        configs=_paths(table.get("configs", [])),
        plugins=_paths(table.get("plugins", [])),
        settings=tuple(table["settings"]),
        baselines=_chosen(table["baselines"], "baselines", BASELINES),
        measures=_chosen(table["measures"], "measures", ()),
        sizes=_one_of(table["sizes"], "sizes", SIZES),
        launcher=str(launcher.pop("name")),
        launcher_settings=launcher,
        jobs=_whole(table["jobs"], "jobs"),
        shared_data=_player(table["shared_data"]),
        title=one_line(table.get("title", "")),
    )


def read_matrix(path: Path) -> dict[str, Any]:
    """The table of a matrix.toml; what it names by path is found from its own folder. Raises: ConfigError."""
    return with_paths_from(path.parent, _read_toml(path))


def with_paths_from(folder: Path, table: Mapping[str, Any]) -> dict[str, Any]:
    """The table of a matrix, with what it names by path found from a folder. Raises: ConfigError."""
    paths = {key: [str(folder / name) for name in _names(table[key], key)] for key in FILES if key in table}
    return {**table, **paths}


def _read_toml(
    path: Path, fix: str = "give the path of a matrix.toml, or flags: worldlab compare --env ID"
) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        shown = one_line(path, 60)
        raise ConfigError(f"compare: {shown} is not valid TOML", cause=one_line(exc, 200), fix="correct it") from exc
    except OSError as exc:
        raise ConfigError(one_line(f"compare: cannot read {one_line(path, 60)}: {exc.strerror}"), fix=fix) from exc


# Layers


def _merged(layers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {"axes": {}, "settings": [], "launcher": {}}
    for layer in layers:
        for key, value in layer.items():
            if key not in _KEYS:
                raise ConfigError(
                    one_line(f"compare: {one_line(key, 40)!r} is not a key of a matrix.{did_you_mean(key, _KEYS)}"),
                    cause=f"keys: {', '.join(_KEYS)}",
                    fix=f"settings of the runs belong under [settings]: settings.{key} = ...",
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
    """Lay a layer's config files, and its settings over them, over the settings that are there."""
    files = _names(layer.get("configs", []), "configs")
    if out["settings"]:
        # Config files lie under all settings. These belong above some, so they become settings themselves.
        read = (_read_toml(Path(name).expanduser(), "check the path given with --config") for name in files)
        out["settings"] += map(_without_own, read)
    else:
        out["configs"] = [*out.get("configs", []), *files]
    own = layer.get("settings", [])
    tables = own if isinstance(own, list | tuple) else [own]
    out["settings"] += [texts(table) for table in (_table("settings", one) for one in tables) if table]


def _table(key: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(one_line(f"compare: {key} must be a table, got {value!r}"), fix=f"[{key}]")
    return value


def _without_own(table: Mapping[str, Any]) -> dict[str, Any]:
    """A run's configuration without what a matrix has many of: its seed and environment."""
    env = table.get("env")
    out = {key: value for key, value in table.items() if key != "seed"}
    if isinstance(env, Mapping):
        out["env"] = {key: value for key, value in env.items() if key != "id"}
    return out


def _check_axes(table: Mapping[str, Any]) -> None:
    for role in table:
        if role not in AXES:
            raise ConfigError(
                one_line(f"compare: {one_line(role, 40)!r} is no axis.{did_you_mean(role, AXES)}"),
                fix=f"axes: {', '.join(AXES)}",
            )


def texts(table: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as flags give them: dotted keys nested, every text to be read by its setting's type."""
    out: dict[str, Any] = {}
    for path, value in table.items():
        *groups, leaf = path.split(".") if path != "for" else [path]
        node = out
        for group in groups:
            node = node.setdefault(group, {})
        if path == "for" and isinstance(value, Mapping):  # its keys are patterns, which may have dots
            node[leaf] = {
                pattern: texts(inner) if isinstance(inner, Mapping) else inner for pattern, inner in value.items()
            }
        elif isinstance(value, Mapping):
            node[leaf] = laid_over(node.get(leaf, {}), texts(value))
        else:
            node[leaf] = Text(value) if type(value) is str else value
    return out


def laid_over(table: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """A new table: what `top` sets, and the rest of `table`; the same of the tables in them."""
    out = dict(table)
    for key, value in top.items():
        below = out.get(key)
        out[key] = laid_over(below, value) if isinstance(value, Mapping) and isinstance(below, Mapping) else value
    return out


# Values


def _contender(row: Any, number: int) -> Contender:
    known = tuple(Contender.__dataclass_fields__)
    wrong = [key for key in row if key not in known] if isinstance(row, Mapping) else [repr(row)]
    if wrong:
        raise ConfigError(
            one_line(
                f"compare: [[model]] {number} has no key {one_line(wrong[0], 30)!r}.{did_you_mean(wrong[0], known)}"
            ),
            fix=f"keys: {', '.join(known)}",
        )
    own = row.get("settings", {})
    if not isinstance(own, Mapping) or not all(isinstance(row.get(key, ""), str) for key in (*PARTS, "name")):
        raise ConfigError(f"compare: [[model]] {number}: parts and name are texts, settings is a table")
    named: dict[str, Any] = {key: row[key] for key in row if key != "settings"}
    return Contender(**named, settings=texts(own))


def _without_blanks(model: Contender) -> dict[str, Any]:
    return {key: value for key, value in vars(model).items() if value}


def _names(value: Any, key: str) -> tuple[str, ...]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) and name for name in names):
        raise ConfigError(one_line(f"compare: {key} = {value!r} must be a list of names"))
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(one_line(f"compare: {key} has {twice!r} twice"), fix="name each once")
    return tuple(names)


def _paths(value: list[str]) -> tuple[Path, ...]:
    return tuple(Path(name).expanduser() for name in dict.fromkeys(value))


def _chosen(value: Any, key: str, known: Sequence[str]) -> tuple[str, ...]:
    """Names, or "all" or "none" alone. known: what they may be; nothing: whatever they are."""
    names = _names(value, key)
    if ALL in names or NOTHING in names:
        if len(names) > 1:
            raise ConfigError(one_line(f"compare: {key} = {list(names)}: {ALL} and {NOTHING} stand alone"))
        return () if names == (NOTHING,) else tuple(known) or (ALL,)
    for name in names:
        if known and name.partition(":")[0] not in known:
            raise ConfigError(
                one_line(f"compare: no baseline named {one_line(name, 30)!r}.{did_you_mean(name, known)}"),
                fix=f"{key}: {', '.join((*known, NOTHING))}",
            )
    return names


def _seeds(value: Any) -> tuple[int, ...]:
    """A count n stands for the seeds 0 to n - 1; a list is the seeds themselves."""
    seeds: Any = range(value) if type(value) is int and value <= 10_000 else value
    listed = isinstance(seeds, list | tuple | range) and len(seeds) > 0
    if listed and all(type(seed) is int and 0 <= seed < SEEDS for seed in seeds) and len(set(seeds)) == len(seeds):
        return tuple(seeds)
    raise ConfigError(
        one_line(f"compare: seeds = {value!r} must be a count of at least 1, or a list of different seeds"),
        fix="--seeds 5 for the seeds 0 to 4, --seeds 3 7 for these two",
    )


def _one_of(value: Any, key: str, known: Sequence[str]) -> str:
    if value not in known:
        raise ConfigError(one_line(f"compare: {key} = {value!r} must be {' or '.join(known)}"))
    return value


def _player(value: Any) -> str:
    """True is the first of PLAYERS, false nobody: every model plays for itself."""
    return (PLAYERS[0] if value else "") if type(value) is bool else _one_of(value, "shared_data", PLAYERS)


def _whole(value: Any, key: str) -> int:
    if type(value) is not int or value < 0:
        raise ConfigError(one_line(f"compare: {key} = {value!r} must be a whole number >= 0"))
    return value
