"""Render the files of a new plugin from the templates beside this module. Nothing is written or imported."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from string import Template

from worldlab.errors import ConfigError, one_line

SUMMARIES = {
    "encoder": "A Gaussian posterior on an embedding of the observation.",
    "dynamics": "A gated recurrent memory with a Gaussian or categorical prior.",
    "decoder": "A factorised Gaussian of fixed std.",
    "agent": "Random shooting: the best of random imagined plans.",
    "env": "A point on a line that is pushed to the middle.",
    "launcher": "One cell after the other, as processes on this machine.",
    "tracker": "The returns of a run in a text file.",
}
"""The roles that new-plugin can write, with the summary of the component it writes."""
LATENTS = {"gaussian": SUMMARIES["encoder"], "codes": "Categorical codes on an embedding of the observation."}
"""The latents of the encoder that new-plugin can write, with its summary."""
_NOUNS = {
    "encoder": "an encoder",
    "dynamics": "a dynamics",
    "decoder": "a decoder",
    "agent": "an agent",
    "env": "an environment",
    "launcher": "a launcher",
    "tracker": "a tracker",
}
_WITHOUT_SETTINGS = ("env", "tracker")
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

    def registered(self, role: str) -> str:
        """The class that the plugin registers: "DeepSeaEncoder", or "DeepSeaAdapter" of an environment."""
        return self.stem + ("Adapter" if role == "env" else role.capitalize())

    def config(self, role: str) -> str:
        """The class of its settings; "None" for an adapter or a tracker, which has none."""
        return "None" if role in _WITHOUT_SETTINGS else f"{self.stem}{role.capitalize()}Config"


@dataclass(frozen=True)
class Contents:
    """What a new plugin has. roles: keys of SUMMARIES, each once. latent: of its encoder, a key of LATENTS."""

    roles: Sequence[str]
    latent: str = "gaussian"

    def template(self, role: str) -> str:
        """Return the name of a role's template, without its ending."""
        return "encoder_codes" if role == "encoder" and self.latent == "codes" else role

    def summary(self, role: str) -> str:
        """Return the sentence that describes a component."""
        return LATENTS[self.latent] if role == "encoder" else SUMMARIES[role]

    @property
    def configured(self) -> list[str]:
        """The roles whose component has settings."""
        return [role for role in self.roles if role not in _WITHOUT_SETTINGS]


def render_package(name: PluginName, contents: Contents, worldlab: str) -> dict[str, str]:
    """Return the files of a plugin package as {path in its folder: text}.

    worldlab: the requirement on worldlab, such as "worldlab>=0.1,<0.2".
    """
    words = _words(name, contents) | {"worldlab": worldlab}
    targets = {role: f'"{name.package}.{role}:{name.registered(role)}"' for role in contents.roles}
    files = {
        "pyproject.toml": _fill("pyproject.toml", words),
        "README.md": _fill("README.md", words),
        ".github/workflows/ci.yml": _fill("ci.yml", words),
        f"{name.package}/__init__.py": _fill(
            "init.py", words | {"registers": _register_calls(name, contents, targets)}
        ),
    }
    if contents.configured:
        classes = _join_definitions(
            _fill(f"{contents.template(role)}_config.py", words) for role in contents.configured
        )
        imports = f"from worldlab import {', '.join(_used(classes, ('Config', 'field', 'sized')))}"
        files[f"{name.package}/configs.py"] = _fill("configs.py", words | {"imports": imports, "classes": classes})
    files |= {f"{name.package}/{role}.py": _fill(f"{contents.template(role)}.py", words) for role in contents.roles}
    return files | {"tests/test_conformance.py": _fill("test_conformance.py", words)}


def render_single_file(name: PluginName, contents: Contents) -> str:
    """Return the same plugin as the text of a single file, for `--plugin FILE`."""
    words = _words(name, contents)
    texts = [_fill(f"{contents.template(role)}.py", words) for role in contents.roles]
    parts = []
    for role, text in zip(contents.roles, texts, strict=True):
        config = [_fill(f"{contents.template(role)}_config.py", words)] if role in contents.configured else []
        parts += [*config, _after_imports(text)]
    classes = _join_definitions(parts)
    used = _used(classes, ("Config", "field", "sized"))
    own = f"from worldlab import {', '.join(['hookimpl', *used])}\n"
    targets = {role: f'f"{{__name__}}:{name.registered(role)}"' for role in contents.roles}
    words |= {"imports": _merged_imports([own, *texts], name.package), "classes": classes}
    return _fill("single_file.py", words | {"registers": _register_calls(name, contents, targets)})


def _used(source: str, names: Sequence[str]) -> list[str]:
    """Return the names that a source uses."""
    return [name for name in names if re.search(rf"\b{name}\b", source)]


def try_command(name: str, roles: Sequence[str]) -> str:
    """Return the command that uses the components: a training run, or a comparison if there is only a launcher."""
    trained = [role for role in roles if role != "launcher"]
    if not trained:
        return f"worldlab compare --launcher {name} --env Pendulum --seeds 1"
    env = [] if "env" in roles else ["--env Pendulum"]
    flags = {"tracker": "track"}
    return " ".join(["worldlab train", *(f"--{flags.get(role, role)} {name}" for role in trained), *env])


def with_file(command: str, file: str) -> str:
    """Return a command with `--plugin FILE` after its name."""
    program, action, *rest = command.split(" ")
    return " ".join([program, action, "--plugin", file, *rest])


def _words(name: PluginName, contents: Contents) -> dict[str, str]:
    """Return the values of the `$words` that all templates use."""
    roles = contents.roles
    rows = [f"| {role} | `{name.package}/{role}.py` | {contents.summary(role)} |" for role in roles]
    configs = [name.config(role) for role in contents.configured]
    command = try_command(name.name, roles)
    settings = f"\nThe settings are in `{name.package}/configs.py`. Each is a flag: `{command} --help` lists them.\n"
    return {
        "name": name.name,
        "distribution": name.distribution,
        "package": name.package,
        "file": name.file,
        "stem": name.stem,
        "try": command,
        "try_file": with_file(try_command(name.name, roles[:1]), name.file),
        "table": "\n".join(rows),
        "description": f"A plugin for worldlab: {_join_nouns(roles)}.",
        "settings": settings if configs else "",
        "configs": "\n" + _import_from(f"{name.package}.configs", configs) + "\n" if configs else "",
        "components": "\n".join(f'    "{role}:{name.name}",' for role in roles),
    }


def _join_nouns(roles: Sequence[str]) -> str:
    *first, last = (_NOUNS[role] for role in roles)
    return f"{', '.join(first)} and {last}" if first else last


def _import_from(module: str, names: Iterable[str]) -> str:
    """Return an import on one line if it fits, else with one line per name."""
    line = f"from {module} import {', '.join(sorted(names))}"
    if len(line) <= _LINE:
        return line
    return "\n".join([f"from {module} import (", *(f"    {name}," for name in sorted(names)), ")"])


def _register_calls(name: PluginName, contents: Contents, targets: dict[str, str]) -> str:
    """Return the calls of register.ROLE(...). targets: by role, as Python source."""
    calls = [
        {
            "name": name.name,
            "role": role,
            "target": target,
            "config": name.config(role),
            "summary": contents.summary(role),
        }
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
    for line in sorted(plain):
        groups[1 if line.split()[1].partition(".")[0] in sys.stdlib_module_names else 2].append(line)
    for module in sorted(names):
        group = 0 if module == "__future__" else 1 if module.partition(".")[0] in sys.stdlib_module_names else 2
        groups[group].append(_import_from(module, names[module]))
    return "\n\n".join("\n".join(group) for group in groups)
