"""The whole tool through its command: what it writes, what it prints, how it ends.

The installed command runs where the process itself is tested: its start, its signals, its hash seed. Elsewhere a fork of a
process that has imported torch runs the same command, in a tenth of the time.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest
from warm_process import warm_worldlab

pytestmark = pytest.mark.slow

TINY = shlex.split("""
--preset laptop --device cpu --steps 96 --train.prefill 48 --train.pretrain 2 --train.ratio 0.05 --train.batch-size 2
--train.batch-length 8 --train.starts 8 --train.threads 1 --agent.horizon 3 --agent.units 16 --encoder.width 2
--encoder.units 16 --dynamics.memory 16 --dynamics.units 16 --decoder.width 2 --decoder.units 16 --model.units 16
--eval.every 0 --eval.final-episodes 1 --env.time-limit 30 --log.every 16 --log.checkpoint 32 --log.pictures 0
--track none
""")
"""A run of some three seconds, most of which is importing torch. A flag given after these wins."""

COUNTER = '''
"""A world that counts: reward 1 a step, ten steps an episode."""
import gymnasium
import numpy as np


class Counter(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(0, 10, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    width = 2

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.count += 1
        width = 2 if self.count < 5 else self.width
        return np.full(width, self.count, np.float32), 1.0, self.count == 10, False, {}


class Broken(Counter):
    width = 3


gymnasium.register("Counter-v0", Counter)
gymnasium.register("Broken-v0", Broken)
'''

POISON = '''
"""An encoder that is honest about everything but its loss of long sequences."""
import torch
from worldlab import hookimpl
from worldlab_vae.configs import VAEEncoderConfig
from worldlab_vae.encoder import VAEEncoder


class PoisonEncoder(VAEEncoder):
    def losses(self, ctx, player="main"):
        right = ctx.row.shape[1] <= 4  # what a run asks of its parts before it begins
        return {"poison": ctx.features.sum(-1) * (0.0 if right else torch.nan)}


@hookimpl
def worldlab_register(register):
    register.encoder("poison", f"{__name__}:PoisonEncoder", config=VAEEncoderConfig, summary="NaN.")
'''


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The folder commands run in; the module `counter` can be imported there."""
    (tmp_path / "counter.py").write_text(COUNTER)
    return tmp_path


def start(command: list[str], place: Path, *arguments: str, group: bool = False) -> subprocess.Popen[str]:
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(place), os.environ.get("PYTHONPATH", "")])}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([*command, *arguments], cwd=place, env=env, text=True, start_new_session=group, **pipes)


def finish(process: subprocess.Popen[str], code: int = 0) -> tuple[str, str]:
    """Wait, check the exit code, return stdout and stderr."""
    try:
        out, err = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == code, f"exit code {process.returncode}\n{out}\n{err}"
    return out, err


def run(place: Path, *arguments: str, code: int = 0, command: list[str] | None = None) -> tuple[str, str]:
    """Run the command to its end, check the exit code, return stdout and stderr. command: the installed one, not a fork."""
    return finish(start(command or warm_worldlab(), place, *arguments), code)


def ask(place: Path, *arguments: str, command: list[str] | None = None) -> dict:
    """Run the command with --json: exactly one line on stdout, a JSON object."""
    out, _ = run(place, *arguments, "--json", command=command)
    assert out.count("\n") == 1
    return json.loads(out)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def check_folder(run: Path, result: dict, steps: int = 96) -> None:
    """The files of a finished run and what scripts read from them."""
    entries = {path.name for path in run.iterdir()} - {"lock", "plugins"}
    expected = {"config.toml", "run.json", "result.json", "metrics.jsonl", "perf.jsonl", "monitor.csv", "digests.json"}
    assert entries == expected | {"replay", "checkpoints", "videos"}
    assert json.loads((run / "result.json").read_text()) == result
    assert result["env_steps"] == steps and result["updates"] >= 2 and result["wall_seconds"] > 0
    assert len(result["returns"]) == result["episodes"] and all(map(math.isfinite, result["returns"]))
    facts = json.loads((run / "run.json").read_text())
    assert (facts["status"], facts["step"], facts["env"]) == ("finished", steps, result["env"])
    assert {"versions", "git", "seed", "device", "plugins", "parameters", "run_id"} <= facts.keys()
    assert facts["parameters"]["total"] > sum(facts["parameters"][role] for role in ("encoder", "dynamics", "decoder"))
    assert [row["step"] for row in lines(run / "metrics.jsonl")][-1] == steps
    assert list((run / "replay").glob("seg-*.log"))
    assert not [path for path in run.rglob("*") if path.suffix in (".pkl", ".pt", ".pth", ".pickle", ".zip")]
    check_manifest(run / "checkpoints" / f"step-{steps:09d}")
    with (run / "monitor.csv").open() as file:
        assert file.readline().startswith("#{")
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["r", "l", "t"]


def check_manifest(checkpoint: Path) -> None:
    """Every file of a checkpoint has the size and hash its manifest says."""
    files = json.loads((checkpoint / "manifest.json").read_text())["files"]
    assert {"model.safetensors", "agent.safetensors", "state.json"} <= files.keys()
    assert {path.name for path in checkpoint.iterdir()} == {*files, "manifest.json"}
    for name, facts in files.items():
        assert facts["sha256"] == sha256(checkpoint / name) and facts["bytes"] == (checkpoint / name).stat().st_size


@pytest.mark.parametrize(
    ("env", "full", "extra"),
    [
        ("CartPole", "CartPole-v1", []),
        ("Pendulum", "Pendulum-v1", ["--encoder", "cpc", "--dynamics", "cpc"]),
        ("HalfCheetah", "HalfCheetah-v5", ["--model.vector-scaling", "normalize"]),
        ("counter:Counter", "counter:Counter-v0", ["--env.num-envs", "2", "--env.workers", "1"]),
    ],
)
def test_vectors_end_to_end(worldlab_command, place, env, full, extra):
    command = worldlab_command if env == "CartPole" else None
    result = ask(place, "train", "--env", env, *TINY, *extra, "--run", "runs/one", command=command)
    assert result["env"] == full
    check_folder(place / "runs" / "one", result)
    trust = ["--trust-env", "counter"] if "counter" in env else []
    played = ask(place, "eval", "latest", "--episodes", "2", *trust)
    assert (played["episodes"], played["step"], played["env"]) == (2, 96, full)
    assert all(map(math.isfinite, played["returns"]))
    if "Counter" in full:
        assert played["returns"] == result["returns"] * 2 == [10.0, 10.0] and played["lengths"] == [10, 10]


@pytest.mark.parametrize(("encoder", "decoder", "drawn_by"), [("cpc", "vae", "decoder"), ("vae", "cpc", "probe")])
def test_pictures_end_to_end(place, encoder, decoder, drawn_by):
    parts = ("--encoder", encoder, "--decoder", decoder, "--env", "CarRacing", "--run", "runs/car")
    result = ask(place, "train", *parts, *TINY, "--env.size", "16", "--env.time-limit", "25")
    run = place / "runs" / "car"
    check_folder(run, result)
    assert {path.suffix for path in (run / "videos").iterdir()} == {".png", ".webp"}
    dreamt = ask(place, "dream", "runs/car", "--horizon", "6", "--count", "1", "--out", "dreams")
    assert dreamt["pictures_by"] == drawn_by
    assert len(dreamt["rmse_by_step"]["image"]) == 6 and all(0 < e <= 255 for e in dreamt["rmse_by_step"]["image"])
    assert sorted(path.suffix for path in (place / "dreams").iterdir()) == [".png", ".webp"]
    for path in map(Path, dreamt["files"]):
        head = (place / path).read_bytes()[:12]
        assert head.startswith(b"\x89PNG") or (head.startswith(b"RIFF") and head.endswith(b"WEBP"))


def test_vector_dreams_are_drawn_too(place):
    ask(place, "train", "--env", "counter:Counter", *TINY, "--run", "runs/one")
    dreamt = ask(place, "dream", "one", "--horizon", "4", "--count", "2", "--trust-env", "counter")
    assert len(dreamt["files"]) == 2 and all((place / file).suffix == ".png" for file in dreamt["files"])


def test_strict_runs_are_the_same_bits(worldlab_command, place):
    # "a" in a process of its own: its hash seed, which orders sets, is another one.
    for name, seed, command in (("a", "3", worldlab_command), ("b", "3", None), ("c", "4", None)):
        ask(place, "train", "--env", "CartPole", *TINY, "--strict", "--seed", seed, "--run", name, command=command)
    last = Path("checkpoints") / "step-000000096"
    for file in (Path("metrics.jsonl"), last / "model.safetensors", last / "agent.safetensors"):
        one, same, other = (sha256(place / name / file) for name in "abc")
        assert one == same and one != other, file


def wait_for_checkpoint(process: subprocess.Popen[str], run: Path, least: int) -> None:
    """Until a checkpoint of a step not below `least` is complete."""
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        steps = [int(path.parent.name[5:]) for path in run.glob("checkpoints/step-*/manifest.json")]
        if steps and max(steps) >= least:
            return
        time.sleep(0.02)
    process.kill()
    raise AssertionError(f"no checkpoint came: {process.communicate()}")


def test_a_killed_run_is_resumed_to_its_end(worldlab_command, place):
    arguments = ("train", "--env", "CartPole", *TINY, "--steps", "1000000", "--run", "run")
    process = start(worldlab_command, place, *arguments)
    wait_for_checkpoint(process, place / "run", 64)
    process.kill()
    process.communicate()
    assert not (place / "run" / "result.json").exists()
    done = max(int(path.parent.name[5:]) for path in place.glob("run/checkpoints/step-*/manifest.json"))
    steps = done + 40
    result = ask(place, "train", "--run", "run", "--resume", "--steps", str(steps))
    check_folder(place / "run", result, steps)
    training = [row["step"] for row in lines(place / "run" / "metrics.jsonl") if "updates" in row]
    assert training == list(range(16, steps + 1, 16))  # nothing lost, nothing twice


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_saves_and_says_so(worldlab_command, place, number):
    arguments = ("train", "--env", "CartPole", *TINY, "--steps", "1000000", "--run", "run")
    process = start(worldlab_command, place, *arguments)
    wait_for_checkpoint(process, place / "run", 64)
    process.send_signal(number)
    out, err = finish(process, 128 + number)
    facts = json.loads((place / "run" / "run.json").read_text())
    assert facts["status"] == "stopped" and out == ""
    check_manifest(place / "run" / "checkpoints" / f"step-{facts['step']:09d}")
    assert f"stopped at step {facts['step']}, checkpoint saved" in err and "--resume" in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_whole_group_saves_too(worldlab_command, place, number):
    """As `timeout`, a scheduler or a closing terminal sends it: the environment's process gets it as well."""
    arguments = ("train", "--env", "CartPole", *TINY, "--steps", "1000000", "--run", "run", "--env.workers", "1")
    process = start(worldlab_command, place, *arguments, group=True)
    wait_for_checkpoint(process, place / "run", 64)
    os.killpg(process.pid, number)
    finish(process, 128 + number)
    facts = json.loads((place / "run" / "run.json").read_text())
    assert facts["status"] == "stopped"
    check_manifest(place / "run" / "checkpoints" / f"step-{facts['step']:09d}")


def no_gpu() -> bool:
    import torch

    return not torch.cuda.is_available()


MISTAKES = [
    (
        "train --encoder cpk --env CarRacing",
        3,
        "no encoder named 'cpk'. Did you mean 'cpc'?",
    ),
    ("train --env CarRacin", 4, "no environment 'CarRacin'. Did you mean 'CarRacing-v3'?"),
    ("train --env CartPole --train.learning-rate -1", 2, "config: train.learning_rate = '-1' must be > 0"),
    ("train --env CartPole --train.lr 1", 2, "config: train.lr is not a setting. Did you mean train.learning_rate?"),
    ("train --env CartPole --run file/run TINY", 6, "cannot create the run folder 'run': Not a directory"),
    ("train --env CartPole --run full TINY", 2, "folder 'full' is not empty and holds no run"),
    (
        "train --env counter:Broken TINY",
        4,
        "env 0: env 'counter:Broken-v0', step 5 of the episode: obs['obs'] breaks the declared space",
    ),
    ("train --env counter:Absent TINY", 4, "module 'counter' registers no environment 'Absent'"),
    ("train --env absent:Env-v0 TINY", 4, "module 'absent' of the environment cannot be imported: ModuleNotFoundError"),
    (
        "train --env CartPole --plugin counter.py",
        3,
        "plugin file:counter.py defines no function worldlab_register(register)",
    ),
    ("eval full", 2, "no run 'full'."),
    ("eval empty", 7, "no checkpoint"),
    ("check-env counter:Broken", 4, ""),
]


@pytest.mark.parametrize(("line", "code", "first"), MISTAKES, ids=[line for line, _, _ in MISTAKES])
def test_a_mistake_has_one_clear_line(place, line, code, first):
    (place / "file").write_text("")
    for name, file in (("full", "notes.txt"), ("empty", "run.json")):
        (place / name).mkdir()
        (place / name / file).write_text("{}")
    (place / "empty" / "config.toml").write_text('[env]\nid = "CartPole"\n')
    arguments = [word for part in line.split() for word in (TINY if part == "TINY" else [part])]
    _, err = run(place, *arguments, code=code)
    check_message(err, first)


def check_message(err: str, first: str) -> None:
    """The message stands on one line of at most 100 characters, its fix after it; nobody is shown a traceback."""
    shown = err.splitlines()
    assert "Traceback" not in err
    if first:
        found = [index for index, line in enumerate(shown) if line.startswith(first)]
        assert found and len(shown[found[0]]) <= 100, err
        assert any(line.startswith("fix: ") for line in shown[found[0] + 1 :]), err


@pytest.mark.skipif("not no_gpu()", reason="this machine has a GPU")
def test_a_missing_gpu_is_said(place):
    _, err = run(place, "train", "--env", "CartPole", *TINY, "--device", "cuda", code=2)
    check_message(err, "device 'cuda' is not available here")


def test_a_diverged_run_ends_with_five(place):
    (place / "poison.py").write_text(POISON)
    flags = ("--plugin", "poison.py", "--encoder", "poison", "--train.pretrain", "12", "--run", "run")
    _, err = run(place, "train", "--env", "CartPole", *TINY, *flags, code=5)
    check_message(err, "loss 'encoder/poison' is not finite at update 10; 10 updates skipped in a row")
    assert json.loads((place / "run" / "run.json").read_text())["status"] == "diverged"


def test_two_writers_are_refused(place):
    from worldlab.runs.folder import RunFolder

    with RunFolder.create(place / "run"):
        _, err = run(place, "train", "--env", "CartPole", *TINY, "--run", "run", code=8)
    check_message(err, f"run 'run' is being written by PID {os.getpid()}")


def test_sb3_judges_an_agent_as_a_loop_by_hand_does(tmp_path):
    """evaluate_policy on two environments at once gives the returns of each played alone, filter state and all."""
    import gymnasium
    import numpy as np
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.monitor import Monitor
    from stable_baselines3.common.vec_env import DummyVecEnv

    from worldlab.cli.flags import read_flags
    from worldlab.config.resolve import resolve
    from worldlab.registry import load_registry
    from worldlab.training import session

    registry = load_registry()
    config = resolve(registry, flags=read_flags(["--env", "CartPole", *TINY, "--strict"]).settings)
    live = session.build(config, registry, tmp_path)
    try:
        acting = live.evaluator(0)
        makers = [lambda: Monitor(gymnasium.make("CartPole-v1")) for _ in range(2)]
        venv = DummyVecEnv(makers)
        venv.seed(5)
        returns, lengths = evaluate_policy(
            acting, venv, n_eval_episodes=6, deterministic=True, return_episode_rewards=True
        )
        expected = [episode for seed in (5, 6) for episode in by_hand(acting, gymnasium.make("CartPole-v1"), seed, 3)]
    finally:
        live.close()
    assert isinstance(returns, list) and sorted(returns) == sorted(expected) and returns == lengths
    assert len(set(np.asarray(expected).tolist())) > 1  # episodes that were all alike would prove little


def by_hand(acting, env, seed: int, episodes: int) -> list[float]:
    """Returns of whole episodes with one environment, a fresh state for each."""
    import numpy as np

    found = []
    for episode in range(episodes):
        obs, _ = env.reset(seed=seed if episode == 0 else None)
        state, total, done = None, 0.0, False
        while not done:
            action, state = acting.predict(np.asarray(obs)[None], state, deterministic=True)
            obs, reward, terminated, truncated, _ = env.step(action[0])
            total, done = total + float(reward), terminated or truncated
        found.append(total)
    return found
