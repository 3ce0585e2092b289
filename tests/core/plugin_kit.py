"""Throw-away plugins for tests: distributions that importlib.metadata finds, made of text."""

from __future__ import annotations

import itertools
import tomllib
from importlib import resources
from pathlib import Path

_numbers = itertools.count()
TARGET = "collections:OrderedDict"
"""A target that any Python can import."""


def fresh(stem: str = "module") -> str:
    """Return a module name no other test uses: sys.modules outlives a test."""
    return f"wltest_{stem}_{next(_numbers)}"


def add_dist(site: Path, name: str, source: str, *, version: str = "1.0", entry: str | None = None) -> Path:
    """Install a distribution with one plugin module into the folder `site`; return the module's file."""
    module = fresh(name.replace("-", "_"))
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[worldlab]\n{entry or name.removeprefix('worldlab-')} = {module}\n")
    path = site / f"{module}.py"
    path.write_text(source)
    return path


def registers(*components: tuple[str, str], extra: str = "", settings: str = "") -> str:
    """Return the source of a plugin that registers (role, name)s, each with two settings and those of `settings`."""
    calls = "\n".join(
        f'    register.{role}("{name}", "{TARGET}", config=Options, summary="{name} as {role}.")'
        for role, name in components
    )
    return f'''
from worldlab import Config, field, hookimpl


class Options(Config):
    width: int = field(32, gt=0)
    """Width of the layers."""
    kind: str = "plain"
    """Which kind."""{settings}

{extra}
@hookimpl
def worldlab_register(register):
{calls}
'''


def add_builtins(site: Path) -> Path:
    """Install a stand-in for worldlab's own distribution, hiding the real one; it has the parts of the presets."""
    presets = resources.files("worldlab") / "presets"
    text = (presets / "defaults.toml").read_text()
    chosen = {(role, table["name"]) for role, table in tomllib.loads(text).items() if "name" in table}
    parts = {(role, name) for role in ("encoder", "dynamics", "decoder") for name in ("vae", "cpc")}
    tuned: dict[str, object] = {}
    for file in presets.iterdir():
        if file.name.endswith(".toml"):
            tuned |= _tuned(tomllib.loads(file.read_text()))
    settings = "".join(
        f"\n    {key}: {type(value).__name__} = {value!r}"
        for key, value in tuned.items()
        if key not in ("width", "kind")
    )
    source = registers(*sorted(chosen | parts), settings=settings)
    return add_dist(site, "worldlab", source, version="0.1.0", entry="builtin")


def _tuned(preset: dict) -> dict[str, object]:
    """Return every part's setting that a preset touches, with its value: the stand-ins must know them too."""
    found: dict[str, object] = {}
    for table in (preset, *preset.get("for", {}).values()):
        for role in ("encoder", "dynamics", "decoder", "agent"):
            for options in table.get(role, {}).values():
                if isinstance(options, dict):
                    found |= options
    return found
