"""How a run ends: by signals while its environment hangs, by a second Ctrl-C, by whatever an environment raises."""

from __future__ import annotations

import json
import shlex
import signal
import time
from pathlib import Path

import pytest
from warm_process import run_worldlab

from worldlab.runs.checkpoint import latest_valid

pytestmark = pytest.mark.slow

ENVIRONMENT = '''
"""Step 60 of this environment goes wrong in the way that FAULT says."""
import os
import signal
import sys
import time
from pathlib import Path

import gymnasium
import numpy as np


class Faulty(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(0, 10, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        self.count += 1
        if self.steps == 1:
            print("print")
            os.write(1, b"descriptor\\n")
            os.system("echo program")
        if self.steps == 60:
            self.fail(os.environ["FAULT"])
        return np.full(2, self.count, np.float32), 1.0, self.count == 10, False, {}

    def fail(self, fault):
        if fault == "none":
            return
        if fault == "exit":
            sys.exit(7)
        if fault == "interrupt":
            raise KeyboardInterrupt
        if fault == "base":
            raise BaseException("odd")
        if fault == "memory":
            raise MemoryError
        signals = {"SIGTERM": [signal.SIGTERM], "SIGHUP": [signal.SIGHUP], "twice": [signal.SIGINT] * 2}[fault]
        for number in signals:
            time.sleep(0.1)
            Path("sent").write_text(str(time.time()))
            os.kill(os.getppid() if "WORKER" in os.environ else os.getpid(), number)
        time.sleep(1000)


gymnasium.register("Faulty-v0", Faulty)
'''
TINY = shlex.split("""
--preset laptop --device cpu --steps 96 --train.prefill 32 --train.pretrain 2 --train.ratio 0.05 --train.batch-size 2
--train.batch-length 8 --train.starts 8 --train.threads 1 --agent.horizon 3 --agent.units 16 --encoder.units 16
--dynamics.memory 16 --dynamics.units 16 --model.units 16 --eval.every 0 --eval.final-episodes 1 --log.every 16
--log.checkpoint 40 --log.pictures 0 --track none --run run
""")


def train(place: Path, monkeypatch, fault: str, *flags: str) -> tuple[int, str, str]:
    (place / "faulty.py").write_text(ENVIRONMENT)
    monkeypatch.setenv("FAULT", fault)
    return run_worldlab(place, "train", "--env", "faulty:Faulty", *TINY, *flags)


def ending(place: Path) -> tuple[str, int, int]:
    """The status and the step of run.json, and the step of the newest checkpoint, which is valid."""
    facts = json.loads((place / "run" / "run.json").read_text())
    return facts["status"], facts["step"], latest_valid(place / "run" / "checkpoints").step


@pytest.mark.parametrize("workers", [0, 1])
def test_a_signal_ends_a_run_whose_environment_hangs(workers, tmp_path, monkeypatch):
    number = signal.SIGHUP
    if workers:
        monkeypatch.setenv("WORKER", "1")
    code, _, err = train(tmp_path, monkeypatch, number.name, "--env.workers", str(workers))
    assert (code, *ending(tmp_path)) == (128 + number, "stopped", 59, 59)  # the last whole decision
    assert "stopped at step 59, checkpoint saved" in err and "Traceback" not in err


def test_a_second_ctrl_c_ends_a_run_at_once(tmp_path, monkeypatch):
    code, _, err = train(tmp_path, monkeypatch, "twice")
    seconds = time.time() - float((tmp_path / "sent").read_text())
    assert (code, *ending(tmp_path)) == (130, "interrupted", 59, 40)
    assert "interrupted at step 59; the last checkpoint, of step 40, is whole; continue with --run" in err
    assert "Traceback" not in err and seconds < 2  # the signal's way through the busy machine of a test included
    code, out, _ = run_worldlab(
        tmp_path, "train", "--run", "run", "--resume", "--trust-env", "faulty", "--steps", "64", "--json"
    )
    assert code == 0 and json.loads(out)["env_steps"] == 64


@pytest.mark.parametrize(("fault", "code"), [("exit", 4), ("interrupt", 4), ("base", 4), ("memory", 9)])
def test_what_an_environment_raises_is_named_and_costs_nothing(fault, code, tmp_path, monkeypatch):
    got, _, err = train(tmp_path, monkeypatch, fault, "--env.restarts", "0")
    assert (got, *ending(tmp_path)) == (code, "failed", 59, 59)
    assert "env 0 (Faulty-v0) failed in step 10 of its episode: " in err
    assert "cause: in the main process, after step 59 of the run: Traceback" in err


def test_a_run_goes_on_after_a_crash(tmp_path, monkeypatch):
    code, out, err = train(tmp_path, monkeypatch, "exit", "--json")
    assert (code, *ending(tmp_path)) == (0, "finished", 96, 96) and json.loads(out)["env_steps"] == 96
    assert "SystemExit; restarted, 2 more allowed (env.restarts)" in err
    lengths = [int(row.split(",")[1]) for row in (tmp_path / "run" / "monitor.csv").read_text().splitlines()[2:]]
    assert lengths == [10] * 8  # 80 steps; the other 16 are of the broken and of the last episode


def test_a_strict_run_restarts_nothing(tmp_path, monkeypatch):
    code, *_ = train(tmp_path, monkeypatch, "exit", "--strict")
    assert (code, *ending(tmp_path)) == (4, "failed", 59, 59)


@pytest.mark.parametrize("workers", ["0", "1"])
def test_with_json_stdout_is_one_object_whatever_an_environment_prints(workers, tmp_path, monkeypatch):
    code, out, err = train(tmp_path, monkeypatch, "none", "--json", "--env.workers", workers, "--steps", "40")
    assert code == 0 and out.endswith("}\n") and json.loads(out)["env_steps"] == 40
    for words in ("print\n", "descriptor\n", "program\n"):
        assert words in err
