"""The rules of the house: who may import whom, who may write files, what the wheel holds, what the core may not know."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SIDES = ("plugins", "agents", "envs")
SIDE_PACKAGES = {path.name: path for side in SIDES for path in (ROOT / side).iterdir() if path.name.startswith("world")}
PACKAGES = {"worldlab": ROOT / "worldlab", **SIDE_PACKAGES}


def sources(package: str) -> list[Path]:
    return sorted(PACKAGES[package].rglob("*.py"))


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def short(path: Path) -> str:
    """The path inside its package's parent: worldlab/cli.py, worldlab_vae/encoder.py."""
    package = next(name for name, folder in PACKAGES.items() if folder in path.parents)
    return f"{package}/{path.relative_to(PACKAGES[package]).as_posix()}"


def imported(path: Path) -> Iterator[str]:
    """Top-level names a file imports, wherever in it: also inside functions and under TYPE_CHECKING."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{short(path)}:{node.lineno} uses a relative import"
            yield (node.module or "").partition(".")[0]


def strings(path: Path) -> Iterator[ast.Constant]:
    """String constants that are no docstrings (of modules, classes, functions or fields)."""
    docstrings = {id(node.value) for node in ast.walk(parsed(path)) if isinstance(node, ast.Expr)}
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node


@pytest.mark.parametrize("package", PACKAGES)
def test_who_may_import_whom(package):
    """The core imports no side package; a side package imports the core and itself."""
    allowed = {"worldlab", package}
    ours = {f"{short(path)}: {name}" for path in sources(package) for name in imported(path) if name in PACKAGES}
    assert {line for line in ours if line.rpartition(": ")[2] not in allowed} == set()


@pytest.mark.parametrize("side", SIDES)
def test_side_folders_are_no_packages(side):
    assert not (ROOT / side / "__init__.py").exists()
    children = {path.name for path in (ROOT / side).iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert children and all(re.fullmatch(r"worldlab_[a-z]+", name) for name in children)


# ---- what the core may not know ----

AMBIGUOUS = {"random"}  # an agent of ours, but first of all Python's module and the name of a checkpoint's file
ENVIRONMENTS = {"CarRacing", "CartPole", "Pendulum", "HalfCheetah", "LunarLander", "MountainCar", "Acrobot"}
EXAMPLES = {
    ("worldlab/cli/__init__.py", "cpc"),
    ("worldlab/cli/__init__.py", "CarRacing"),
    ("worldlab/cli/check_env.py", "CarRacing"),
    ("worldlab/cli/flags.py", "CarRacing"),
    ("worldlab/cli/new_plugin.py", "Pendulum"),
    ("worldlab/config/resolve.py", "CarRacing"),
    ("worldlab/runs/find.py", "CartPole"),
    ("worldlab/settings.py", "CartPole"),
    ("worldlab/testing/page.py", "vae"),
}
"""Where the core's texts for people use a plugin's or environment's name as an example (settings: as a default)."""
GYMNASIUM = {("worldlab/runs/folder.py", "gymnasium"), ("worldlab/registry/discovery.py", "gymnasium")}
"""An env plugin has the name of the library it adapts; the core lists the library's version, and that importing it is slow."""


def registered_names() -> set[str]:
    """The names the built-in plugins register: first arguments of register.ROLE(...)."""
    found = set()
    for package in SIDE_PACKAGES:
        for node in ast.walk(parsed(SIDE_PACKAGES[package] / "__init__.py")):
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("register."):
                assert isinstance(node.args[0], ast.Constant)
                found.add(str(node.args[0].value))
    return found


def test_the_core_knows_no_plugin_by_name():
    names = registered_names()
    assert {"vae", "cpc", "dreamer", "gymnasium"} <= names
    words = {*(names - AMBIGUOUS - {"gymnasium"}), *ENVIRONMENTS, "flow", "autoregressive", "gan"}
    pattern = re.compile(rf"(?<![\w-])({'|'.join(map(re.escape, sorted(words)))})(?!\w)")
    found = set()
    for path in sources("worldlab"):
        for node in strings(path):
            found |= {(short(path), word) for word in pattern.findall(str(node.value))}
            found |= {(short(path), "gymnasium")} if node.value == "gymnasium" else set()
    assert found - EXAMPLES - GYMNASIUM == set()


# ---- files ----

WRITERS = {
    (
        "worldlab/runs/storage.py",
        "os.open",
    ): "the one place that writes files: atomically, with fsync, without following links",
    ("worldlab/runs/storage.py", "os.fdopen"): "of a descriptor opened there for reading",
    (
        "worldlab/experience/segments.py",
        "os.open",
    ): "reads replay segments; they are appended through worldlab.runs.storage",
    ("worldlab/cli/__init__.py", "os.open"): "os.devnull, to silence a closed pipe",
    (
        "worldlab/study/compare/cell.py",
        "os.open",
    ): "where a cell prints: a descriptor that libraries and crashes write to, too",
    (
        "worldlab/cli/__init__.py",
        "tempfile.NamedTemporaryFile",
    ): "the traceback of a bug, in the system's own temporary folder",
    (
        "worldlab/testing/component_checks.py",
        "tempfile.TemporaryDirectory",
    ): "an empty folder, to see that a component leaves no files",
    ("worldlab/env/pool.py", "cloudpickle.dumps"): "a pipe to our own worker process: bytes made by this very program",
    ("worldlab/env/pool.py", "pickle.loads"): "the other end of that pipe",
}
"""Every call in library code that writes a file past worldlab.runs.storage, or unpickles, and why it may."""
SUSPECT = re.compile(
    r"(os\.(fd)?open|io\.open|open|.*\.(write_text|write_bytes|tofile|memmap|savez?|savez_compressed|save_file)"
    r"|(torch|np|numpy|joblib)\.(save|load|loadtxt|savetxt)|(\w*pickle|dill|marshal|shelve)\.\w+|tempfile\.\w+)"
)
SAVERS_OF_OURS = {"session.save", "open_loop.save", "_image(picture).save", "images[0].save"}
"""save(...) that writes through worldlab.runs.storage or into a buffer in memory."""


def test_files_are_written_in_one_place_and_nothing_is_unpickled():
    found = set()
    for package in PACKAGES:
        for path in sources(package):
            calls = [node for node in ast.walk(parsed(path)) if isinstance(node, ast.Call)]
            names = {ast.unparse(node.func) for node in calls}
            found |= {(short(path), name) for name in names - SAVERS_OF_OURS if SUSPECT.fullmatch(name)}
    assert found == set(WRITERS)


def test_only_the_worker_pipe_imports_pickle():
    found = {(short(p), name) for package in PACKAGES for p in sources(package) for name in imported(p)}
    picklers = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
    assert {path for path, name in found if name in picklers} == {"worldlab/env/pool.py"}


# ---- names ----


def modules() -> list[str]:
    found = []
    for package, folder in PACKAGES.items():
        for path in sources(package):
            parts = path.relative_to(folder).with_suffix("").parts
            found.append(".".join([package, *(part for part in parts if part != "__init__")]))
    return [name for name in found if not name.endswith("__main__")]


@pytest.mark.parametrize("package", PACKAGES)
def test_exports_match_all(package):
    """What `__all__` lists exists, is sorted and has no duplicates; what a package promises lazily can be had."""
    for name in modules():
        if name.partition(".")[0] != package:
            continue
        module = importlib.import_module(name)
        exports = getattr(module, "__all__", [])
        assert len(exports) == len(set(exports)), name
        assert [export for export in exports if not hasattr(module, export)] == [], name
        if hasattr(module, "_EXPORTS"):
            assert sorted(module._EXPORTS) == sorted(exports), name


def test_class_names_are_unique():
    """A newcomer who searches for a class finds one. Private classes and settings of nobody are left out."""
    seen: dict[str, str] = {}
    for package in PACKAGES:
        for path in sources(package):
            for node in parsed(path).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    assert node.name not in seen, f"{node.name}: {seen[node.name]}, {path}"
                    seen[node.name] = short(path)


# ---- packaging ----


def top_folders() -> set[str]:
    """Folders of the repository that hold files; those that git ignores and caches are left out."""
    ignored = {"runs", "dist", "build", "__pycache__"}
    folders = [path for path in ROOT.iterdir() if path.is_dir() and path.name not in ignored]
    visible = [path for path in folders if not path.name.startswith(".") or path.name == ".ci"]
    return {path.name for path in visible if any(file.is_file() for file in path.rglob("*"))}


def test_the_readme_maps_every_folder():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    folder_map = text.partition("## Folders")[2].partition("\n## ")[0]
    listed = set(re.findall(r"^\s{0,4}([\w.]+)/", folder_map, re.MULTILINE))
    assert top_folders() <= listed
    assert {name for name in listed if not (ROOT / name).is_dir()} == set()


def test_every_package_is_built_and_registered():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    built = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert {Path(entry).name for entry in built} == set(PACKAGES)
    assert all((ROOT / entry / "__init__.py").is_file() for entry in built)
    assert set(project["project"]["entry-points"]["worldlab"].values()) == set(SIDE_PACKAGES)


@pytest.mark.slow
def test_the_wheel_holds_our_packages_and_nothing_else(tmp_path):
    isolation = ["--no-isolation"] if importlib.util.find_spec("hatchling") else []
    command = [sys.executable, "-m", "build", "--wheel", *isolation, "--outdir", str(tmp_path), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert all(name.startswith("worldlab") for name in names)
    ours = {short(path) for package in PACKAGES for path in sources(package)}
    ours |= {
        f"worldlab/config/presets/{path.name}" for path in (ROOT / "worldlab" / "config" / "presets").glob("*.toml")
    }
    ours.add("worldlab/study/compare/defaults.toml")
    templates = ROOT / "worldlab" / "cli" / "scaffold" / "templates"
    ours |= {f"worldlab/cli/scaffold/templates/{path.name}" for path in templates.iterdir()}
    assert ours <= set(names)
    assert not [
        name for name in names if "__pycache__" in name or name.startswith(("worldlab/tests", "worldlab_tests"))
    ]
