"""The example of a package from elsewhere: installed where only its tests see it, it passes its own tests and ours.

`examples/worldlab_diffusion` adds a family that the core has never heard of. What is asked of a cell here is asked of it:
every check in every mode, and training, dreaming, drawing and saving in a mix with an encoder of each installed family.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from family_kit import FAMILIES
from warm_process import warm_python

from worldlab.registry import load_registry

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "worldlab_diffusion"
SECONDS = 1800


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder with the installed example: its package and what names it to importlib.metadata."""
    folder = tmp_path_factory.mktemp("example") / "site"
    isolation = ["--no-build-isolation"] if importlib.util.find_spec("hatchling") else []
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check", *isolation]
    run([*pip, "--target", str(folder), str(EXAMPLE)], folder.parent)
    return folder


def run(command: list[str], site: Path) -> str:
    """Run a command that sees what is installed in `site`; its stdout."""
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, env=env, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pytest_passes(site: Path, *arguments: str) -> int:
    """Run tests in a process of their own; how many passed. None may fail; checks that do not apply may be skipped."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--no-header", "-rsx", *arguments]
    lines = run(command, site).strip().splitlines()
    skipped = [line for line in lines if line.startswith(("SKIPPED", "XFAIL"))]
    assert all("does not apply: " in line for line in skipped), skipped
    return int(lines[-1].split(" passed")[0].split()[-1])


def test_it_is_listed_beside_the_families_and_leaves_no_trace_here(site, worldlab_command):
    listed = run([*worldlab_command, "plugins", "--role", "decoder"], site)
    assert "rectified-flow" in listed and "worldlab-diffusion" in run([*worldlab_command, "plugins", "--verbose"], site)
    assert "rectified-flow" not in load_registry().names("decoder")


@pytest.mark.slow
def test_its_own_suite_passes(site):
    assert pytest_passes(site, str(EXAMPLE)) > 60


@pytest.mark.slow
def test_it_trains_dreams_and_draws_with_the_other_parts_of_each_family(site):
    mixes = [str(ROOT / "tests" / "contract" / "test_matrix.py"), "-n0", "-k", "rectified-flow"]
    assert (
        pytest_passes(site, *mixes) == 2 * len(FAMILIES) + 2
    )  # as dynamics and as decoder; both once with several samples


WHOLE = """
from worldlab.registry import load_registry
from worldlab.testing import check_mix, small_config
from worldlab.testing.bench import Choice
registry = load_registry()
names = {"encoder": "%s", "dynamics": "rectified-flow", "decoder": "rectified-flow"}
parts = {role: registry.get(role, name) for role, name in names.items()}
for result in check_mix(**{role: Choice(part.load(), small_config(part.config)) for role, part in parts.items()}):
    print(result.check, "passed" if result.passed and not result.skipped else result.cause)
"""


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["vae", "cpc"])
def test_a_world_model_with_it_learns(site, encoder):
    """Rewards of dreams belong to their action, the moving dot is learned, acting follows training: W1 to W6."""
    found = run([str(warm_python()), "-c", WHOLE % encoder], site).splitlines()
    assert found == [f"W{i} passed" for i in range(1, 7)]
