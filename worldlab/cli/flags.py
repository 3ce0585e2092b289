"""Reads the flags of `worldlab train` into a nested table of texts, and generates their help from the Config classes.

This is not argparse or tyro because the set of flags depends on the chosen parts. worldlab.config.schema validates the
values of flags and files alike, so a wrong flag and a wrong key give the same message, and torch is not imported.
"""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from worldlab.config.resolve import PARTS, RunConfig, preset_names
from worldlab.config.schema import NONE, Setting, Switch, Text, nested_config, settings_of
from worldlab.errors import ConfigError, closest, one_line
from worldlab.registry import Registry
from worldlab.settings import CoreSettings

ALIASES = {"env": ("env", "id"), "track": ("log", "track"), **{role: (role, "name") for role in PARTS}}
"""Short flags and their settings."""
_SWITCHES = ("resume", "explain", "json", "help", "help_all")
_NUMBER = re.compile(r"-\.?\d")
_RUN_HELP = (
    ("--env ID", "environment: a Gymnasium id, a short name (CarRacing) or package.module:Id"),
    ("--encoder NAME", "and --dynamics, --decoder, --agent: the parts; see: worldlab plugins"),
    ("--preset NAME", "a preset; may be repeated (default: gpu if the machine has one, else laptop)"),
    ("--config FILE", "a TOML file of settings; may be repeated, later ones win"),
    ("--plugin FILE", "also load this plugin file; may be repeated"),
    ("--run DIR", "the run folder (default: a new one under runs/)"),
    ("--trust-env MODULE", "let the environment of a resumed run import this module; may be repeated"),
    ("--track NAMES", "what also gets the metrics, or none; see: worldlab plugins --role tracker"),
    ("--resume", "continue the run in --run, or the latest one; with settings, start it if it is not there"),
    ("--explain", "print the choices of the composition with their reasons, then train"),
    ("--json", "print the result as one JSON object on stdout"),
    ("--debug", "full tracebacks"),
    ("--help-all", "list every setting, including rarely changed ones"),
)


@dataclass
class TrainFlags:
    """The parsed command line. settings: nested, with Text values."""

    presets: list[str] = field(default_factory=list)
    configs: list[Path] = field(default_factory=list)
    plugins: list[Path] = field(default_factory=list)
    trusted: list[str] = field(default_factory=list)
    run: str | None = None
    resume: bool = False
    explain: bool = False
    json: bool = False
    help: bool = False
    help_all: bool = False
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def chooses(self) -> bool:
        """Whether the command line chooses any setting of a run."""
        return bool(self.settings or self.presets or self.configs)


def read_flags(argv: list[str]) -> TrainFlags:
    """Read the flags of train; values stay text. Raises: ConfigError for an unknown flag or a missing value."""
    flags = TrainFlags()
    for name, value in _split_argv(argv):
        if name in _SWITCHES:
            setattr(flags, name, value == "true")
        elif name in ("preset", "config", "plugin", "trust_env", "run", *ALIASES) and isinstance(value, Switch):
            raise ConfigError(f"train: --{name} needs a value", fix="worldlab train --help")
        elif name == "preset":
            flags.presets.append(str(value))
        elif name == "config":
            flags.configs.append(Path(value).expanduser())
        elif name == "plugin":
            flags.plugins.append(Path(value))
        elif name == "trust_env":
            flags.trusted.append(str(value))
        elif name == "run":
            flags.run = str(value)
        else:
            _set_value(flags.settings, name, value)
    return flags


def help_head() -> str:
    """Return the help on flags that are not settings."""
    lines = ["usage: worldlab train --env ID [flags]", "", "Train a world model and an agent in an environment.", ""]
    return "\n".join([*lines, "run:", *_format_entries(_RUN_HELP), ""])


def help_text(config: RunConfig, registry: Registry, everything: bool = False) -> str:
    """Return the help on the settings of the core and of the chosen parts, with their resolved values.

    everything: whether to include the expert settings.
    """
    lines = [help_head()]
    lines += _format_entries([("presets:", ", ".join(preset_names(registry)))])
    lines += ["", "Brackets show the value without the flag. - and _ are equivalent in flags.", ""]
    for title, prefix, settings, values in _groups(config, registry):
        settings = [s for s in settings if everything or not s.expert]
        entries = [
            (f"--{_flag_name(prefix + s.path)} {s.kind}", f"{s.help} [{_show_value(values, s.path)}]") for s in settings
        ]
        lines += [f"{title}:", *(_format_entries(entries) or ["  no settings"]), ""]
    if not everything:
        lines += ["worldlab train --help-all   lists the rarely changed settings too", ""]
    return "\n".join(lines)


def _split_argv(argv: list[str]) -> Iterator[tuple[str, Text]]:
    """Split argv into (name with _, value). A flag without a value yields a Switch."""
    tokens = list(argv)
    while tokens:
        token = tokens.pop(0)
        if token == "-h":
            token = "--help"
        if not _is_flag(token) or token == "--":
            raise ConfigError(
                one_line(f"train: unexpected argument {one_line(token, 40)!r}"),
                fix="every setting has a flag: --env ID",
            )
        name, equals, text = token[2:].partition("=")
        name = name.replace("-", "_")
        takes_value = name not in _SWITCHES or (tokens and tokens[0].lower() in ("true", "false"))
        if equals:
            yield name, Text(text)
        elif takes_value and tokens and not _is_flag(tokens[0]):
            yield name, Text(tokens.pop(0))
        else:
            head, dot, leaf = name.rpartition(".")
            negated = name.startswith("no_") or leaf.startswith("no_")
            name = name.removeprefix("no_") if name.startswith("no_") else head + dot + leaf.removeprefix("no_")
            yield name, Switch("false" if negated else "true")


def _is_flag(token: str) -> bool:
    return (
        token.startswith("--") or token == "-h" or (token.startswith("-") and not _NUMBER.match(token) and token != "-")
    )


def _set_value(settings: dict[str, Any], name: str, value: Text) -> None:
    path = ALIASES.get(name) or tuple(name.split("."))
    if path[0] not in CoreSettings.model_fields and path[0] not in PARTS:
        known = [*CoreSettings.model_fields, *ALIASES, *_SWITCHES, "preset", "config", "plugin", "run"]
        near = closest(path[0], known)
        hint = f" Did you mean --{'.'.join((near, *path[1:]))}?".replace("_", "-") if near else ""
        shown = one_line(f"--{name}".replace("_", "-"), 40)
        raise ConfigError(one_line(f"train: {shown} is not a flag.{hint}"), fix="worldlab train --help")
    node = settings
    for group in path[:-1]:
        node = node.setdefault(group, {})
        if not isinstance(node, dict):
            raise ConfigError(one_line(f"train: --{group} is a group of settings, not a value"), fix=f"--{name} VALUE")
    node[path[-1]] = value


def _groups(
    config: RunConfig, registry: Registry
) -> Iterator[tuple[str, tuple[str, ...], list[Setting], Mapping[str, Any]]]:
    mapping = config.to_mapping()
    top = [s for s in settings_of(CoreSettings) if len(s.path) == 1]
    yield "limits and device", (), top, mapping
    for name, info in CoreSettings.model_fields.items():
        group = nested_config(info.annotation)
        if group is not None:
            title = f"{name} ({(info.description or name).rstrip('.').lower()})"
            yield title, (name,), list(settings_of(group)), mapping[name]
    for role in PARTS:
        part = getattr(config, role)
        summary = registry.get(role, part.name).summary
        yield (
            f"{role} {part.name} ({summary.rstrip('.')})",
            (role,),
            list(settings_of(type(part.options))),
            mapping[role],
        )


def _format_entries(entries: Any) -> list[str]:
    width = min(110, shutil.get_terminal_size((100, 24)).columns)
    column = 36
    lines = []
    for flag, text in entries:
        wrapped = textwrap.wrap(text, max(30, width - column)) or [""]
        if len(flag) + 4 > column:
            lines.append(f"  {flag}")
            flag = ""
        lines.append(f"  {flag:<{column - 2}}{wrapped[0]}")
        lines += [" " * column + line for line in wrapped[1:]]
    return lines


def _flag_name(path: tuple[str, ...]) -> str:
    return ".".join(re.sub(r"_(?!$)", "-", name) for name in path)


def _show_value(values: Any, path: tuple[str, ...]) -> str:
    for key in path:
        values = values[key]
    if isinstance(values, list):
        return ",".join(map(str, values))
    return NONE if values is None else str(values).lower() if isinstance(values, bool) else str(values)
