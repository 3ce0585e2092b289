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
from typing import Any

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

AMBIGUOUS = {"random", "ensemble", "made", "run", "video", "csv"}
"""Names of ours that are words first: random actions, an ensemble of predictions, what `worldlab train` makes, a suffix."""
ENVIRONMENTS = {"CarRacing", "CartPole", "Pendulum", "HalfCheetah", "LunarLander", "MountainCar", "Acrobot"}
EXAMPLES = {
    ("worldlab/cli/__init__.py", "cpc"),
    ("worldlab/cli/__init__.py", "CarRacing"),
    ("worldlab/cli/check_env.py", "CarRacing"),
    ("worldlab/cli/common.py", "hf"),
    ("worldlab/cli/flags.py", "CarRacing"),
    ("worldlab/cli/runs.py", "CartPole"),
    ("worldlab/cli/scaffold/files.py", "Pendulum"),
    ("worldlab/config/resolve.py", "CarRacing"),
    ("worldlab/runs/find.py", "CartPole"),
    ("worldlab/settings.py", "CartPole"),
    ("worldlab/settings.py", "tensorboard"),
    ("worldlab/testing/page.py", "vae"),
}
"""Where the core's texts for people use a plugin's or environment's name as an example (settings: as a default)."""
LIBRARIES = {
    ("worldlab/runs/folder.py", "gymnasium"),
    ("worldlab/registry/discovery.py", "gymnasium"),
    ("worldlab/registry/discovery.py", "tensorboard"),
}
"""A plugin has the name of the library it adapts; the core lists the library's version, and that importing it is slow."""


def registered_names(*roles: str) -> set[str]:
    """The names the built-in plugins register: first arguments of register.ROLE(...); roles: of these only."""
    found = set()
    for package in SIDE_PACKAGES:
        for node in ast.walk(parsed(SIDE_PACKAGES[package] / "__init__.py")):
            if not isinstance(node, ast.Call) or not ast.unparse(node.func).startswith("register."):
                continue
            role = ast.unparse(node.func).removeprefix("register.")
            if role != "presets" and (not roles or role in roles):
                assert isinstance(node.args[0], ast.Constant)
                found.add(str(node.args[0].value))
    return found


def pattern_of(names: set[str]) -> re.Pattern[str]:
    """What finds the names, those of families and of environments as whole words."""
    words = {*(names - AMBIGUOUS - {"gymnasium"}), *ENVIRONMENTS, "flow", "autoregressive", "gan"}
    return re.compile(rf"(?<![\w-])({'|'.join(map(re.escape, sorted(words)))})(?!\w)")


def test_the_core_knows_no_plugin_by_name():
    names = registered_names()
    assert {"vae", "cpc", "dreamer", "gymnasium"} <= names
    pattern = pattern_of(names)
    found = set()
    for path in sources("worldlab"):
        for node in strings(path):
            found |= {(short(path), word) for word in pattern.findall(str(node.value))}
            found |= {(short(path), "gymnasium")} if node.value == "gymnasium" else set()
    assert found - EXAMPLES - LIBRARIES == set()


STUDIES = {
    "worldlab/study/roundup/roundup.toml": "the round-up is a study of these families: its claims are about them"
}
"""Settings files of the core that name families, agents or environments of ours, and why they may."""


def words_of(table: Any) -> Iterator[str]:
    """Keys and texts of a TOML file, at any depth; comments are for people."""
    if isinstance(table, dict):
        for key, value in table.items():
            yield key
            yield from words_of(value)
    elif isinstance(table, list):
        for item in table:
            yield from words_of(item)
    elif isinstance(table, str):
        yield table


def test_the_settings_files_of_the_core_name_no_plugin():
    names = registered_names("encoder", "dynamics", "decoder", "agent", "env")
    assert {"vae", "dreamer", "icem", "branch"} <= names and "local" not in names
    pattern = pattern_of(names)
    files = sorted((ROOT / "worldlab").rglob("*.toml"))
    assert {"laptop.toml", "gpu.toml", "debug.toml", "defaults.toml"} <= {path.name for path in files}
    found = {}
    for path in files:
        words = {word for text in words_of(tomllib.loads(path.read_text("utf-8"))) for word in pattern.findall(text)}
        if words:
            found[path.relative_to(ROOT).as_posix()] = words
    assert {path: words for path, words in found.items() if path not in STUDIES} == {}
    assert set(found) == set(STUDIES)


# ---- layers ----

LAYERS = (
    ("errors", "specs", "tree", "settings"),
    ("distributions", "nn", "env", "registry", "runs"),
    ("heads", "interfaces", "config"),
    ("rollout",),
    ("model",),
    ("world_model",),
    ("agent",),
    ("experience",),
    ("evaluation",),
    ("training",),
    ("study",),
    ("testing",),
    ("cli",),
)
"""The rooms of the core, lowest first. A room imports rooms of lower lines only, wherever in a file the import stands."""
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}


@cache
def module_files() -> dict[str, Path]:
    """Every module of every package by its name."""
    found = {}
    for package, folder in PACKAGES.items():
        for path in sources(package):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join([package, *(part for part in parts if part != "__init__")])] = path
    return found


def for_types_only(tree: ast.Module) -> set[int]:
    """The ids of all nodes under `if TYPE_CHECKING:`, which never run."""
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    return {id(inner) for block in blocks for statement in block.body for inner in ast.walk(statement)}


def modules_imported(path: Path) -> set[str]:
    """The modules of ours that a file imports when it runs, also inside functions."""
    found = set()
    skipped = for_types_only(parsed(path))
    for node in ast.walk(parsed(path)):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            inside = names & set(module_files())
            found |= inside | ({node.module} if inside != names else set())
    return found & set(module_files())


def room(module: str) -> str:
    """The file or folder of the core that a module is in; "" for worldlab itself."""
    return (*module.split("."), "")[1]


def test_every_room_has_its_layer():
    assert {room(name) for name in module_files() if name.startswith("worldlab.")} - {"__main__"} == set(LEVEL)


def test_rooms_import_lower_rooms_only():
    """worldlab/__init__.py, whose names are lazy, and __main__ are above all rooms; anyone may import worldlab itself."""
    wrong = []
    for name, path in module_files().items():
        here = room(name)
        if name.partition(".")[0] != "worldlab" or here in ("", "__main__"):
            continue
        for other in modules_imported(path):
            there = room(other)
            if there not in ("", here) and LEVEL[there] >= LEVEL[here]:
                wrong.append(f"{short(path)} imports {other}")
    assert sorted(wrong) == []


def cycle_in(graph: dict[str, set[str]]) -> list[str]:
    """Some cycle of a directed graph as the list of its nodes, or an empty list."""
    done: set[str] = set()

    def search(node: str, path: list[str]) -> list[str]:
        if node in path:
            return path[path.index(node) :]
        if node in done:
            return []
        for after in sorted(graph.get(node, ())):
            if found := search(after, [*path, node]):
                return found
        done.add(node)
        return []

    return next((found for node in sorted(graph) if (found := search(node, []))), [])


def test_cycles_are_found():
    assert cycle_in({"a": {"b"}, "b": {"c"}, "c": set(), "d": {"b"}}) == []
    assert cycle_in({"a": {"b"}, "b": {"c"}, "c": {"d"}, "d": {"b"}}) == ["b", "c", "d"]
    assert cycle_in({"a": {"a"}}) == ["a"]


def test_no_modules_import_each_other():
    """In no order, at no level: also imports inside functions count, and the packages that an import runs on its way."""
    graph: dict[str, set[str]] = {}
    for name, path in module_files().items():
        targets = modules_imported(path)
        parents = {other.rpartition(".")[0] for other in targets} & set(module_files())
        graph[name] = {t for t in targets | parents if not f"{name}.".startswith(f"{t}.") or t in targets}
    del graph["worldlab"]
    assert cycle_in(graph) == []


def test_only_the_command_line_imports_the_test_suite_of_plugins():
    importers = {
        name
        for name, path in module_files().items()
        if any(room(other) == "testing" for other in modules_imported(path) if other.startswith("worldlab."))
    }
    assert {
        name for name in importers if room(name) not in ("testing", "cli") or not name.startswith("worldlab.")
    } == set()
    assert any(room(name) == "cli" for name in importers)


# ---- sizes ----


def test_the_core_has_few_rooms():
    assert len([path for path in (ROOT / "worldlab").iterdir() if path.name != "__pycache__"]) <= 25


SYSTEMS_BY_PRESET = {"dreamer-v3", "forbes", "iris", "planet", "td-mpc2", "twister", "world-models"}
"""Presets that are published systems: each is complete on its own and states its paper's settings (docs/presets.md)."""


def test_presets_are_short():
    """What a preset sets differs from the default for a reason: a few lines each, those that tune runs on four screens."""
    files = [path for folder in PACKAGES.values() for path in folder.rglob("presets/*.toml")]
    assert {path.parents[1].name for path in files} >= {"config", "worldlab_vae", "worldlab_agents", "worldlab_envs"}
    lines = {path: len(path.read_text("utf-8").splitlines()) for path in files}
    systems = {path: count for path, count in lines.items() if path.stem in SYSTEMS_BY_PRESET}
    assert {path.stem for path in systems} == SYSTEMS_BY_PRESET and max(systems.values()) <= 50
    assert sum(lines.values()) - sum(systems.values()) <= 150


# ---- files ----

WRITERS = {
    (
        "worldlab/runs/storage.py",
        "os.open",
    ): "the one place that writes files: atomically, with fsync, without following links",
    ("worldlab/runs/storage.py", "os.fdopen"): "of a descriptor opened there for reading",
    ("worldlab/runs/failpoints.py", "open"): "a list of the failpoints that a test reached, where the test wants it",
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
    (
        "worldlab/testing/launcher_subject.py",
        "tempfile.TemporaryDirectory",
    ): "the folder of tasks that a launcher under test runs",
    ("worldlab/testing/launcher_checks.py", "tempfile.TemporaryDirectory"): "the same",
    (
        "worldlab/testing/tracker_checks.py",
        "tempfile.TemporaryDirectory",
    ): "the folder of a run that a tracker under test shows",
    ("worldlab/env/pool.py", "cloudpickle.dumps"): "a pipe to our own worker process: bytes made by this very program",
    ("worldlab/env/pool.py", "pickle.loads"): "the other end of that pipe",
    ("worldlab/training/agent_process.py", "cloudpickle.dumps"): "a pipe to the agent's process, our own child",
    ("worldlab/training/agent_process.py", "pickle.loads"): "both ends of that pipe",
    ("worldlab_data/lerobot_writer.py", "picture.save"): "into memory; pyarrow writes the table",
    ("worldlab_data/npz.py", "np.savez_compressed"): "into memory; worldlab.runs.storage writes the bytes",
}
"""Every call in library code that writes a file past worldlab.runs.storage, or unpickles, and why it may."""
SUSPECT = re.compile(
    r"(os\.(fd)?open|io\.open|open|.*\.(write_text|write_bytes|tofile|memmap|savez?|savez_compressed|save_file)"
    r"|(torch|np|numpy|joblib)\.(save|load|loadtxt|savetxt)|(\w*pickle|dill|marshal|shelve)\.\w+|tempfile\.\w+)"
)
SAVERS_OF_OURS = {
    "session.save",
    "self.saver.save",
    "self.save",
    "open_loop.save",
    "_image(picture).save",
    "images[0].save",
}
"""save(...) that writes through worldlab.runs.storage or into a buffer in memory."""


def test_files_are_written_in_one_place_and_nothing_is_unpickled():
    found = set()
    for package in PACKAGES:
        for path in sources(package):
            calls = [node for node in ast.walk(parsed(path)) if isinstance(node, ast.Call)]
            names = {ast.unparse(node.func) for node in calls}
            found |= {(short(path), name) for name in names - SAVERS_OF_OURS if SUSPECT.fullmatch(name)}
    assert found == set(WRITERS)


def test_only_pipes_to_our_own_processes_import_pickle():
    found = {(short(p), name) for package in PACKAGES for p in sources(package) for name in imported(p)}
    picklers = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
    assert {path for path, name in found if name in picklers} == {
        "worldlab/env/pool.py",
        "worldlab/training/agent_process.py",
    }


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
    ours |= {short(path) for folder in PACKAGES.values() for path in folder.rglob("*.toml")}
    assert {"worldlab/config/presets/laptop.toml", "worldlab_agents/presets/few-steps.toml"} <= ours
    assert "worldlab/study/compare/defaults.toml" in ours
    templates = ROOT / "worldlab" / "cli" / "scaffold" / "templates"
    ours |= {f"worldlab/cli/scaffold/templates/{path.name}" for path in templates.iterdir()}
    assets = ROOT / "worldlab" / "cli" / "web" / "assets"
    ours |= {f"worldlab/cli/web/assets/{path.relative_to(assets).as_posix()}" for path in assets.rglob("*.*")}
    assert ours <= set(names)
    assert not [
        name for name in names if "__pycache__" in name or name.startswith(("worldlab/tests", "worldlab_tests"))
    ]
