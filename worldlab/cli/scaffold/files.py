"""Render the files of a new plugin from the templates beside this module. Nothing is written or imported."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from string import Template

from worldlab.errors import ConfigError, one_line

SUMMARIES = {
    "encoder": "A Gaussian posterior on an embedding of the observation.",
    "dynamics": "A gated recurrent memory with a Gaussian or categorical prior.",
    "decoder": "A factorised Gaussian of fixed std.",
}
"""The roles that new-plugin can write, with the summary of the component it writes."""
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", re.ASCII)
_LONGEST = 24
"""Maximum number of characters of a name: longer class names would not fit into the lines of the templates."""
_PREFIX = "worldlab-"
_LINE = 120


@dataclass(frozen=True)
class PluginName:
    """A plugin's name in the spellings of Python, pip and worldlab. name: "deep-sea", as in `--encoder deep-sea`."""

    name: str

    @classmethod
    def read(cls, text: str) -> PluginName:
        """Return the checked name; "worldlab-deep-sea" means "deep-sea". Raises: ConfigError if it is not valid."""
        name = text.removeprefix(_PREFIX)
        if _NAME.fullmatch(name) and len(name) <= _LONGEST:
            return cls(name)
        near = re.sub(r"[^a-z0-9]+", "-", name.lower()).lstrip("-0123456789").rstrip("-")[:_LONGEST].rstrip("-")
        raise ConfigError(
            f"{one_line(text, 40)!r} cannot be the name of a plugin",
            cause=f"a name is lower-case letters, digits and single hyphens, a letter first, at most {_LONGEST} in all",
            fix=f"worldlab new-plugin {near or 'my-idea'}",
        )

    @property
    def distribution(self) -> str:
        """The distribution that pip installs: "worldlab-deep-sea"."""
        return _PREFIX + self.name

    @property
    def package(self) -> str:
        """The package that Python imports: "worldlab_deep_sea"."""
        return self.distribution.replace("-", "_")

    @property
    def file(self) -> str:
        """The file name of a single-file plugin: "deep_sea.py"."""
        return self.name.replace("-", "_") + ".py"

    @property
    def stem(self) -> str:
        """The prefix of class names: "DeepSea"."""
        return "".join(word.capitalize() for word in self.name.split("-"))


def render_package(name: PluginName, roles: Sequence[str], worldlab: str) -> dict[str, str]:
    """Return the files of a plugin package as {path in its folder: text}.

    roles: keys of SUMMARIES, each once. worldlab: the requirement on worldlab, such as "worldlab>=0.1,<0.2".
    """
    words = _words(name, roles) | {"worldlab": worldlab}
    targets = {role: f'"{name.package}.{role}:{name.stem}{role.capitalize()}"' for role in roles}
    configs = _join_definitions(_fill(f"{role}_config.py", words) for role in roles)
    files = {
        "pyproject.toml": _fill("pyproject.toml", words),
        "README.md": _fill("README.md", words),
        ".github/workflows/ci.yml": _fill("ci.yml", words),
        f"{name.package}/__init__.py": _fill("init.py", words | {"registers": _register_calls(name, targets)}),
        f"{name.package}/configs.py": _fill("configs.py", words | {"classes": configs}),
    }
    files |= {f"{name.package}/{role}.py": _fill(f"{role}.py", words) for role in roles}
    return files | {"tests/test_conformance.py": _fill("test_conformance.py", words)}


def render_single_file(name: PluginName, roles: Sequence[str]) -> str:
    """Return the same plugin as the text of a single file, for `--plugin FILE`."""
    words = _words(name, roles)
    texts = ["from worldlab import Config, field, hookimpl, sized\n", *(_fill(f"{role}.py", words) for role in roles)]
    parts = []
    for role, text in zip(roles, texts[1:], strict=True):
        parts += [_fill(f"{role}_config.py", words), _after_imports(text)]
    targets = {role: f'f"{{__name__}}:{name.stem}{role.capitalize()}"' for role in roles}
    words |= {"imports": _merged_imports(texts, name.package), "classes": _join_definitions(parts)}
    return _fill("single_file.py", words | {"registers": _register_calls(name, targets)})


def _words(name: PluginName, roles: Sequence[str]) -> dict[str, str]:
    """Return the values of the `$words` that all templates use."""
    flags = " ".join(f"--{role} {name.name}" for role in roles)
    rows = [f"| {role} | `{name.package}/{role}.py` | {SUMMARIES[role]} |" for role in roles]
    return {
        "name": name.name,
        "distribution": name.distribution,
        "package": name.package,
        "file": name.file,
        "stem": name.stem,
        "flags": flags,
        "flag": f"--{roles[0]} {name.name}",
        "table": "\n".join(rows),
        "description": f"A plugin for worldlab: {_join_nouns(roles)}.",
        "configs": _import_from(f"{name.package}.configs", [f"{name.stem}{role.capitalize()}Config" for role in roles]),
        "components": "\n".join(f'    "{role}:{name.name}",' for role in roles),
    }


def _join_nouns(roles: Sequence[str]) -> str:
    nouns = {"encoder": "an encoder", "dynamics": "a dynamics", "decoder": "a decoder"}
    *first, last = (nouns[role] for role in roles)
    return f"{', '.join(first)} and {last}" if first else last


def _import_from(module: str, names: Iterable[str]) -> str:
    """Return an import on one line if it fits, else with one line per name."""
    line = f"from {module} import {', '.join(sorted(names))}"
    if len(line) <= _LINE:
        return line
    return "\n".join([f"from {module} import (", *(f"    {name}," for name in sorted(names)), ")"])


def _register_calls(name: PluginName, targets: dict[str, str]) -> str:
    """Return the calls of register.ROLE(...). targets: by role, as Python source."""
    words = {"name": name.name, "stem": name.stem}
    calls = [
        words | {"role": role, "Role": role.capitalize(), "target": target, "summary": SUMMARIES[role]}
        for role, target in targets.items()
    ]
    return "".join(_fill("register.py", call) for call in calls).rstrip("\n")


def _fill(template: str, words: dict[str, str]) -> str:
    """Return the text of a template with its `$words` replaced. Raises: KeyError for an unknown word."""
    text = (resources.files("worldlab.cli.scaffold") / "templates" / f"{template}.txt").read_text(encoding="utf-8")
    return Template(text).substitute(words)


def _join_definitions(definitions: Iterable[str]) -> str:
    """Join top-level definitions with two empty lines between them."""
    return "\n\n\n".join(text.strip("\n") for text in definitions)


def _imports(source: str) -> list[ast.Import | ast.ImportFrom]:
    return [node for node in ast.parse(source).body if isinstance(node, ast.Import | ast.ImportFrom)]


def _after_imports(source: str) -> str:
    lines = source.splitlines()[_imports(source)[-1].end_lineno :]
    return "\n".join(lines)


def _merged_imports(sources: Iterable[str], own: str) -> str:
    """Merge the imports of several files, sorted as ruff sorts them, and drop those of the package `own`."""
    plain: set[str] = set()
    names: dict[str, set[str]] = {}
    for node in (node for source in sources for node in _imports(source)):
        if isinstance(node, ast.Import):
            plain.add(ast.unparse(node))
        elif node.module and node.module.partition(".")[0] != own:
            names.setdefault(node.module, set()).update(alias.name for alias in node.names)
    groups: tuple[list[str], ...] = ([], [], [])
    groups[2].extend(sorted(plain))
    for module in sorted(names):
        group = {"__future__": 0, "typing": 1}.get(module, 2)
        groups[group].append(_import_from(module, names[module]))
    return "\n\n".join("\n".join(group) for group in groups)
