"""The example with one part of each role: worldlab finds all six by their names, and they work together.

Its own tests run with these (testpaths in pyproject.toml).
"""

from __future__ import annotations

import ast
import json
import tomllib
from pathlib import Path

import pytest

from worldlab import cli
from worldlab.registry import load_registry

EXAMPLE = Path(__file__).parents[1] / "examples" / "worldlab_parts"
NAMES = {
    "encoder": "grid",
    "dynamics": "mingru",
    "decoder": "laplace",
    "agent": "shooting",
    "env": "catch",
    "launcher": "nice",
}


@pytest.fixture
def installed(tmp_path, monkeypatch) -> None:
    """What importlib.metadata sees of an installed package: its metadata beside its code."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text("utf-8"))["project"]
    info = tmp_path / "site" / "worldlab_parts-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    entries = project["entry-points"]["worldlab"].items()
    (info / "entry_points.txt").write_text("[worldlab]\n" + "".join(f"{name} = {module}\n" for name, module in entries))
    monkeypatch.syspath_prepend(str(info.parent))


def test_every_part_is_found_by_its_name(installed):
    registry = load_registry()
    assert {role: registry.get(role, name).distribution for role, name in NAMES.items()} == dict.fromkeys(
        NAMES, "worldlab-parts"
    )


def test_check_plugin_checks_all_six(installed, capsys):
    assert cli.main(["check-plugin", "worldlab-parts", "--json", "-k", "2"]) == 0  # E2, D2, C2, A2, V2, L2
    report = json.loads(capsys.readouterr().out)
    assert {row["role"] for row in report["components"]} == set(NAMES) and report["counts"]["failed"] == 0


@pytest.mark.slow
def test_they_train_together(installed, tmp_path, capsys):
    parts = [word for role, name in NAMES.items() if role != "launcher" for word in (f"--{role}", name)]
    small = "--preset debug --size nano --steps 120 --train.prefill 60 --train.ratio 0.1 --agent.candidates 8 --train.threads 1"
    code = cli.main(["train", *parts, *small.split(), "--run", str(tmp_path / "run"), "--json"])
    result = json.loads(capsys.readouterr().out)
    assert code == 0 and result["env_steps"] == 120 and set(result["returns"]) <= {1.0, -1.0}


def test_only_public_modules_are_imported():
    table = (
        (EXAMPLE.parents[1] / "docs" / "reference" / "index.md").read_text("utf-8").partition("## What is stable")[0]
    )
    found = set()
    for path in EXAMPLE.rglob("*.py"):
        nodes = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.ImportFrom)]
        found |= {str(node.module) for node in nodes if str(node.module).partition(".")[0] == "worldlab"}
    assert {"worldlab.interfaces", "worldlab.agent"} <= found
    assert [module for module in found if f"`{module}`" not in table] == []
