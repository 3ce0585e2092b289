"""Whatever ends a run, the same command goes on, and a strict run then ends with the bytes of an uninterrupted one.

benchmarks/reliability.py does this hundreds of times; here are one chain of each kind.
"""

from __future__ import annotations

import json
import random
import signal
from pathlib import Path

import pytest
from interrupted_runs import TINY, leftovers, outcome, train
from warm_process import run_worldlab

import worldlab
from worldlab.config.resolve import resolve
from worldlab.errors import CheckpointError
from worldlab.registry import open_registry
from worldlab.runs.checkpoint import list_checkpoints
from worldlab.training import saver
from worldlab.training import train as training
from worldlab.training.loop import Loop

pytestmark = pytest.mark.slow

UNSEEDED = '''
"""An environment whose episodes do not depend on the seed."""
import random

import gymnasium
import numpy as np


class Unseeded(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(0, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return np.array([random.random(), 0], np.float32), {}

    def step(self, action):
        self.count += 1
        return np.array([random.random(), 0], np.float32), 1.0, self.count == 9, False, {}


gymnasium.register("Unseeded-v0", Unseeded)
'''


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def whole(place: Path) -> tuple[dict, float]:
    """What an uninterrupted run leaves, and how long it takes. `--resume` starts it, as it does every run here."""
    ended = train(place, "whole", TINY)
    assert ended.code == 0, ended.err
    assert "there is no run 'whole' yet: it starts now" in ended.err
    return outcome(place / "whole"), ended.seconds


def check_same(place: Path, run: str, whole: dict) -> None:
    ended = train(place, run, TINY)
    assert ended.code == 0, ended.err
    found = outcome(place / run)
    assert {key for key in whole.keys() | found.keys() if found.get(key) != whole.get(key)} == set()
    assert leftovers(place / run) == []
    facts = json.loads((place / run / "run.json").read_text())
    assert facts["status"] == "finished" and all(one["exact"] and one["why"] == [] for one in facts["resumed"])


def test_a_disk_that_fails_and_kills_within_writes_change_no_byte(place, whole):
    chain = [
        ("write.half:6=kill", -9),  # before the run is more than a folder
        ("create.before:9=errno:ENOSPC", 6),  # a file of the first checkpoint
        ("rename.before:1=kill", -9),  # the checkpoint is complete, but has no name yet
        ("replace.before:4=errno:EIO", 6),
        ("fsync.before:30=errno:ENOSPC", 6),
        ("rename.after:2=kill", -9),
    ]
    for failpoint, code in chain:
        ended = train(place, "failed", TINY, failpoint=failpoint)
        assert ended.code == code and "Traceback" not in ended.err, (failpoint, ended)
    check_same(place, "failed", whole[0])


def test_kills_and_signals_at_random_moments_change_no_byte(place, whole):
    moments = random.Random()  # another test each time; the message shows the moments
    begun = []
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        after = moments.uniform(0.2, 0.9) * whole[1]
        ended = train(place, "killed", TINY, after=after, number=number)
        begun.append((number, after, ended.code))
        assert ended.code in (0, -number, 128 + number), (begun, ended.err)
    print(begun)
    check_same(place, "killed", whole[0])


SYSTEMS = [
    "--dynamics ensemble --dynamics.count 2 --agent.pessimism 0.1 --agent.curiosity 0.1 --agent.confidence 1",
    "--dynamics imle",
    "--encoder clockwork --dynamics clockwork",
]
"""Named systems with state of their own in a run."""


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_named_system_that_is_killed_between_checkpoints_changes_no_byte(tmp_path, system):
    flags = [*TINY, *system.split()]
    assert train(tmp_path, "whole", flags).code == 0
    assert train(tmp_path, "killed", flags, failpoint="rename.after:2=kill").code == -9
    ended = train(tmp_path, "killed", flags)
    assert ended.code == 0, ended.err
    whole, found = outcome(tmp_path / "whole"), outcome(tmp_path / "killed")
    assert {key for key in whole.keys() | found.keys() if found.get(key) != whole.get(key)} == set()


def test_a_run_that_saved_nothing_starts_again_from_its_own_settings(place, whole):
    ended = train(place, "early", TINY, failpoint="create.before:8=kill")
    assert ended.code == -9 and not list_checkpoints(place / "early" / "checkpoints")
    code, _, err = run_worldlab(place, "train", "--run", "early", "--resume")
    assert code == 0 and "run 'early' had saved nothing yet: it starts again from step 0" in err
    assert outcome(place / "early") == whole[0]


def test_a_misspelt_run_does_not_start_one_of_defaults(place, whole):
    code, _, err = run_worldlab(place, "train", "--run", "whoel", "--resume")
    assert code == 2 and "no run 'whoel'." in err and not (place / "whoel").exists()


def test_an_environment_that_cannot_repeat_is_said_to_go_on_approximately(place, monkeypatch):
    (place / "unseeded.py").write_text(UNSEEDED)
    flags = [*TINY, "--env", "unseeded:Unseeded", "--train.pretrain", "0", "--eval.every", "0"]
    assert train(place, "unseeded", flags, failpoint="rename.after:2=kill").code == -9
    with monkeypatch.context() as context, pytest.raises(CheckpointError, match="cannot continue exactly") as refused:
        context.syspath_prepend(place)
        config = resolve(open_registry(()), files=[place / "unseeded" / "config.toml"])
        training.train(config, open_registry(()), run=place / "unseeded", resume=True, exact=True)
    assert "did not repeat its episode" in (refused.value.cause or "")
    ended = train(place, "unseeded", flags)
    why = "new episodes: environment 0 did not repeat its episode (step 0)"
    assert ended.code == 0 and f"resumed approximately: {why}" in ended.err
    (facts,) = json.loads((place / "unseeded" / "run.json").read_text())["resumed"]
    assert facts == {"step": facts["step"], "exact": False, "why": [why]}


LEARNERS = {
    "sac": "--env Pendulum --agent.every 4 --agent.steps 40",
    "cma": "--agent.where both --agent.every 2 --agent.population 4 --agent.rollouts 2",
}


@pytest.mark.parametrize("agent", LEARNERS)
def test_agents_that_learn_by_themselves_go_on_exactly_too(agent, place):
    flags = [*TINY, "--agent", agent, "--agent.horizon", "3", *LEARNERS[agent].split()]
    assert train(place, f"{agent}-whole", flags).code == 0
    for failpoint in ("rename.after:3=kill", "rename.after:2=kill"):
        assert train(place, agent, flags, failpoint=failpoint).code == -9
    ended = train(place, agent, flags)
    assert ended.code == 0 and "approximately" not in ended.err, ended.err
    assert outcome(place / agent) == outcome(place / f"{agent}-whole")


@pytest.mark.usefixtures("blank_plots")
def test_a_signal_during_an_evaluation_leaves_it_to_the_resumed_run(tmp_path, monkeypatch, place, whole):
    settings = settings_of(place / "whole")
    evaluate = Loop._evaluate

    def interrupted(self, episodes, record=False):
        self.signals.append(signal.SIGTERM)
        return evaluate(self, episodes, record)

    with monkeypatch.context() as context:
        context.setattr(Loop, "_evaluate", interrupted)
        for _ in range(2):  # the second time, it is interrupted again
            with pytest.raises(KeyboardInterrupt):
                worldlab.train(config=settings, run=tmp_path / "run", resume=True)
    worldlab.train(config=settings, run=tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == (place / "whole" / "metrics.jsonl").read_bytes()


@pytest.mark.usefixtures("blank_plots")
def test_checkpoints_saved_because_of_the_time_are_the_first_to_go(tmp_path, monkeypatch, place, whole):
    monkeypatch.setattr(saver, "SECONDS", 0.0)
    monkeypatch.setattr(saver, "SHARE", 0)
    saved = []
    save = saver.save
    monkeypatch.setattr(saver, "save", lambda *args, **kinds: saved.append(save(*args, **kinds)) or saved[-1])
    steps = {"log.checkpoint": 30, "log.keep": 3, "steps": 96}
    worldlab.train(config=settings_of(place / "whole"), settings=steps, run=tmp_path / "run")
    assert len(saved) > 90  # after every step and update
    kept = [path.name for _, path in list_checkpoints(tmp_path / "run" / "checkpoints")]
    assert kept == ["step-000000060", "step-000000090", "step-000000096"]
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == (place / "whole" / "metrics.jsonl").read_bytes()


def settings_of(run: Path) -> Path:
    return run / "config.toml"
