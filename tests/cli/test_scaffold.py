"""`worldlab new-plugin` writes a well-formed plugin that installs and passes every check, and overwrites nothing."""

from __future__ import annotations

import ast
import importlib.util
import itertools
import json
import os
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from worldlab import cli
from worldlab.cli import new_plugin
from worldlab.cli.scaffold.files import SUMMARIES, Contents, PluginName, render_package, render_single_file
from worldlab.errors import ConfigError, StorageError
from worldlab.registry import load_registry

ROLES = tuple(SUMMARIES)
SETS = [*((role,) for role in ROLES), ROLES[:3], ROLES]
CONTENTS = [*map(Contents, SETS), Contents(["encoder"], "codes"), Contents(ROLES, "codes")]
PUBLIC = {
    "worldlab",
    *(f"worldlab.{name}" for name in ("interfaces", "nn", "distributions", "specs", "testing", "settings")),
    *(
        "worldlab.agent",
        "worldlab.world_model",
        "worldlab.rollout",
        "worldlab.study.compare.tasks",
        "worldlab.runs.tracking",
    ),
}
"""The modules that docs/plugins.md lists as public and stable."""
LONG = "rectifiedflowinthespaceo"  # the maximum length of a name
FLAGS = "--encoder hello --dynamics hello --decoder hello --agent hello --env hello"


def worldlab(line: str) -> int:
    return cli.main(shlex.split(line))


def everything(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


# ---- names ----


def test_one_name_in_every_spelling():
    name = PluginName.read("deep-sea2")
    assert (name.distribution, name.package, name.file, name.stem) == (
        "worldlab-deep-sea2",
        "worldlab_deep_sea2",
        "deep_sea2.py",
        "DeepSea2",
    )
    assert PluginName.read("worldlab-deep-sea2") == name


@pytest.mark.parametrize(
    ("typed", "suggested"),
    [
        ("Deep_Sea", "deep-sea"),
        ("deep sea", "deep-sea"),
        ("-x-", "x"),
        ("a--b", "a-b"),
        ("2d", "d"),
        ("../evil", "evil"),
        ("vàe", "v-e"),
        ("", "my-idea"),
        ("x" * 25, "x" * 24),
    ],
)
def test_an_invalid_name_gets_a_suggestion(typed, suggested):
    with pytest.raises(ConfigError, match="cannot be the name of a plugin") as caught:
        PluginName.read(typed)
    assert caught.value.fix == f"worldlab new-plugin {suggested}" and len(caught.value.message) <= 100
    PluginName.read(suggested)


# ---- texts ----


@pytest.mark.parametrize("contents", CONTENTS, ids=lambda contents: "-".join([*contents.roles, contents.latent]))
def test_one_file_holds_what_the_package_holds(contents):
    """Both have the same classes, line for line; only the imports and the targets differ."""
    name = PluginName("deep-sea")
    files = render_package(name, contents, "worldlab>=0.1,<0.2")

    def classes(text: str) -> dict[str, str]:
        return {node.name: ast.unparse(node) for node in ast.parse(text).body if isinstance(node, ast.ClassDef)}

    expected: dict[str, str] = {}
    for path, text in files.items():
        expected |= classes(text) if path.startswith(name.package) else {}
    assert classes(render_single_file(name, contents)) == expected
    assert len(expected) == 2 * len(contents.roles) - ("tracker" in contents.roles)  # which has no settings


def test_only_the_public_interface_is_used():
    files = render_package(PluginName("hello"), Contents(ROLES), "worldlab")
    sources = [ast.parse(text) for path, text in files.items() if path.endswith(".py")]
    nodes = [node for source in sources for node in ast.walk(source) if isinstance(node, ast.ImportFrom)]
    modules = {str(node.module) for node in nodes}
    assert {module for module in modules if module.startswith("worldlab.")} <= PUBLIC
    assert {"worldlab.interfaces", "worldlab.testing"} <= modules
    assert not [alias.name for node in nodes for alias in node.names if alias.name.startswith("_")]


def test_the_project_file_has_what_pip_needs():
    project = tomllib.loads(
        render_package(PluginName("deep-sea"), Contents(ROLES), "worldlab>=3.4,<3.5")["pyproject.toml"]
    )
    assert project["project"]["entry-points"] == {"worldlab": {"deep-sea": "worldlab_deep_sea"}}
    assert project["project"]["name"] == "worldlab-deep-sea"
    assert project["project"]["dependencies"][0] == "worldlab>=3.4,<3.5"


@pytest.mark.parametrize(
    ("version", "requirement"),
    [("0.1.0", "worldlab>=0.1,<0.2"), ("1.9.3.dev1+g1", "worldlab>=1.9,<1.10"), ("0+unknown", "worldlab")],
)
def test_a_plugin_requires_the_minor_version_it_was_written_with(monkeypatch, version, requirement):
    import worldlab as package

    monkeypatch.setattr(package, "__version__", version, raising=False)
    assert new_plugin._requirement() == requirement


def test_the_workflow_is_yaml_and_tests():
    yaml = pytest.importorskip("yaml", reason="mkdocs brings it")
    workflow = yaml.safe_load(
        render_package(PluginName("hello"), Contents(ROLES), "worldlab")[".github/workflows/ci.yml"]
    )
    steps = workflow["jobs"]["test"]["steps"]
    assert steps[1]["with"]["python-version"] == "${{ matrix.python }}"
    assert [step.get("run") for step in steps][-2:] == ['pip install -e ".[dev]"', "pytest"]


def test_the_written_files_are_formatted_and_clean(here):
    """ruff accepts the files under the plugin's own settings, for short and long names."""
    if not importlib.util.find_spec("ruff"):
        pytest.skip('ruff is not installed: pip install -e ".[dev]"')
    for name, contents in itertools.product(("hello", LONG), CONTENTS):
        folder = here / name / "-".join([*contents.roles, contents.latent])
        folder.mkdir(parents=True)
        latent = "--latent codes" if contents.latent == "codes" else ""
        flags = f"{' '.join(f'--role {role}' for role in contents.roles)} {latent} --dir {shlex.quote(str(folder))}"
        assert worldlab(f"new-plugin {name} {flags}") == 0
        assert worldlab(f"new-plugin {name} --single-file {flags}") == 0
    ruff = [sys.executable, "-m", "ruff"]
    shared = ["--no-cache", "--config", "line-length = 120", str(here)]
    for command in (["format", "--check", *shared], ["check", "--select", "E,F,I,UP,B,SIM,RUF,D419", *shared]):
        done = subprocess.run([*ruff, *command], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


# ---- the command ----


def test_it_prints_the_files_and_the_next_commands(here, capsys):
    assert worldlab("new-plugin hello --role decoder --role encoder --role decoder") == 0
    out = capsys.readouterr().out
    written = everything(here / "worldlab-hello")
    assert out.startswith("wrote worldlab-hello\n") and all(f"  {path}\n" for path in written)
    assert out.endswith(
        "next:\n  pip install -e worldlab-hello\n  worldlab check-plugin hello\n"
        "  worldlab train --encoder hello --decoder hello --env Pendulum --preset debug\n"
    )
    assert [path.name for path in here.iterdir()] == ["worldlab-hello"]


def test_json_is_one_object(here, capsys):
    assert worldlab("new-plugin hello --single-file --json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "name": "hello",
        "roles": ["encoder"],
        "path": "hello.py",
        "files": ["hello.py"],
        "next": [
            "worldlab check-plugin hello.py",
            "worldlab train --plugin hello.py --encoder hello --env Pendulum --preset debug",
        ],
    }
    assert set(everything(here)) == {"hello.py"}


def test_a_folder_with_a_space_is_quoted(here, capsys):
    (here / "my plugins").mkdir()
    assert worldlab("new-plugin hello --dir 'my plugins' --json") == 0
    assert json.loads(capsys.readouterr().out)["next"][0] == "pip install -e 'my plugins/worldlab-hello'"


REFUSED = [
    ("new-plugin", 2, "worldlab new-plugin: the following arguments are required: NAME"),
    ("new-plugin Hello", 2, "'Hello' cannot be the name of a plugin"),
    ("new-plugin vae", 2, "the name 'vae' is taken: encoder of worldlab 0.1.0"),
    ("new-plugin dreamer --role decoder", 2, "the name 'dreamer' is taken: agent of worldlab 0.1.0"),
    ("new-plugin agents", 2, "the name 'agents' is taken: Python already has a module worldlab_agents"),
    ("new-plugin torch --single-file", 2, "the name 'torch' is taken: Python already has a module torch"),
    ("new-plugin hello --role agent --latent codes", 2, "--latent codes needs an encoder"),
    ("new-plugin hello --role encodr", 2, "new-plugin: no role named 'encodr'. Did you mean 'encoder'?"),
    ("new-plugin hello --dir nowhere", 6, "the folder 'nowhere' does not exist"),
    ("new-plugin there", 6, "'worldlab-there' already exists; nothing was written"),
    ("new-plugin there --single-file", 6, "'there.py' already exists; nothing was written"),
    ("new-plugin linked --single-file", 6, "'linked.py' already exists; nothing was written"),
]


@pytest.mark.parametrize(("line", "code", "first"), REFUSED, ids=lambda value: str(value)[:40])
def test_invalid_requests_raise_and_change_nothing(here, capsys, line, code, first):
    (here / "worldlab-there").mkdir()
    (here / "there.py").write_text("mine")
    (here / "linked.py").symlink_to("nowhere-yet.py")
    before = sorted(here.rglob("*")), everything(here)
    assert worldlab(line) == code
    out, err = capsys.readouterr()
    assert err.splitlines()[0] == first and "fix: " in err and out == ""
    assert (sorted(here.rglob("*")), everything(here)) == before


@pytest.mark.parametrize("fails_at", [0, 3, 6])
def test_a_failed_write_leaves_no_files(here, monkeypatch, fails_at):
    written: list[Path] = []
    write = new_plugin.write_new

    def full_disk(path, pieces):
        if len(written) == fails_at:
            raise StorageError("disk full", cause="28", fix="--run DIR")
        written.append(path)
        return write(path, pieces)

    monkeypatch.setattr(new_plugin, "write_new", full_disk)
    with pytest.raises(StorageError, match="disk full") as caught:
        new_plugin.run(["hello"])
    assert caught.value.fix == "write into another folder: --dir DIR"
    assert list(here.iterdir()) == [] and len(written) == fails_at


def test_the_start_stays_free_of_torch(here):
    """Neither writing a package nor listing what it registers imports torch."""
    code = (
        "import sys; from worldlab import cli; assert cli.main(['new-plugin', 'hello']) == 0;"
        "sys.path.insert(0, 'worldlab-hello'); import worldlab_hello; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False", done.stderr


# ---- the components ----


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    path = tmp_path_factory.mktemp("plugin") / "hello.py"
    path.write_text(render_single_file(PluginName("hello"), Contents(ROLES)))
    codes = path.with_name("codes.py")
    codes.write_text(render_single_file(PluginName("codes"), Contents(["encoder"], "codes")))
    found = load_registry([path, codes])
    found.check_files()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("what", [*(f"{role}:hello" for role in ROLES), "encoder:codes"])
def test_every_component_passes_every_check(registry, what):
    """The unchanged component passes in every mode, including the checks that train."""
    from worldlab.testing import checks_for, modes
    from worldlab.testing.checks import evaluate

    role, name = what.split(":")
    checks = checks_for(role)
    found = [evaluate(check, subject) for _, subject in modes(registry.get(role, name)) for check in checks]
    assert [f"{result.check}: {result.cause}" for result in found if not result.passed] == []
    assert sum(not result.skipped for result in found) >= 0.8 * len(checks)


@pytest.mark.slow
def test_together_they_are_a_world_model(registry):
    from worldlab.testing import check_mix, small_config
    from worldlab.testing.bench import Choice

    entries = [registry.get(role, "hello") for role in ROLES[:3]]
    results = check_mix(*(Choice(entry.load(), small_config(entry.config)) for entry in entries))
    assert [f"{result.check}: {result.cause}" for result in results if not result.passed] == []
    assert len(results) >= 6


@pytest.mark.slow
def test_the_package_installs_and_trains(here, worldlab_command):
    """new-plugin, pip install, check-plugin and train work; the install goes into a temporary folder on the path."""
    site = here / "site"
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    environment = dict(os.environ) | {"PYTHONPATH": path, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}

    def runs(*command: str, folder: Path = here) -> str:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    runs(*worldlab_command, "new-plugin", "hello", *(f"--role={role}" for role in ROLES))
    pip = ("-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-cache-dir")
    runs(sys.executable, *pip, "--target", str(site), "./worldlab-hello")
    assert {path.name for path in site.iterdir()} == {"worldlab_hello", "worldlab_hello-0.1.0.dist-info"}

    listed = json.loads(runs(*worldlab_command, "plugins", "--json"))["components"]
    ours = [(entry["role"], entry["distribution"], entry["version"]) for entry in listed if entry["name"] == "hello"]
    assert ours == [(role, "worldlab-hello", "0.1.0") for role in ROLES]
    runs(*worldlab_command, "check-plugin", "hello", "--fast")
    arguments = shlex.split(f"{FLAGS} --preset debug --steps 320 --train.ratio 0.05 --run run --json")
    result = json.loads(runs(*worldlab_command, "train", *arguments))
    assert result["env_steps"] == 320 and result["updates"] > 0
