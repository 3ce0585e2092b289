"""A run of somebody else imports nothing that its user has not named: FAULTS.md, R1."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from warm_process import warm_worldlab

import worldlab
from worldlab.config.provenance import env_module, resolve_saved
from worldlab.errors import ConfigError
from worldlab.registry import load_registry

EVIL = "from pathlib import Path\nPath(__file__).with_name('ran').touch()\n"


def stranger(folder: Path, id: str) -> Path:
    """A run folder whose config.toml names an environment, with a module beside it."""
    run = folder / "run"
    run.mkdir(parents=True)
    (run / "config.toml").write_text(f'env.id = "{id}"\n')
    (run / "run.json").write_text(json.dumps({"status": "finished"}))
    (run / "evil.py").write_text(EVIL)
    return run


def command(folder: Path, *args: str, path: str = "") -> subprocess.CompletedProcess[str]:
    places = os.pathsep.join(part for part in (path, os.environ.get("PYTHONPATH", "")) if part)
    return subprocess.run(
        [sys.executable, "-m", "worldlab", *args],
        cwd=folder, env={**os.environ, "PYTHONPATH": places}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("args", [["eval", "run"], ["dream", "run"], ["train", "--run", "run", "--resume"]])
@pytest.mark.parametrize("id", ["run.evil:CartPole-v1", "evil:CartPole-v1"])
def test_no_command_imports_what_a_run_names(args, id, tmp_path):
    run = stranger(tmp_path, id)
    done = command(tmp_path, *args)
    assert done.returncode == 2 and not (run / "ran").exists()
    assert f"imports the module '{id.partition(':')[0]}'" in done.stderr and "--trust-env" in done.stderr


@pytest.mark.slow
def test_a_whole_run_whose_environment_was_changed_runs_no_code_without_a_word(tmp_path):
    """With the word, and the folder on the path of imports, the module runs: the control."""
    small = ["--preset", "debug", "--size", "nano", "--steps", "120", "--train.prefill", "60", "--env.time-limit", "20"]
    train = [*warm_worldlab(), "train", "--env", "CartPole", *small, "--run", "run"]
    assert subprocess.run(train, cwd=tmp_path, capture_output=True, timeout=120).returncode == 0
    config = tmp_path / "run" / "config.toml"
    config.write_text(config.read_text().replace('"CartPole"', '"run.evil:CartPole-v1"'))
    assert "run.evil" in config.read_text()
    (tmp_path / "run" / "evil.py").write_text(EVIL)
    played = ["eval", "run", "--episodes", "1"]
    assert command(tmp_path, *played, path=str(tmp_path)).returncode == 2
    assert not (tmp_path / "run" / "ran").exists()
    done = command(tmp_path, *played, "--trust-env", "run.evil", path=str(tmp_path))
    assert done.returncode == 0 and (tmp_path / "run" / "ran").exists(), done.stderr


@pytest.mark.slow
def test_a_module_beside_the_working_folder_is_not_imported_though_it_is_trusted(tmp_path):
    """`python -m` puts the working folder on the path of imports; the command takes it off."""
    run = stranger(tmp_path, "run.evil:CartPole-v1")
    done = command(tmp_path, "eval", "run", "--trust-env", "run.evil")
    assert done.returncode != 0 and not (run / "ran").exists()


def test_python_imports_nothing_either(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / "run"))
    run = stranger(tmp_path, "evil:CartPole-v1")
    for use in (
        lambda: worldlab.load(run).config,
        lambda: worldlab.load(run).world_model,
        lambda: worldlab.resume(run),
    ):
        with pytest.raises(ConfigError, match="imports the module 'evil'"):
            use()
    with pytest.raises(ConfigError, match="'evil'"):  # another setting of the environment is no word for its module
        worldlab.resume(run, settings={"env.workers": 0})
    assert "evil" not in sys.modules and not (run / "ran").exists()
    assert worldlab.load(run, trust_env="evil").config.core.env.id == "evil:CartPole-v1"


@pytest.mark.parametrize("id", ["CartPole-v1", "worldlab/Branch-v0"])
def test_an_installed_environment_needs_no_word(id, tmp_path):
    registry = load_registry()
    config = resolve_saved(stranger(tmp_path, id), registry)
    assert env_module(config.core.env.id, registry) is None


def test_an_environment_that_the_user_chooses_needs_no_word(tmp_path):
    registry, run = load_registry(), stranger(tmp_path, "evil:CartPole-v1")
    assert resolve_saved(run, registry, {"env": {"id": "other:Thing-v0"}}).core.env.id == "other:Thing-v0"
    assert resolve_saved(run, registry, {"env": {"workers": 0}}, ("evil",)).core.env.workers == 0
