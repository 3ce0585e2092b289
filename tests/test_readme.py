"""The documentation is true: its plugin trains, its commands parse, its tables, paths and links exist."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from family_kit import FAMILIES

from worldlab import errors
from worldlab.cli import COMMANDS
from worldlab.cli.common import Parser
from worldlab.cli.flags import read_flags
from worldlab.cli.scaffold.files import Contents, PluginName, render_single_file
from worldlab.config.resolve import preset_names, resolve
from worldlab.registry import load_registry

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS_PAGE = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += sorted((ROOT / "plugins").glob("*/README.md"))
TINY = shlex.split("""
--preset laptop --device cpu --steps 80 --train.prefill 40 --train.pretrain 1 --train.ratio 0.05 --train.batch-size 2
--train.batch-length 8 --train.starts 8 --train.threads 1 --agent.horizon 3 --eval.every 0 --eval.final-episodes 1
--dynamics.memory 16 --dynamics.units 16 --decoder.units 16 --log.pictures 0 --track none
""")


def plugin_source() -> str:
    """The one Python block of the README's plugin section."""
    section = README.partition("## A plugin in one file")[2].partition("\n## ")[0]
    (block,) = re.findall(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    return block


def commands(page: Path) -> list[list[str]]:
    """The worldlab commands of a page: lines of its bash blocks, and inline code."""
    text = page.read_text(encoding="utf-8")
    blocks = "\n".join(re.findall(r"^```bash\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    found = [part for line in blocks.splitlines() for part in line.split(" && ")]
    found += re.findall(r"`(worldlab [a-z][^`\n]*)`", text)
    words = [shlex.split(line.strip(), comments=True) for line in found]
    return [line[1:] for line in words if line and Path(line[0]).name == "worldlab"]


@pytest.mark.slow
def test_the_readmes_plugin_trains(worldlab_command, tmp_path):
    """Exactly the command of the README, with small sizes behind it; the run keeps the file and its hash."""
    (tmp_path / "linear.py").write_text(plugin_source())
    assert "`worldlab train --plugin linear.py --encoder linear --env CartPole`" in README
    arguments = shlex.split("train --plugin linear.py --encoder linear --env CartPole --encoder.latent-dim 8")
    command = [*worldlab_command, *arguments, *TINY, "--run", "run", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["env_steps"] == 80
    assert (tmp_path / "run" / "plugins" / "linear.py").read_text() == plugin_source()
    assert "latent_dim = 8" in (tmp_path / "run" / "config.toml").read_text()
    used = {
        plugin["distribution"]: plugin for plugin in json.loads((tmp_path / "run" / "run.json").read_text())["plugins"]
    }
    assert len(used["file:linear.py"]["sha256"]) == 64


@pytest.mark.slow
def test_the_readmes_plugin_keeps_the_contract(tmp_path):
    from worldlab.testing import check_component, checks_for

    path = tmp_path / "linear.py"
    path.write_text(plugin_source())
    registry = load_registry([path])
    registry.check_files()
    quick = [check.id for check in checks_for("encoder") if not check.slow]
    results = check_component(registry.get("encoder", "linear"), only=quick)
    assert [f"{result.check}: {result.cause}" for result in results if not result.passed and not result.skipped] == []
    assert sum(not result.skipped for result in results) >= 5


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_are_real(page, tmp_path, monkeypatch):
    """Each resolves to a configuration or passes its command's own parser, without running."""
    (tmp_path / "linear.py").write_text(plugin_source())
    hello = tmp_path / "hello.py"  # what new-plugin writes, and the pages on plugins train
    hello.write_text(render_single_file(PluginName("hello"), Contents(("encoder", "dynamics", "decoder"))))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Parser, "read", _only_read)
    for name, *arguments in commands(page):
        assert name in COMMANDS, f"{page.name}: worldlab {name}"
        if not arguments or any(word.isupper() for word in arguments):
            continue  # the command's name, or a pattern
        if name == "train":
            flags = read_flags(arguments)
            resolve(load_registry([*flags.plugins, hello]), presets=flags.presets, flags=flags.settings)
        else:
            with pytest.raises(_Understood):
                importlib.import_module(f"worldlab.cli.{name.replace('-', '_')}").run(arguments)


class _Understood(Exception):
    """The arguments were read; the command must not go on."""


def _only_read(parser: Parser, argv: list[str]) -> argparse.Namespace:
    _, unknown = parser.parse_known_args(argv)
    assert not unknown, f"{parser.prog}: {unknown}"
    raise _Understood


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    missing = [to for to in targets if not to.startswith("http") and not (page.parent / to).exists()]
    assert missing == []


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 160


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_files_of_ours_that_a_page_names_exist(page):
    """Paths from the repository's root: worldlab/rollout.py, plugins/worldlab_vae/README.md, benchmarks/results/learn."""
    named = re.findall(
        r"`((?:worldlab|plugins|agents|envs|benchmarks|scripts|docs)/[\w./*-]+)`", page.read_text("utf-8")
    )
    missing = [path for path in named if not any(ROOT.glob(path.rstrip("/")))]
    assert missing == []


def test_the_first_two_commands_are_one_line_each():
    blocks = re.findall(r"^```bash\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert all(block.startswith("python -m venv ") and block.count("\n") == 1 for block in blocks[:2])
    first, second = re.findall(r"^python -m venv .*$", README, re.MULTILINE)
    assert "pip install -e . &&" in first and "worldlab train --encoder cpc --env CarRacing" in first
    assert second.endswith('pip install -e ".[dev]" && .venv/bin/pytest')
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert '-e ".[dev]"' in ci and '/bin/pytest" "$@" || status=$?\n' in ci  # CI tests what the README says
    assert ci.rstrip().endswith('exit "$status"')


def test_the_table_of_cells_is_true():
    registry = load_registry()
    rows = re.findall(r"^\| \[(\w+)\]\((plugins/\S+)\) \|(.+)\|(.+)\|(.+)\|$", README, re.MULTILINE)
    shown = sorted(row[0] for row in rows)
    assert shown == sorted(FAMILIES)
    for role in ("encoder", "dynamics", "decoder"):
        assert set(shown) <= set(registry.names(role)), role
    assert all(cell.strip() for row in rows for cell in row[2:])


def test_the_exit_codes_are_true():
    table = {
        int(code) for row in re.findall(r"^\| (\d[\d, ]*) \|", COMMANDS_PAGE, re.MULTILINE) for code in row.split(",")
    }
    kinds = [
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.WorldlabError)
    ]
    assert table == {0, 1, 129, 130, 143, *(kind.exit_code for kind in kinds)}


def test_presets_named_in_the_documentation_exist():
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert set(re.findall(r"--preset ([\w-]+)", text)) - {"P", "NAME"} <= set(preset_names(load_registry()))


def test_every_command_is_in_the_overview():
    overview = COMMANDS_PAGE.partition("# Commands")[2].partition("\n## ")[0]
    assert set(re.findall(r"^    worldlab ([a-z-]+)", overview, re.MULTILINE)) == set(COMMANDS)


def test_the_tables_of_results_are_the_committed_results():
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "tables.py", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
