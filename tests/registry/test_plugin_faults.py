"""Tests of all plugin faults: a broken plugin affects nothing else. The table lists where each fault is tested.

| fault | proof |
|---|---|
| E1 import fails | test_registry: test_a_broken_plugin_is_recorded_and_affects_no_other; here: one good among twelve broken |
| E1 import fails, plugin requested | here: test_a_requested_broken_plugin_is_exit_3 |
| E2 raises in a hook | test_registry: cases "hook raises", "hook exits", "keyword", "role"; there is one hook, and it is required |
| E3 sys.exit, KeyboardInterrupt | test_registry: cases "exit", "interrupt", "hook exits"; here and test_dry_run: in a component |
| E3 os._exit, a segfault, kill -9 | tests/test_end_to_end.py: a killed run resumes from its last checkpoint |
| E4 duplicate names | test_registry: test_the_later_of_two_plugins_with_a_name_is_broken, test_no_plugin_can_shadow_a_builtin |
| E5 misspelt hook | test_registry: test_nine_of_ten_misspelt_hooks_are_recognised |
| E6 another API | test_registry: cases "future api", "old api"; test_compose: test_an_api_mismatch_is_said_with_both_versions |
| E7 wrong shapes, dtypes, devices, NaN | test_dry_run; here: rejected by `worldlab train` before it collects |
| E8 side effects of an import | here: eight plugins with side effects, at registration and in a component's module |
| E9 slow imports | here: --help loads none of fifty; a slow registration is reported; test_registry: WORLDLAB_PLUGINS=off |
| E10 plugin removed or changed since | here: missing, changed, strict |
| E11 state that cannot be saved | test_dry_run: cases state_dict, the agent's, a sparse one, an open file |
| another process | here: env workers load the same files; test_registry: test_a_file_is_a_plugin_here_and_in_another_process |
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import random
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from plugin_kit import BROKEN, HOOK, add_dist, fresh, registers

from worldlab import cli
from worldlab.config.resolve import resolve
from worldlab.env.pool import EnvPool
from worldlab.errors import PluginError
from worldlab.registry import Registration, load_registry
from worldlab.runs.folder import RunFolder
from worldlab.training import train
from worldlab.training.session import open_env

TINY = shlex.split("""
--preset laptop --env Pendulum --device cpu --steps 80 --train.prefill 40 --train.pretrain 1 --train.ratio 0.05
--train.batch-size 2 --train.batch-length 8 --train.starts 8 --train.threads 1 --agent random --eval.every 0
--eval.final-episodes 1 --dynamics.memory 16 --dynamics.units 16 --decoder.units 16 --log.pictures 0 --track none
""")
CONFIG = """
from worldlab import Config, hookimpl


class GoodConfig(Config):
    kind: str = "gaussian"
    latent_dim: int = 8
    groups: int = 2
    classes: int = 4


@hookimpl
def worldlab_register(register):
    register.encoder("good", "TARGET:Good", config=GoodConfig, summary="A linear posterior.")
"""
MODEL = """
from worldlab.testing.reference import ReferenceEncoder


class Good(ReferenceEncoder):
    pass
"""


@pytest.fixture
def site(tmp_path, monkeypatch) -> Path:
    """A folder of installed distributions, beside the real worldlab."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delenv("WORLDLAB_PLUGINS", raising=False)
    monkeypatch.chdir(tmp_path)
    return folder


def add_good(site: Path, model: str = MODEL, version: str = "1.0") -> Path:
    """Install worldlab-good, whose encoder `good` trains. Returns its folder of metadata."""
    module = fresh("good_model")
    (site / f"{module}.py").write_text(model)
    add_dist(site, "worldlab-good", CONFIG.replace("TARGET", module), version=version)
    return site / f"worldlab_good-{version}.dist-info"


def worldlab(site: Path, command: list[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(site)}
    return subprocess.run([*command, *arguments], cwd=site.parent, capture_output=True, text=True, env=env, timeout=240)


# ---- E1: twelve broken ones and a good one ----


@pytest.mark.slow
def test_one_good_among_twelve_broken_trains_and_resumes_in_another_version(site, worldlab_command):
    info = add_good(site)
    for number, (source, _, _) in enumerate(list(BROKEN.values())[:12]):
        add_dist(site, f"worldlab-bad{number}", source, version=f"0.{number}")
    listed = worldlab(site, worldlab_command, "plugins", "--json")
    assert listed.returncode == 0, listed.stderr
    rows = json.loads(listed.stdout)
    ours = [row for row in rows["components"] + rows["broken"] if row["distribution"] != "worldlab"]
    assert [row["status"] for row in ours] == ["ok"] + ["broken"] * 12
    assert all(row["reason"] and row["where"] and row["version"] for row in ours[1:])
    done = worldlab(site, worldlab_command, "train", *TINY, "--encoder", "good", "--run", "run", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["env_steps"] == 80, done.stderr
    told = json.loads((site.parent / "run" / "run.json").read_text())
    first = {"name": "good", "distribution": "worldlab-good", "version": "1.0", "sha256": None}
    assert told["components"]["encoder"] == first and told["changes"] == []
    _upgrade(info, "1.1")
    done = worldlab(site, worldlab_command, "train", "--resume", "--run", "run", "--steps", "120")
    assert done.returncode == 0, done.stderr
    assert "encoder is now from worldlab-good 1.1; the run was made with worldlab-good 1.0" in done.stderr
    told = json.loads((site.parent / "run" / "run.json").read_text())
    assert told["components"]["encoder"]["version"] == "1.1"
    (change,) = told["changes"]
    assert (change["role"], change["was"], change["now"]) == ("encoder", "worldlab-good 1.0", "worldlab-good 1.1")
    assert change["step"] == 80


def _upgrade(info: Path, version: str) -> None:
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: worldlab-good\nVersion: {version}\n")
    info.rename(info.with_name(f"worldlab_good-{version}.dist-info"))


def test_a_requested_broken_plugin_is_exit_3(site, capsys):
    path = add_dist(site, "worldlab-bad", "x = 1\n\n1 / 0\n", version="0.3", entry="shiny")
    assert cli.main(["train", *TINY, "--encoder", "shiny"]) == 3
    first, cause, fix = capsys.readouterr().err.splitlines()
    assert first == (
        "plugin worldlab-bad 0.3 (encoder 'shiny') cannot be imported: ZeroDivisionError: division by zero"
    )
    assert cause == f"cause: entry point shiny = {path.stem}, at {path}:3" and "pip uninstall worldlab-bad" in fix


# ---- E3, E7: what a component does when it is used ----


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("def __init__(self, *_): raise SystemExit(0)", "cannot be built: 0"),
        ("def __init__(self, *_): 1 / 0", "cannot be built: division by zero"),
        ("def embed(self, obs): return super().embed(obs)[None]", "embed gives [1, 3, "),
        ("def infer(self, embed, memory, generator): import sys; sys.exit(0)", "infer raised SystemExit: 0"),
    ],
)
def test_a_component_that_fails_is_exit_3_before_anything_is_collected(site, capsys, body, says):
    add_good(site, MODEL.replace("pass", body))
    assert cli.main(["train", *TINY, "--encoder", "good", "--run", "run"]) == 3
    err = capsys.readouterr().err
    line = next(line for line in err.splitlines() if line.startswith("plugin "))
    assert line.startswith(f"plugin worldlab-good 1.0 (encoder 'good') {says}")
    assert json.loads(Path("run/run.json").read_text())["status"] == "failed"
    assert not [file for file in Path("run/replay").rglob("*") if file.is_file() and file.stat().st_size > 4096]


# ---- E8: imports with side effects ----

TAMPERING = {
    "random": ("import random; random.seed(1)", "the global random state of random"),
    "numpy": ("import numpy; numpy.random.seed(1)", "the global random state of numpy.random"),
    "torch": ("import torch; torch.manual_seed(1)", "the global random state of torch"),
    "threads": ("import torch; torch.set_num_threads(torch.get_num_threads() + 1)", "torch's number of threads"),
    "dtype": ("import torch; torch.set_default_dtype(torch.float64)", "torch's default dtype"),
    "gradients": ("import torch; torch.set_grad_enabled(False)", "torch's gradient mode"),
    "signals": ("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)", "signal handlers"),
    "environment": ("import os; os.environ['OMP_NUM_THREADS'] = '7'", "environment variables"),
    "start method": (
        "import multiprocessing as m; m.set_start_method('forkserver', force=True)",
        "the start method of multiprocessing",
    ),
    "folder": ("import os; os.chdir('/')", "the working folder"),
}


def global_state() -> list[object]:
    return [
        random.getstate(),
        repr(np.random.get_state()),
        torch.get_rng_state().tolist(),
        torch.get_num_threads(),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        signal.getsignal(signal.SIGTERM),
        dict(os.environ),
        multiprocessing.get_start_method(allow_none=True),
        os.getcwd(),
    ]


@pytest.mark.parametrize("case", TAMPERING)
def test_side_effects_of_a_registration_are_undone_and_the_plugin_is_rejected(site, case):
    code, what = TAMPERING[case]
    add_dist(site, "worldlab-tamper", f"{code}\n{registers(('agent', 'tamper'))}")
    before = global_state()
    registry = load_registry()
    assert global_state() == before
    (broken,) = registry.broken
    assert broken.distribution == "worldlab-tamper"
    assert broken.reason.startswith(f"changes {what}") and broken.reason.endswith("when imported (restored)")
    assert broken.fix


@pytest.mark.parametrize("case", [case for case in TAMPERING if case != "environment"])
def test_side_effects_of_a_component_are_undone_and_reported(site, caplog, case):
    code, what = TAMPERING[case]
    module = fresh("tamper")
    (site / f"{module}.py").write_text(f"{code}\nThing = 5\n")
    entry = Registration("agent", "tamper", f"{module}:Thing", None, "s", 1, "worldlab-tamper", "0.2", "test")
    before = global_state()
    with caplog.at_level(logging.WARNING, "worldlab"):
        assert entry.load() == 5
    assert global_state() == before
    assert f"plugin worldlab-tamper 0.2 (agent 'tamper') changes {what} when imported (restored):" in caplog.text


def test_the_built_in_families_have_no_side_effects():
    """Runs in a separate process, because this one has imported everything already."""
    code = (
        "import logging, sys; logging.basicConfig(stream=sys.stdout, format='%(message)s')\n"
        "from worldlab.registry import load_registry; registry = load_registry()\n"
        "print(len([entry.load() for entry in registry.registrations()]), len(registry.broken))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"{len(load_registry().registrations())} 0\n"


# ---- E9: slow imports ----


def test_help_loads_none_of_fifty_plugins(site):
    mark = "import pathlib; pathlib.Path(__file__).with_suffix('.loaded').touch()\n"
    for number in range(50):
        add_dist(site, f"worldlab-many{number}", mark + registers(("agent", f"many{number}")))
    code = (
        "import sys; from worldlab.cli import main; main(['--help'])\n"
        "print(sorted({'pluggy', 'pydantic', 'importlib.metadata', 'worldlab.registry', 'torch'} & set(sys.modules)))"
    )
    env = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "-S", "-c", _SITE + code], capture_output=True, text=True, env=env, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"  # not even the list of what is installed was read
    assert not list(site.glob("*.loaded"))
    listed = subprocess.run(
        [sys.executable, "-m", "worldlab", "plugins", "--json"], capture_output=True, text=True, env=env, check=True
    )
    assert len(list(site.glob("*.loaded"))) == 50  # the mark works
    assert len([row for row in json.loads(listed.stdout)["components"] if row["name"].startswith("many")]) == 50


_SITE = f"import sys; sys.path += {[path for path in sys.path if path]!r}\n"
"""The paths of this interpreter without its site module, whose .pth files may import anything."""


def test_a_slow_registration_is_reported_and_works(site, capsys, monkeypatch):
    (site / "tensorflow.py").write_text("")
    monkeypatch.setitem(sys.modules, "tensorflow", None)  # undone in reverse: afterwards the name is as it was before
    monkeypatch.delitem(sys.modules, "tensorflow")
    add_dist(site, "worldlab-slow", f"import time, tensorflow\ntime.sleep(0.55)\n{registers(('agent', 'slow'))}")
    assert cli.main(["plugins", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert "slow" in [row["name"] for row in listed["components"]]
    (slow,) = [row for row in listed["slow"] if row["distribution"] == "worldlab-slow"]
    assert re.fullmatch(r"takes \d+\.\d s to register and imports tensorflow", slow["cost"])


# ---- E10: gone, or another one than the run was made with ----


def run_made_with(distribution: str, version: str, name: str = "gone", strict: bool = False) -> Path:
    """A run folder whose encoder `name` came from that distribution."""
    config = resolve(load_registry(), presets=("laptop",), flags={"encoder": {"name": "vae"}, "strict": strict})
    folder = Path("made")
    folder.mkdir()
    (folder / "config.toml").write_text(config.to_toml().replace('name = "vae"', f'name = "{name}"', 1))
    was = {"name": name, "distribution": distribution, "version": version}
    (folder / "run.json").write_text(json.dumps({"status": "stopped", "components": {"encoder": was}}))
    return folder


@pytest.mark.parametrize(
    ("distribution", "version", "fix"),
    [
        ("worldlab-gone", "0.3.1", "pip install worldlab-gone==0.3.1"),
        ("file:gone.py", "sha256:0123456789ab", "--plugin made/plugins/gone.py "),
        ("gone; rm -rf", "1", "install 'gone; rm -rf 1'"),  # a run is anybody's file: no command is made of such a name
    ],
)
def test_the_error_for_a_missing_plugin_names_what_to_install(site, capsys, distribution, version, fix):
    folder = run_made_with(distribution, version)
    (site / "gone.py").write_text("raise SystemError('imported because a run named it')\n")
    for command in (["train", "--resume", "--run", str(folder)], ["eval", str(folder)], ["dream", str(folder)]):
        assert cli.main(command) == 3, command
        lines = capsys.readouterr().err.splitlines()
        first = next(line for line in lines if line.startswith("run 'made' needs encoder 'gone' from "))
        assert f"{distribution} {version}" in first
        assert next(line for line in lines if line.startswith("fix: ")).startswith(f"fix: {fix}")
    assert "gone" not in sys.modules


def test_the_error_for_a_broken_plugin_names_the_reason(site, capsys):
    source = HOOK + "    register.encoder('gone', 'a:B', config=None, summary='s')\n    1 / 0\n"
    add_dist(site, "worldlab-gone", source, version="0.3.1")
    folder = run_made_with("worldlab-gone", "0.3.1")
    assert cli.main(["train", "--resume", "--run", str(folder)]) == 3
    assert "plugin worldlab-gone 0.3.1 (encoder 'gone') fails in worldlab_register" in capsys.readouterr().err


def test_the_error_for_a_run_without_a_record_lists_what_is_installed(site, capsys):
    folder = run_made_with("worldlab-gone", "0.3.1")
    (folder / "run.json").write_text('{"components": [1, 2]}')
    assert cli.main(["train", "--resume", "--run", str(folder)]) == 3
    assert "no encoder named 'gone'.\ncause: installed: " in capsys.readouterr().err


def test_a_strict_run_rejects_another_version_and_others_warn(site, caplog, monkeypatch):
    folder = run_made_with("worldlab", "0.0.1", name="vae", strict=True)
    registry = load_registry()
    strict = resolve(registry, files=[folder / "config.toml"])
    with pytest.raises(PluginError) as caught:
        train.train(strict, registry, run=folder, resume=True)
    now = registry.get("encoder", "vae").version
    assert caught.value.message == (f"encoder is now from worldlab {now}; this strict run was made with worldlab 0.0.1")
    assert caught.value.fix == "pip install worldlab==0.0.1, or resume with --no-strict" and caught.value.exit_code == 3
    assert RunFolder.open(folder).read_run_json()["status"] == "stopped"  # nothing was touched
    loose = resolve(registry, files=[folder / "config.toml"], flags={"strict": False})
    monkeypatch.setattr("worldlab.training.session.build", lambda *_: 1 / 0)  # the warning comes before
    with caplog.at_level(logging.WARNING, "worldlab"), pytest.raises(ZeroDivisionError):
        train.train(loose, registry, run=folder, resume=True)
    assert f"encoder is now from worldlab {now}; the run was made with worldlab 0.0.1" in caplog.text


# ---- other processes ----

ENV_FILE = """
import gymnasium
import numpy as np

from worldlab import hookimpl


class Counter(gymnasium.Env):
    observation_space = gymnasium.spaces.Dict({"vector": gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)})
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0.0
        return {"vector": np.array([0.0], np.float32)}, {}

    def step(self, action):
        self.count += 1
        return {"vector": np.array([self.count], np.float32)}, self.count, False, False, {}


class Adapter:
    def names(self):
        return ["Counter-v0"]

    def resolve(self, id):
        return "Counter-v0" if id == "counter" else None

    def make(self, id, settings):
        return Counter()


@hookimpl
def worldlab_register(register):
    register.env("counter", f"{__name__}:Adapter", config=None, summary="Counts.")
"""


@pytest.mark.slow
def test_workers_load_the_plugin_files_of_the_environment(site, tmp_path):
    path = tmp_path / f"{fresh('counter')}.py"
    path.write_text(ENV_FILE)
    registry = load_registry([path])
    config = resolve(registry, presets=("debug",), flags={"env": {"id": "counter"}})
    env_id, make = open_env(config, registry)
    assert env_id == "Counter-v0"
    with EnvPool(make, 2, workers=2) as pool:
        pool.reset()
        assert pool.step([0, 1]).reward.tolist() == [1.0, 1.0]
        assert pool.step([0, 1]).obs["vector"].tolist() == [[2.0], [2.0]]
