"""Resolves the configuration of a run, its parts and their settings, from layers.

The layers, lowest first: defaults in code, the size, the preset "defaults", the chosen presets, config files, flags. A
preset consists of the core's file of that name (config/presets) and the plugins' files (`register.presets`). A file has
core settings at its top level and one table for each part:

    [train]
    learning_rate = 3e-4
    [encoder]
    name = "vae"
    latent_dim = 32          # belongs to vae: ignored if a higher layer chooses another encoder
    [encoder.cpc]
    temperature = 0.1        # applies only if the encoder is cpc
    [for."CarRacing*"]       # applies after the rest of this file, if env.id matches
    env.repeat = 4
"""

from __future__ import annotations

import fnmatch
import logging
import os
import shutil
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from worldlab.config.schema import NONE, Value, build, flatten, nested_config, settings_of, unknown_setting
from worldlab.errors import ConfigError, did_you_mean, one_line
from worldlab.registry import Chosen, Registration, Registry, with_components
from worldlab.runs.storage import read_toml
from worldlab.settings import DIAL, Config, CoreSettings, EnvSettings, Size

PARTS = ("encoder", "dynamics", "decoder", "agent")
"""The roles a run chooses by name; each is a table of the config file."""
FLAGS = "a flag"
OFFLINE = "offline"
"""The preset that applies to every offline run, after those that are chosen."""
log = logging.getLogger("worldlab")


class NoOptions(Config):
    """The settings of a component without settings."""


@dataclass(frozen=True)
class Part:
    """The component chosen for a role, and its settings."""

    name: str
    options: Config

    @property
    def inner(self) -> dict[str, Chosen]:
        """Return the components that this one is built from, by the setting that names each."""
        return {field: self.options.chosen(field) for field in type(self.options).component_fields()}

    def to_mapping(self) -> dict[str, Any]:
        """Return the part's table of a config file, with a table for each component that it is built from."""
        inner = {one.registration.name: one.options.model_dump(mode="json") for one in self.inner.values()}
        return {"name": self.name, **self.options.model_dump(mode="json"), **inner}


@dataclass(frozen=True)
class RunConfig:
    """The complete configuration of a run. presets: the presets that it was resolved from, lowest first."""

    core: CoreSettings
    encoder: Part
    dynamics: Part
    decoder: Part
    agent: Part
    presets: tuple[str, ...]

    def to_mapping(self) -> dict[str, Any]:
        """Return the complete configuration as plain data, in the form of a config file; None stays None."""
        tables = {role: getattr(self, role).to_mapping() for role in PARTS}
        return {"presets": list(self.presets), **self.core.model_dump(mode="json"), **tables}

    def to_toml(self) -> str:
        """Return config.toml. As the only config file, it resolves to this same configuration."""
        import tomli_w

        return tomli_w.dumps(_without_none(self.to_mapping()))


@dataclass(frozen=True)
class _Layer:
    table: Mapping[str, Any]
    source: str
    packaged: bool = False


def resolve(
    registry: Registry,
    *,
    presets: Sequence[str] = (),
    files: Sequence[Path] = (),
    tables: Sequence[Mapping[str, Any]] = (),
    flags: Mapping[str, Any] | None = None,
    env: str = "",
) -> RunConfig:
    """Resolve the layers into one configuration.

    presets: names of presets; if empty, those that a config file names, else `default_preset`. flags: nested, e.g.
    {"env": {"id": "CarRacing"}, "encoder": {"name": "cpc", "latent_dim": 48}}. tables: in the form of flags, as layers
    below them; later tables win. Within one table, a setting of a named component (decoder.vae.frames)
    overrides one of whichever component is chosen (decoder.frames). env: the environment if no file, table or flag
    chooses one.
    Raises: ConfigError for a wrong key, value, file or preset; PluginError for a part that is not installed.
    """
    default = [_Layer({"env": {"id": env}}, "the data set", packaged=True)] if env else []
    given = [*default, *map(_read_file, files), *(_Layer(table, FLAGS) for table in (*tables, flags or {}))]
    names = _preset_names(presets, given)
    special = (OFFLINE,) if _is_offline(given) and OFFLINE in preset_names(registry) else ()
    layers = [layer for name in ("defaults", *names, *special) for layer in _read_preset(name, registry)] + given
    layers = _with_env_tables(layers, registry)
    for layer in layers:
        _check_top_level(layer, registry)
    core: dict[str, Value] = {}
    set_by_user: set[str] = set()
    for layer in layers:
        table = flatten(_core_table(layer), CoreSettings, layer.source)
        core.update(table)
        set_by_user.update(() if layer.packaged else table)
    size = build(CoreSettings, core).size
    core = {**_size_values(CoreSettings, size, {}), **core}
    settings = build(CoreSettings, core)
    if settings.strict and "minutes" not in set_by_user:
        # A preset's time limit is a convenience; a strict run ends by its steps only.
        settings = settings.model_copy(update={"minutes": None})
    _check_together(settings)
    dial = {name: getattr(settings.model, name) for name in DIAL}
    parts = {role: _resolve_part(role, layers, registry, size, dial) for role in PARTS}
    return RunConfig(core=settings, presets=tuple(names), **parts)


def preset_names(registry: Registry) -> tuple[str, ...]:
    """Return the presets that `--preset` accepts: those of the core and of plugins."""
    folders = [_preset_folder(), *registry.preset_folders]
    found = {
        item.name.removesuffix(".toml")
        for folder in folders
        for item in folder.iterdir()
        if item.name.endswith(".toml")
    }
    return tuple(sorted(found - {"defaults"}))


def default_preset(device: str = "auto") -> str:
    """Return "gpu" if this machine has an NVIDIA GPU and the device is not "cpu", else "laptop".

    Does not import torch.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1")
    present = Path("/dev/nvidia0").exists() or shutil.which("nvidia-smi") is not None
    return "gpu" if device == "cuda" or (device != "cpu" and visible and present) else "laptop"


def part_config(registry: Registry, role: str, name: str) -> type[Config]:
    """Return the Config class of a registered component. Raises: PluginError if it is not installed."""
    return registry.get(role, name).config or NoOptions


# Layers


def _preset_folder() -> Any:
    return resources.files("worldlab.config") / "presets"


def _read_preset(name: str, registry: Registry) -> list[_Layer]:
    """Read a preset from the core's folder and from each plugin's; all [for] tables come after all other tables."""
    known = preset_names(registry)
    if name not in (*known, "defaults"):
        raise ConfigError(
            one_line(f"no preset named {one_line(name, 30)!r}.{did_you_mean(name, known)} Presets: {', '.join(known)}"),
            fix="choose one of these; use --config FILE for a file of your own",
        )
    own = _preset_folder() / f"{name}.toml"
    files = {own: f"preset {name}"} | {
        folder / f"{name}.toml": f"preset {name} ({folder / name}.toml)" for folder in registry.preset_folders
    }
    tables = {source: _read_toml(file) for file, source in files.items() if file.is_file()}
    always = [
        _Layer({key: value for key, value in table.items() if key != "for"}, source, packaged=True)
        for source, table in tables.items()
    ]
    special = [
        _Layer({"for": table["for"]}, source, packaged=True) for source, table in tables.items() if "for" in table
    ]
    return always + special


def _read_toml(file: Any) -> dict[str, Any]:
    """Read a preset of the core or of a plugin. Raises: ConfigError with the name of the file."""
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(
            one_line(f"config: the preset {one_line(file, 60)} cannot be read"),
            cause=f"{file}: {one_line(exc, 200)}",
            fix="repair the file, or reinstall the plugin that contains it",
        ) from exc


def _read_file(path: Path) -> _Layer:
    path = Path(path)
    try:
        return _Layer(read_toml(path), str(path))
    except FileNotFoundError as exc:
        folder = path.parent
        near = did_you_mean(path.name, [p.name for p in folder.glob("*.toml")] if folder.is_dir() else [])
        fix = "check the path, which is relative to the current folder; use --preset NAME for a preset"
        raise ConfigError(one_line(f"config: no file {one_line(path, 50)}.{near}"), fix=fix) from exc
    except ValueError as exc:
        raise ConfigError(
            one_line(f"config: {one_line(path, 60)} is not valid TOML"),
            cause=one_line(exc, 200),
            fix="correct the file",
        ) from exc
    except OSError as exc:
        fix = f"--config {path / 'config.toml'}" if path.is_dir() else "give a file that you can read"
        raise ConfigError(one_line(f"config: cannot read {path}"), cause=one_line(exc), fix=fix) from exc


def _preset_names(chosen: Sequence[str], given: Sequence[_Layer]) -> list[str]:
    if chosen:
        return list(dict.fromkeys(chosen))
    for layer in reversed(given):
        named = layer.table.get("presets")
        if named is not None:
            if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
                raise ConfigError(
                    one_line(f"config: presets = {named!r} must be a list of names"), cause=f"set in {layer.source}"
                )
            return named
    device = next((layer.table["device"] for layer in reversed(given) if "device" in layer.table), "auto")
    return [default_preset(str(device))]


def _is_offline(given: Sequence[_Layer]) -> bool:
    """Return whether files and flags ask for offline training."""
    said = next((layer.table["offline"] for layer in reversed(given) if "offline" in layer.table), False)
    return str(said).lower() == "true"


def _with_env_tables(layers: Sequence[_Layer], registry: Registry) -> list[_Layer]:
    """Insert after each layer those of its [for."pattern"] tables that match the chosen environment."""
    env_id = _chosen_env(layers)
    expanded = []
    for layer in layers:
        expanded.append(replace(layer, table={k: v for k, v in layer.table.items() if k != "for"}))
        tables = layer.table.get("for", {})
        if not isinstance(tables, Mapping) or not all(isinstance(table, Mapping) for table in tables.values()):
            raise ConfigError('config: for must contain tables: [for."CarRacing*"]', cause=f"set in {layer.source}")
        for pattern, table in tables.items():
            inner = _Layer(table, f'{layer.source}, for."{pattern}"', layer.packaged)
            env = table.get("env", {})
            if "presets" in table or "for" in table or (isinstance(env, Mapping) and "id" in env):
                raise ConfigError(
                    "config: a [for] table cannot set env.id, presets or for", cause=f"set in {inner.source}"
                )
            if applies(pattern, env_id):
                expanded.append(inner)
            else:
                _check_top_level(inner, registry)
                flatten(_core_table(inner), CoreSettings, inner.source)
    return expanded


def applies(pattern: str, env_id: str) -> bool:
    """Return whether a [for."pattern"] table matches an environment id, with or without the adapter's prefix."""
    return any(fnmatch.fnmatchcase(name, pattern) for name in (env_id, env_id.partition(":")[2]) if name)


def _chosen_env(layers: Sequence[_Layer]) -> str:
    for layer in reversed(layers):
        env = layer.table.get("env")
        if isinstance(env, Mapping) and isinstance(env.get("id"), str):
            return str(env["id"])
    return str(EnvSettings.model_fields["id"].default)


def _core_table(layer: _Layer) -> dict[str, Any]:
    return {key: value for key, value in layer.table.items() if key in CoreSettings.model_fields}


def _check_top_level(layer: _Layer, registry: Registry) -> None:
    for key in layer.table:
        if key in CoreSettings.model_fields or key in PARTS or key == "presets":
            continue
        known = [".".join(s.path) for s in settings_of(CoreSettings)]
        raise unknown_setting(key, [*known, *CoreSettings.model_fields, *PARTS, "presets", "for"], layer.source)


# Parts


@dataclass(frozen=True)
class _Options:
    """Options that one layer sets for one component (None: any component). plain: not in a table named after it."""

    component: str | None
    table: Mapping[str, Any]
    layer: _Layer
    plain: bool


def _size_values(config: type[Config], size: Size, dial: Mapping[str, int]) -> dict[str, Value]:
    return {path: Value(value, f"size {size}") for path, value in config.at_size(size, dial).items()}


def _resolve_part(role: str, layers: Sequence[_Layer], registry: Registry, size: Size, dial: Mapping[str, int]) -> Part:
    """Choose a role's component and resolve its settings.

    Lowest first: the size, the settings registered with the component's name (`preset`), the layers. dial: the values
    of `--model.units` and the other dials.
    """
    name: str | None = None
    options: list[_Options] = []
    for layer in layers:
        table = _part_table(role, layer)
        name = str(table.pop("name")) if "name" in table else name
        options += _split(role, name, table, layer, registry)
    if name is None:
        names = ", ".join(registry.names(role)) or "none"
        raise ConfigError(
            one_line(f"config: no {role} chosen"), cause=one_line(f"installed: {names}", 300), fix=f"--{role} NAME"
        )
    chosen = _build_options(registry.get(role, name), options, size, dial)
    inner = [getattr(chosen, field) for field in type(chosen).component_fields()]
    _check_others([registry.get(role, used) for used in (name, *inner)], options, registry)
    chosen = with_components(
        chosen, role, registry, lambda entry: _build_options(entry, options, size, dial, inner=True)
    )
    return Part(name, chosen)


def _build_options(
    registration: Registration, options: Sequence[_Options], size: Size, dial: Mapping[str, int], inner: bool = False
) -> Config:
    """Build the settings of one component. inner: it is part of another, to which settings without a name belong."""
    role, config = registration.role, registration.config or NoOptions
    names = {registration.name, registration.variant_of, *(() if inner else (None,))}
    values = _size_values(config, size, dial)
    values.update(flatten(registration.preset, config, f"{role} {registration.name}", f"{role}."))
    for item in options:
        if item.component in names:
            values.update(flatten(item.table, config, item.layer.source, f"{role}."))
    return build(config, values, f"{role}.")


def _check_others(chosen: Sequence[Registration], options: Sequence[_Options], registry: Registry) -> None:
    """Check the settings of components that are not in use. Warn of those that were meant for another choice.

    chosen: the component of a role, then those that it is built from.
    """
    role, used = chosen[0].role, {None, *(name for entry in chosen for name in (entry.name, entry.variant_of))}
    for item in options:
        if item.component in used or item.component not in registry.names(role):
            continue
        flatten(item.table, part_config(registry, role, item.component), item.layer.source, f"{role}.")
        if item.plain and not item.layer.packaged:
            keys = ", ".join(f"{role}.{key}" for key in item.table)
            log.warning(
                "%s from %s ignored: it belongs to %s '%s', but '%s' is chosen",
                keys,
                item.layer.source,
                role,
                item.component,
                chosen[0].name,
            )


def _part_table(role: str, layer: _Layer) -> dict[str, Any]:
    table = layer.table.get(role, {})
    if isinstance(table, str):
        return {"name": table}  # encoder = "vae"
    if not isinstance(table, Mapping) or not isinstance(table.get("name", ""), str):
        raise ConfigError(
            one_line(f"config: {role} must name a component, got {table!r}"),
            cause=f"set in {layer.source}",
            fix=f'[{role}]  name = "..."   see: worldlab plugins --role {role}',
        )
    return dict(table)


def _split(
    role: str, name: str | None, table: Mapping[str, Any], layer: _Layer, registry: Registry
) -> Iterable[_Options]:
    """Separate plain options of the current component from tables named after a component."""
    names = registry.names(role)
    fields = part_config(registry, role, name).model_fields if name in names else {}
    plain = {}
    tables = []
    for key, value in table.items():
        own = key in fields and (nested_config(fields[key].annotation) is not None or key not in names)
        if own or not isinstance(value, Mapping):
            plain[key] = value
        elif key in names:
            tables.append(_Options(key, value, layer, plain=False))
        elif not layer.packaged:  # a packaged preset may tune a part that is not installed
            raise unknown_setting(f"{role}.{key}", [f"{role}.{near}" for near in (*fields, *names)], layer.source)
    return ([_Options(name, plain, layer, plain=True)] if plain else []) + tables


# Checks across settings


def _check_together(core: CoreSettings) -> None:
    """Check settings that are valid on their own but may contradict each other. Raises: ConfigError."""
    train, env, replay = core.train, core.env, core.replay
    per_env = train.prefill // env.num_envs
    collects = not core.offline
    shared = f" over env.num_envs {env.num_envs}" if env.num_envs > 1 else ""
    least = train.batch_length * env.num_envs
    rules = [
        (
            core.offline and not core.data,
            "offline training needs a data set",
            "--data PATH, or leave --offline out",
        ),
        (
            collects and train.batch_length > per_env,
            f"train.batch_length {train.batch_length} > train.prefill {train.prefill}{shared}: no sequence to train on",
            f"--train.prefill {least}, or a shorter --train.batch-length",
        ),
        (
            collects and train.prefill >= core.steps,
            f"train.prefill {train.prefill} >= steps {core.steps}: the run would end before it trains",
            f"--steps {10 * train.prefill}, or a smaller --train.prefill",
        ),
        (
            collects and replay.capacity < max(train.prefill, least),
            f"replay.capacity {replay.capacity} < {max(train.prefill, least)}, the steps needed before training",
            f"--replay.capacity {max(train.prefill, least)}",
        ),
        (
            env.workers > env.num_envs,
            f"env.workers {env.workers} > env.num_envs {env.num_envs}: some workers would be idle",
            f"--env.workers {env.num_envs}",
        ),
        (
            core.strict and core.device == "cuda",
            "strict = true needs device cpu: kernels on cuda are not bit-reproducible",
            "--device cpu, or leave --strict out",
        ),
        (
            core.strict and core.minutes is not None,
            "strict = true and minutes exclude each other: wall-clock time is not reproducible",
            "--steps N instead of --minutes",
        ),
        (
            core.strict and core.train.engine not in ("auto", "float32"),
            f"strict = true and train.engine '{core.train.engine}' exclude each other: it rounds differently",
            "--train.engine auto, or leave --strict out",
        ),
    ]
    for wrong, message, fix in rules:
        if wrong:
            raise ConfigError(one_line(f"config: {message}"), fix=fix)


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_none(item) for key, item in value.items()}
    return NONE if value is None else value
