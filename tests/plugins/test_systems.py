"""docs/systems.md is what its script writes; its commands, checks and names are those of what is installed."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
from family_kit import FAMILIES

from worldlab import cli
from worldlab.registry import load_registry

ROOT = Path(__file__).parents[2]


def script() -> Any:
    spec = importlib.util.spec_from_file_location("systems_script", ROOT / "scripts" / "systems.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SYSTEMS = list(script().systems())
BUILT = {name: entry for _, name, entry in SYSTEMS if "run" in entry}


def test_the_page_is_what_the_script_writes():
    found = (ROOT / "docs" / "systems.md").read_text("utf-8")
    assert found == script().format_page(load_registry()), "run: python scripts/systems.py"


def test_every_built_system_has_a_check_that_exists():
    for name, entry in BUILT.items():
        file, _, test = entry["check"].partition("::")
        (path,) = (ROOT / "tests").rglob(file)
        text = path.read_text("utf-8")
        assert not test or re.search(rf"^def {test}\(", text, re.M), f"{name}: {entry['check']}"


@pytest.mark.parametrize("name", BUILT)
def test_a_system_is_found_by_its_name(name, capsys):
    """`plugins --paper NAME` lists a part that the command of the system chooses."""
    assert cli.main(["plugins", "--json", "--paper", name.partition(" (one")[0]]) == 0
    found = {(row["role"], row["name"]) for row in json.loads(capsys.readouterr().out)["components"]}
    chosen = set(re.findall(r"--(encoder|dynamics|decoder) (\S+)", BUILT[name]["run"]))
    assert found & chosen or ("--preset" in BUILT[name]["run"] and found), f"{name}: {found}"


def test_every_further_system_of_the_registry_is_in_the_list():
    registry = load_registry()
    commands = " ".join(entry["run"] for entry in BUILT.values())
    for role in ("encoder", "dynamics", "decoder"):
        for entry in registry.registrations(role):
            if entry.name not in FAMILIES and entry.distribution == "worldlab":
                assert f"--{role} {entry.name}" in commands, f"{entry.who} is not in scripts/systems.toml"


def test_names_are_told_apart(capsys):
    cli.main(["plugins", "--paper", "pixelcnn++"])
    out = capsys.readouterr().out
    assert "autoregressive" in out and "parallel-pixelcnn" not in out
    cli.main(["plugins", "--paper", "no such system"])
    assert "wavenet" not in capsys.readouterr().out
