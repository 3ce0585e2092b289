"""Lists the settings of a Config class, and validates values against it with readable errors.

Files and flags name settings by path ("train.learning_rate"). This module resolves paths, converts the text of a flag
to the setting's type, and turns pydantic's errors into messages.
"""

from __future__ import annotations

import inspect
import json
import tomllib
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from worldlab.errors import ConfigError, closest, one_line
from worldlab.settings import Config

ConfigT = TypeVar("ConfigT", bound=Config)
NONE = "none"
"""The text for None in files and flags, because TOML has no null."""


class Text(str):
    """A value from the command line; its meaning depends on the setting's type."""


class Switch(Text):
    """A flag without a value: `--strict` is Switch("true"), `--no-strict` is Switch("false")."""


@dataclass(frozen=True)
class Value:
    """A value and where it was set, e.g. "preset laptop" or "a flag"."""

    value: Any
    source: str


@dataclass(frozen=True)
class Setting:
    """One leaf of a Config class."""

    path: tuple[str, ...]
    """For example ("train", "learning_rate")."""
    annotation: Any
    help: str
    """The docstring of the field."""
    bounds: Mapping[str, Any] = field(default_factory=dict)
    """Bounds by their names in `field`: {"gt": 0, "le": 1}."""
    expert: bool = False
    """Whether only --help-all lists it."""

    @property
    def optional(self) -> bool:
        """Whether None is accepted."""
        return type(None) in _alternatives(self.annotation)

    @property
    def kind(self) -> str:
        """The accepted values, for help pages: "INT", "FLOAT", "yes|no", ..."""
        return _kind(self.annotation)

    @property
    def choices(self) -> list[Any]:
        """The values of a Literal setting, else an empty list."""
        found = [get_args(item) for item in _alternatives(self.annotation) if get_origin(item) is Literal]
        return [choice for choices in found for choice in choices]

    @property
    def rule(self) -> str:
        """The bounds in words: "> 0 and <= 1", or an empty text."""
        return " and ".join(words.format(self.bounds[key]) for key, words in _BOUNDS.values() if key in self.bounds)

    @property
    def is_bool(self) -> bool:
        """Whether the setting is a boolean."""
        return bool in _alternatives(self.annotation)


def settings_of(config: type[Config], prefix: tuple[str, ...] = ()) -> Iterator[Setting]:
    """Yield the leaf settings of a Config class in the order of their definition."""
    for name, info in config.model_fields.items():
        nested = nested_config(info.annotation)
        if nested is not None:
            yield from settings_of(nested, (*prefix, name))
        else:
            bounds = {
                key: value
                for rule in info.metadata
                for key, _ in _BOUNDS.values()
                if (value := getattr(rule, key, None)) is not None
            }
            extra = info.json_schema_extra
            expert = isinstance(extra, dict) and bool(extra.get("expert"))
            yield Setting((*prefix, name), info.annotation, info.description or "", bounds, expert)


RENAMED: dict[str, tuple[str, dict[Any, Any]]] = {"train.gpu": ("engine", {"graph": "auto"})}
"""Settings by the path that older run folders have: the name now, and what a value is called now."""


def nested_config(annotation: Any) -> type[Config] | None:
    """Return the Config class of a group field, or None for a single setting."""
    return annotation if isinstance(annotation, type) and issubclass(annotation, Config) else None


def flatten(table: Mapping[str, Any], config: type[Config], source: str, prefix: str = "") -> dict[str, Value]:
    """Flatten a nested table to {path in config: Value}, and check that the Config class has every key.

    prefix: prepended to paths in messages only ("encoder."). Raises: ConfigError for an unknown key, for a table in
    place of a value, or for a value in place of a table.
    """
    known = [prefix + ".".join(setting.path) for setting in settings_of(config)]
    return _flatten(table, config, source, prefix, known)


def _flatten(
    table: Mapping[str, Any], config: type[Config], source: str, prefix: str, known: list[str]
) -> dict[str, Value]:
    flat: dict[str, Value] = {}
    for key, value in table.items():
        if prefix + key in RENAMED:
            key, values = RENAMED[prefix + key]
            value = values.get(value, value)
        info = config.model_fields.get(key)
        if info is None and _follows(key, value, table, config):
            continue
        if info is None:
            raise unknown_setting(prefix + key, known, source)
        nested = nested_config(info.annotation)
        if nested is None:
            flat[key] = Value(value, source)
        elif isinstance(value, Mapping):
            inner = _flatten(value, nested, source, f"{prefix}{key}.", known)
            flat.update({f"{key}.{path}": item for path, item in inner.items()})
        else:
            raise ConfigError(
                one_line(f"config: {prefix}{key} is a group of settings, not a value: {value!r}"),
                cause=f"set in {source}",
                fix=f"set one of its settings, e.g. {prefix}{key}.{next(iter(nested.model_fields))}",
            )
    return flat


def _follows(key: str, value: Any, table: Mapping[str, Any], config: type[Config]) -> bool:
    """Return whether a key is a property of the Config class and has the value that the rest of the table gives it.

    Older run folders have such keys: what was a setting may follow from others now.
    """
    if not isinstance(inspect.getattr_static(config, key, None), property):
        return False
    try:
        return bool(getattr(config.model_construct(**table), key) == value)
    except Exception:  # the table is not validated yet: a file may have values of any type
        return False


def unknown_setting(path: str, known: list[str], source: str) -> ConfigError:
    """Return the error for an unknown path. known: all valid paths."""
    near = nearest_path(path, known)
    hint = f" Did you mean {near}?" if near else ""
    return ConfigError(
        one_line(f"config: {one_line(path, 50)} is not a setting.{hint}"),
        cause=f"set in {source}",
        fix="worldlab train --help   lists every setting of the chosen parts",
    )


def nearest_path(path: str, known: list[str]) -> str | None:
    """Return the setting a wrong path most likely means: a slip in one part of it, or the wrong group."""
    head, _, leaf = path.rpartition(".")
    siblings = {name.rpartition(".")[2]: name for name in known if name.rpartition(".")[0] == head}
    elsewhere = [name for name in known if name.rpartition(".")[2] == leaf]
    if elsewhere:
        return elsewhere[0]
    near = closest(leaf, siblings)
    return siblings[near] if near else closest(path, {*known, *(name.partition(".")[0] for name in known)})


def build(config: type[ConfigT], flat: Mapping[str, Value], prefix: str = "") -> ConfigT:
    """Validate {path: Value} strictly and return the Config. Raises: ConfigError with path, value and rule."""
    leaves = {".".join(s.path): s for s in settings_of(config)}
    tree: dict[str, Any] = {}
    for path, item in flat.items():
        *groups, leaf = path.split(".")
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
        node[leaf] = _check_plain(_interpret(item, leaves[path], prefix + path), prefix + path, item.source)
    try:
        return config.model_validate_json(json.dumps(tree), strict=True)  # JSON mode: a list may become a tuple
    except ValidationError as exc:
        raise _validation_error(exc.errors(include_url=False)[0], flat, leaves, prefix) from exc


def _interpret(item: Value, setting: Setting, path: str) -> Any:
    """Interpret the text of a flag by the setting's type, and "none" as None if the setting accepts it."""
    value = item.value
    if isinstance(value, Switch) and not setting.is_bool:
        raise ConfigError(
            one_line(f"config: {path} needs a value ({setting.kind})"), fix=f"--{path.replace('_', '-')} {setting.kind}"
        )
    if isinstance(value, str) and setting.optional and value.lower() == NONE:
        return None
    return _from_text(value, setting) if isinstance(value, Text) else value


def _from_text(text: str, setting: Setting) -> Any:
    adapter = TypeAdapter(setting.annotation)
    for candidate in _interpretations(text, setting):
        try:
            adapter.validate_json(json.dumps(candidate), strict=True)
        except (ValidationError, TypeError, ValueError):
            continue
        return candidate
    return str(text)


def _interpretations(text: str, setting: Setting) -> Iterator[Any]:
    """Yield the possible values of a text, the most literal first; the setting's type selects one."""
    words = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
    if setting.is_bool and text.lower() in words:
        yield words[text.lower()]
    for source in (text, f"[{text}]"):
        try:
            value = tomllib.loads(f"v = {source}")["v"]
        except tomllib.TOMLDecodeError:
            continue
        if isinstance(value, float) and value.is_integer():
            yield int(value)  # --steps 1e5
        yield value
    yield str(text)
    yield [part.strip() for part in text.split(",")]


def _check_plain(value: Any, path: str, source: str) -> Any:
    """Check that JSON can represent a value; it cannot represent TOML dates and NaN."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as exc:
        shown = one_line(value, 30)
        raise ConfigError(
            f"config: {path} = {shown} must be a finite number, a text, a boolean or a list",
            cause=f"set in {source}",
            fix="write it without quotes if it is a number, with quotes if it is text",
        ) from exc
    for number in value if isinstance(value, list) else [value]:
        if isinstance(number, int) and abs(number) >= 2**63:
            raise ConfigError(
                one_line(f"config: {path} = {one_line(number, 20)} must be a number of at most 64 bits"),
                cause=f"set in {source}",
            )
    return value


def describe_invalid(exc: ValidationError, config: type[Config]) -> str:
    """Return the first setting that is not valid, as "latent_dim = 0 must be > 0", without pydantic's own text."""
    leaves = {".".join(s.path): s for s in settings_of(config)}
    return _validation_error(exc.errors(include_url=False)[0], {}, leaves, "").message.removeprefix("config: ")


def _validation_error(
    error: ErrorDetails, flat: Mapping[str, Value], leaves: Mapping[str, Setting], prefix: str
) -> ConfigError:
    location = [str(part) for part in error["loc"]]
    path = next((p for n in range(len(location), 0, -1) if (p := ".".join(location[:n])) in leaves), "")
    if not path:
        where = (prefix + ".".join(location)).rstrip(".")
        return ConfigError(one_line(f"config: {where or 'settings'}: {error['msg']}"), cause=_sources(flat))
    item = flat.get(path)
    value = item.value if item else error["input"]
    setting = leaves[path]
    fix = f"worldlab train --help   describes {prefix}{path}: {setting.help}" if setting.help else None
    shown = one_line(repr(str(value)) if isinstance(value, str) else json.dumps(value, default=str), 30)
    return ConfigError(
        one_line(f"config: {prefix}{path} = {shown} must be {_rule(error, setting)}"),
        cause=f"set in {item.source}" if item else "it is the default",
        fix=fix,
    )


def _sources(flat: Mapping[str, Value]) -> str | None:
    sources = sorted({item.source for item in flat.values()})
    return f"set in {', '.join(sources)}" if sources else None


_BOUNDS = {
    "greater_than": ("gt", "> {}"),
    "greater_than_equal": ("ge", ">= {}"),
    "less_than": ("lt", "< {}"),
    "less_than_equal": ("le", "<= {}"),
    "multiple_of": ("multiple_of", "a multiple of {}"),
    "string_too_short": ("min_length", "a text of at least {} characters"),
    "string_too_long": ("max_length", "a text of at most {} characters"),
    "too_short": ("min_length", "a list of at least {} values"),
    "too_long": ("max_length", "a list of at most {} values"),
    "literal_error": ("expected", "{}"),
    "enum": ("expected", "{}"),
}


def _rule(error: ErrorDetails, setting: Setting) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        bound = context[key]
        return words.format(f"{bound:g}" if isinstance(bound, float) else bound)
    plain = {"INT": "a whole number", "FLOAT": "a number", "TEXT": "a text", "true|false": "true or false"}
    if kind.endswith(("_type", "_parsing", "_from_float")) and len(error["loc"]) <= len(setting.path):
        return plain.get(setting.kind, setting.kind)
    return one_line(f"valid: {error['msg']}", 60)


def _kind(annotation: Any) -> str:
    names = {bool: "true|false", int: "INT", float: "FLOAT", str: "TEXT", type(None): NONE}
    if annotation in names:
        return names[annotation]
    if get_origin(annotation) is Literal:
        return "|".join(str(choice) for choice in get_args(annotation))
    if get_origin(annotation) in (Union, types.UnionType):
        return "|".join(_kind(choice) for choice in get_args(annotation))
    if get_origin(annotation) in (tuple, list):
        inner = [_kind(item) for item in get_args(annotation) if item is not Ellipsis]
        return ",".join(inner) + (",..." if len(inner) == 1 else "")
    return getattr(annotation, "__name__", str(annotation)).upper()


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
