"""The other front ends of the suite: the generated page of checks and the pytest plugin."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

from worldlab.errors import PluginError
from worldlab.testing import NotApplicable, all_checks, build
from worldlab.testing.page import page

ROOT = Path(__file__).parents[2]


def test_the_page_matches_the_docstrings_of_the_checks():
    written = (ROOT / "docs" / "checks.md").read_text(encoding="utf-8")
    assert written == page(), "python -m worldlab.testing.page > docs/checks.md"
    for check in all_checks():
        assert f"\n### {check.id} {check.title}\n" in written
    assert written.count("\n- Catches ") == written.count("\n- Fix: ") == len(all_checks())
    assert written.count("trains)*") == sum(check.slow for check in all_checks())


# ---- the pytest plugin ----


def run_pytest(folder: Path, source: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run pytest on a plugin author's test file with only our pytest plugin loaded."""
    (folder / "test_author.py").write_text(source)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "worldlab.testing.pytest_plugin",
        "-p",
        "no:cacheprovider",
        *arguments,
    ]
    env = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=env)


def test_the_entry_point_names_the_pytest_plugin():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["pytest11"] == {"worldlab": "worldlab.testing.pytest_plugin"}


def test_the_marker_is_known_and_torch_is_not_imported(tmp_path):
    source = """
import sys
import pytest


@pytest.mark.slow
def test_nothing_heavy_came_in():
    assert {"torch", "numpy", "pydantic", "worldlab.testing.checks"} & set(sys.modules) == set()
"""
    done = run_pytest(tmp_path, source, "--strict-markers", "-q")
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout and "warning" not in done.stdout


def test_a_suite_keeps_its_own_description_of_the_marker(tmp_path):
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = slow: mine\n")
    lines = [line for line in run_pytest(tmp_path, "", "--markers").stdout.splitlines() if "mark.slow" in line]
    assert lines == ["@pytest.mark.slow: mine"]


def test_the_fixtures_build_benches_and_batches(tmp_path):
    source = """
import torch
from worldlab.testing.reference import ReferenceEncoder


def test_bench(worldlab_bench, worldlab_generator):
    bench = worldlab_bench(ReferenceEncoder, obs="vector", latent_dim=5)
    latent = bench.encoder.infer(bench.encoder.embed(bench.obs(3)), bench.features(3)[:, : bench.specs.memory_dim], worldlab_generator)
    assert latent.z.shape == (3, 5) and worldlab_generator.initial_seed() == 0


def test_batch(worldlab_batch):
    batch = worldlab_batch(obs="vector", rows=2, length=6, seed=1)
    assert torch.equal(batch.reward[:, 1:], batch.obs["vector"][:, 1:, 0])
"""
    done = run_pytest(tmp_path, source, "-q")
    assert done.returncode == 0 and "2 passed" in done.stdout, done.stdout


def test_build_takes_names_and_settings():
    bench = build("dynamics:vae", memory=24)
    assert bench.specs.memory_dim == 24 and bench.dynamics.memory(bench.dynamics.initial(2)).shape == (2, 24)
    assert torch.equal(build("encoder:vae").obs(2)["image"], build("encoder:vae").obs(2)["image"])
    with pytest.raises(ValueError, match="nonsense"):
        build("encoder:vae", nonsense=1)


@pytest.mark.parametrize("latent", ["gaussian", "categorical", "point"])
def test_build_chooses_the_latent_and_the_action(latent):
    bench = build("dynamics:vae", latent=latent, action="discrete")
    assert bench.specs.latent.kind == latent and bench.specs.action.kind == "discrete"
    assert bench.part is bench.dynamics and bench.latents(3).shape == (3, bench.specs.latent.dim)


def test_build_puts_an_agent_into_a_world_with_known_rewards():
    bench = build("agent:cem", action="discrete", candidates=64)
    carry = bench.carry(8)
    action, _ = bench.act(carry)
    assert float(bench.reward(carry, action).mean()) > 0.9  # the planner finds the known best action
    with pytest.raises(NotApplicable, match="does not support discrete"):
        build("agent:sac", action="discrete")
    with pytest.raises(PluginError, match="no bench for the role 'launcher'"):
        build("launcher:local")
