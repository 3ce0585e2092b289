"""The number of settings that a user can reach, and how many of them `worldlab train --help` lists."""

from __future__ import annotations

import re

import pytest
from family_kit import FAMILIES

from worldlab import cli
from worldlab.config import resolve as resolve_module
from worldlab.config.schema import settings_of
from worldlab.registry import Registry, load_registry
from worldlab.settings import CoreSettings

CELL_ROLES = ("encoder", "dynamics", "decoder")
SHOWN = re.compile(r"^  (--[\w.-]+)", re.MULTILINE)
"""A flag at the beginning of its line."""


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load_registry()


def flags_of(line: str, capsys) -> list[str]:
    assert cli.main(["train", *line.split()]) == 0
    return SHOWN.findall(capsys.readouterr().out)


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    """Let the pages be those of a laptop, wherever the tests run."""
    monkeypatch.setattr(resolve_module, "default_preset", lambda device="auto": "laptop")


def test_all_flags_of_core_agents_and_cells_are_at_most_220(registry):
    """Those of the core, and of every Config class that one of these is registered with, each class once."""
    entries = [e for e in registry.registrations() if e.config is not None]
    chosen = [e for e in entries if e.role not in CELL_ROLES or e.name in FAMILIES]
    assert len({e.config for e in chosen}) >= 20
    classes = {CoreSettings, *(e.config for e in chosen)}
    counts = {config.__name__: len(list(settings_of(config))) for config in classes}
    assert sum(counts.values()) <= 220, counts


def test_a_named_system_has_at_most_8_flags_of_its_own(registry):
    systems = [e for role in CELL_ROLES for e in registry.registrations(role) if e.name not in FAMILIES]
    assert {"clockwork", "ensemble", "imle", "vq", "fsq", "made"} <= {e.name for e in systems}
    counts = {f"{e.role} {e.name}": len(list(settings_of(e.config))) for e in systems if e.config is not None}
    assert max(counts.values()) <= 8, counts


def test_help_shows_at_most_60_flags_and_help_all_all_of_them(registry, capsys):
    short, full = flags_of("--help", capsys), flags_of("--help-all", capsys)
    assert len(short) == len(set(short)) <= 60 and len(full) == len(set(full))
    assert set(short) < set(full)
    chosen = resolve_module.resolve(registry)
    parts = {"": CoreSettings, **{f"{role}.": type(getattr(chosen, role).options) for role in resolve_module.PARTS}}
    names = {
        f"--{prefix}{'.'.join(setting.path)}".replace("_", "-")
        for prefix, c in parts.items()
        for setting in settings_of(c)
    }
    assert names == {name for name in full if name in names} and len(names) >= 80


@pytest.mark.parametrize(
    "line", ["--encoder cpc --dynamics autoregressive --decoder flow", "--agent icem", "--agent cma"]
)
def test_help_stays_short_whatever_the_parts_are(line, capsys):
    assert len(flags_of(f"{line} --help", capsys)) <= 72


def test_help_lists_the_presets(registry, capsys):
    cli.main(["train", "--help"])
    listed = " ".join(capsys.readouterr().out.split())
    assert f"presets: {', '.join(resolve_module.preset_names(registry))}" in listed
    assert {"laptop", "dreamer-v3", "world-models"} <= set(resolve_module.preset_names(registry))


def test_sizes_are_left_to_one_flag(capsys):
    """The dial is shown; what follows it is for experts."""
    short, full = flags_of("--help", capsys), flags_of("--help-all", capsys)
    assert "--size" in short
    followers = {"--model.units", "--encoder.width", "--dynamics.memory", "--decoder.units", "--agent.units"}
    assert followers <= set(full) and not followers & set(short)
