"""Throw-away plugins for tests: distributions that importlib.metadata finds, made of text."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path

_numbers = itertools.count()
TARGET = "collections:OrderedDict"
"""A target that any Python can import."""


def fresh(stem: str = "module") -> str:
    """Return a module name no other test uses: sys.modules outlives a test."""
    return f"wltest_{stem}_{next(_numbers)}"


def add_dist(
    site: Path,
    name: str,
    source: str,
    *,
    version: str = "1.0",
    entry: str | None = None,
    presets: Mapping[str, str] | None = None,
) -> Path:
    """Install a distribution with one plugin module into the folder `site`; return the module's file.

    presets: texts by name, written to the folder that a source of `registers(..., presets=True)` registers.
    """
    module = fresh(name.replace("-", "_"))
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[worldlab]\n{entry or name.removeprefix('worldlab-')} = {module}\n")
    path = site / f"{module}.py"
    path.write_text(source)
    for preset, text in (presets or {}).items():
        path.with_suffix(".presets").mkdir(exist_ok=True)
        (path.with_suffix(".presets") / f"{preset}.toml").write_text(text)
    return path


def registers(*components: tuple[str, str], extra: str = "", settings: str = "", presets: bool = False) -> str:
    """Return the source of a plugin that registers (role, name)s, each with two settings and those of `settings`.

    presets: also register the folder of presets beside the module.
    """
    calls = "\n".join(
        f'    register.{role}("{name}", "{TARGET}", config=Options, summary="{name} as {role}.")'
        for role, name in components
    )
    if presets:
        calls = f'    register.presets(Path(__file__).with_suffix(".presets"))\n{calls}'
        extra = f"{extra}from pathlib import Path\n"
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


BUILTIN_PRESETS = {
    "defaults": "encoder.name = 'vae'\ndynamics.name = 'vae'\ndecoder.name = 'vae'\nagent.name = 'dreamer'\n",
    "few-steps": "",
    "world-models": "",
}
"""Presets of the stand-in for worldlab's own distribution: the default parts, and the names of the agents' presets."""


def add_builtins(site: Path) -> Path:
    """Install a stand-in for worldlab's own distribution, hiding the real one; it has the parts of its preset "defaults"."""
    parts = [(role, name) for role in ("encoder", "dynamics", "decoder") for name in ("vae", "cpc")]
    source = registers(("agent", "dreamer"), *parts, presets=True)
    return add_dist(site, "worldlab", source, version="0.1.0", entry="builtin", presets=BUILTIN_PRESETS)


HOOK = "from worldlab import hookimpl\n@hookimpl\ndef worldlab_register(register):\n"
GOOD = registers(("encoder", "good"))
BROKEN: dict[str, tuple[str, str, int | None]] = {
    "missing module": ("import no_such_thing\n", r"cannot be imported: No module named 'no_such_thing'", 1),
    "syntax": ("x = 1\ndef broken(:\n", r"cannot be imported: SyntaxError", 2),
    "exception": ("x = 1\n\n1 / 0\n", r"cannot be imported: ZeroDivisionError: division by zero", 3),
    "exit": ("import sys\nsys.exit(3)\n", r"cannot be imported: it called sys.exit\(3\)", 2),
    "interrupt": ("raise KeyboardInterrupt\n", r"cannot be imported: KeyboardInterrupt", 1),
    "hook raises": (HOOK + "    [][0]\n", r"fails in worldlab_register: IndexError", 4),
    "hook exits": (HOOK + "    raise SystemExit\n", r"fails in worldlab_register: it called sys.exit\(None\)", 4),
    "misspelt hook": (
        "def worldlab_regster(register): ...\n",
        r"worldlab_regster, .* Did you mean worldlab_register\?",
        1,
    ),
    "misspelt prefix": ("def wordlab_register(register): ...\n", r"Did you mean worldlab_register\?", 1),
    "second hook": (GOOD + "def worldlab_tuck(x): ...\n", r"defines worldlab_tuck, which is no hook", 15),
    "no hook": ("x = 1\n", r"defines no function worldlab_register", None),
    "wrong argument": ("def worldlab_register(reg): ...\n", r"fails in worldlab_register: .*reg", None),
    "future api": (
        HOOK + f"    register.encoder('x', '{TARGET}', config=None, summary='s', api=2)\n",
        r"API v2, this is v1",
        4,
    ),
    "old api": (
        HOOK + f"    register.encoder('x', '{TARGET}', config=None, summary='s', api=0)\n",
        r"API v0, this is v1",
        4,
    ),
    "class as target": (
        HOOK + "    register.agent('x', dict, config=None, summary='s')\n",
        r'f"\{__name__\}:dict"',
        4,
    ),
    "target": (HOOK + "    register.agent('x', 'os.system', config=None, summary='s')\n", r"not 'module:Attribute'", 4),
    "config": (HOOK + f"    register.agent('x', '{TARGET}', config=dict, summary='s')\n", r"not a worldlab.Config", 4),
    "name": (HOOK + f"    register.agent('../x', '{TARGET}', config=None, summary='s')\n", r"a name may contain", 4),
    "summary": (HOOK + f"    register.agent('x', '{TARGET}', config=None, summary=' ')\n", r"summary is empty", 4),
    "keyword": (HOOK + f"    register.agent('x', '{TARGET}', nonsense=1)\n", r"TypeError: .*'nonsense'", 4),
    "role": (HOOK + "    register.encoders('x')\n", r"AttributeError: .*'encoders'", 4),
    "seeds random": ("import random\nrandom.seed(0)\n" + GOOD, r"changes the global random state of random when", None),
    "seeds numpy": ("import numpy\nnumpy.random.seed(0)\n" + GOOD, r"state of numpy.random when", None),
    "twice": (registers(("agent", "x"), ("agent", "x")), r"registers agent 'x' twice", None),
    "reserved setting": (
        "from worldlab import Config\nclass C(Config):\n    name: str = ''\n"
        + HOOK
        + f"    register.agent('x', '{TARGET}', config=C, summary='s')\n",
        r"cannot be called 'name'",
        7,
    ),
    "base exception": (
        "class End(BaseException): ...\nraise End('of all')\n",
        r"cannot be imported: End: of all",
        2,
    ),
    "no description": (
        "class End(BaseException):\n    def __str__(self):\n        raise self\nraise End\n",
        r"cannot be imported: End$",
        4,
    ),
    "generator exit": ("raise GeneratorExit\n", r"cannot be imported: GeneratorExit", 1),
    "hook ends": (
        HOOK + "    class End(BaseException): ...\n    raise End\n",
        r"fails in worldlab_register: End",
        5,
    ),
}
"""By fault: the source of a plugin, what the reason must match, and the line it must name, where it has one."""
