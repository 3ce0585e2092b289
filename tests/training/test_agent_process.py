"""The agent's own process: the same updates as in one process, and a run that survives whatever happens to it."""

import json
import os
import signal
import threading
from typing import Any

import pytest
import torch
from config_kit import configured
from model_kit import batch_for, build_model, gen, weights
from static_kit import made
from trainer_toys import ToyAgent

import worldlab
from worldlab.agent import Agent
from worldlab.errors import DivergedError
from worldlab.model.schedule import JOINT
from worldlab.registry import PluginFiles
from worldlab.runs.checkpoint import latest_valid
from worldlab.settings import CoreSettings, TrainSettings
from worldlab.training import agent_process
from worldlab.training.agent_process import AgentProcess, can_learn_beside
from worldlab.training.trainer import BesideError, Generators, Trainer


class Dreams(ToyAgent):
    """It learns from dreams alone, as agents in a process of their own do."""

    reads_sequences = False


def trainer_of(agent: Any = None, **train) -> Trainer:
    model = build_model()
    settings = configured(TrainSettings, starts=10, **train)
    return Trainer(model, agent or Dreams(model.specs), settings, Generators(gen(1), gen(2)))


@pytest.fixture
def beside():
    opened = []

    def attach(trainer: Trainer) -> AgentProcess:
        process = AgentProcess(PluginFiles(), 1)
        trainer.beside = process
        opened.append(process)
        return process

    yield attach
    for process in opened:
        process.close()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_it_makes_the_updates_of_one_process_with_metrics_one_update_later(beside):
    """The oracle: the same model updates, each followed by the agent's with a generator seeded as the child's is."""
    trainer, alone = trainer_of(), trainer_of()
    process = beside(trainer)
    reported = []
    for seed in range(4):
        trainer.anneal(seed / 4)
        reported.append(trainer.update(batch_for(trainer.model, seed=seed)))
    trainer.synchronise()

    expected, learner = [], None
    for seed in range(4):
        alone.anneal(seed / 4)
        alone.updates += 1
        ctx, seen = alone.model.observe(batch_for(alone.model, seed=seed), alone.generators.model)
        alone._update_main(ctx, JOINT)
        experience = alone.starts(ctx, seen)
        if learner is None:  # the child's seed is drawn after the first starts
            source = gen(int(torch.randint(2**31, (), generator=alone.generators.agent)))
            learner = Trainer(alone.model, alone.agent, alone.settings, Generators(source, source))
        expected.append(learner.learn_alone(experience, seed / 4, seed + 1))
    assert same(weights(trainer.model), weights(alone.model)) and same(weights(trainer.agent), weights(alone.agent))
    assert "loss/agent/a" not in reported[0]
    for late, name in ((1, "loss/agent/a"), (3, "agent/x"), (2, "grad_norm/agent")):
        assert torch.equal(reported[late][name], expected[late - 1][name])
    for ours, theirs in zip(trainer.agents.values(), learner.agents.values(), strict=True):  # type: ignore[union-attr]
        for one, other in zip(ours.state.values(), theirs.state.values(), strict=True):
            assert torch.equal(one["exp_avg"], other["exp_avg"]) and one["step"] == other["step"] == 4
    process.close()
    process.close()


def test_if_it_is_killed_the_agent_learns_on_in_the_main_process(beside, caplog):
    trainer = trainer_of()
    process = beside(trainer)
    for seed in range(2):
        trainer.update(batch_for(trainer.model, seed=seed))
    trainer.synchronise()
    before = weights(trainer.agent)
    os.kill(process._process.pid, signal.SIGKILL)  # type: ignore[union-attr]
    process._process.wait()  # type: ignore[union-attr]
    out = trainer.update(batch_for(trainer.model))
    assert trainer.beside is None and "exit code -9, out of memory?" in caplog.text
    assert "loss/agent/a" in out and not same(before, weights(trainer.agent))
    assert all(state["step"] == 3 for state in trainer.agents["a"].state.values())  # no moment was lost


def test_the_child_ends_with_its_parent_or_when_it_is_closed():
    process = AgentProcess(PluginFiles(), 1)
    child = process._process
    assert child is not None and child.poll() is None
    process._pipe.close()  # type: ignore[union-attr]  # as the death of the parent does
    assert child.wait(60) == 0


def test_divergence_is_raised_as_in_one_process(beside):
    trainer = trainer_of(max_skips=2)
    trainer.agent.broken = True  # type: ignore[assignment]
    beside(trainer)
    with pytest.raises(DivergedError, match=r"agent/a.* update 2"):
        for _ in range(4):
            trainer.update(batch_for(trainer.model))
    trainer.synchronise()  # nothing is in progress: it does not wait


class Unsendable(Dreams):
    def __init__(self, specs: Any):
        super().__init__(specs)
        self.lock = threading.Lock()


class Failing(Dreams):
    def losses(self, model, seen, generator):
        if os.environ.get("WORLDLAB_TEST_PARENT") != str(os.getpid()):
            raise RuntimeError("not here")
        return super().losses(model, seen, generator)


@pytest.mark.parametrize(("kind", "reason"), [(Unsendable, "cannot be sent"), (Failing, "not here")])
def test_an_agent_that_cannot_learn_elsewhere_learns_here(kind, reason, beside, caplog, monkeypatch):
    monkeypatch.setenv("WORLDLAB_TEST_PARENT", str(os.getpid()))
    trainer = trainer_of(kind(build_model().specs))
    beside(trainer)
    for _ in range(3):
        out = trainer.update(batch_for(trainer.model))
    assert trainer.beside is None and reason in caplog.text and "loss/agent/a" in out


def test_a_process_that_does_not_start_costs_nothing(monkeypatch):
    monkeypatch.setattr(agent_process.sys, "executable", "/nowhere/python")
    trainer = trainer_of()
    process = AgentProcess(PluginFiles(), 1)
    with pytest.raises(BesideError, match="could not be started"):
        process.learn(trainer, None)  # type: ignore[arg-type]
    process.close()


def test_which_runs_use_it():
    specs = build_model().specs
    core = CoreSettings(steps=2000, train=TrainSettings(threads=1, ratio=0.5))

    def used(agent: Agent | None = None, cores: int = 2, device: str = "cpu", **changes) -> bool:
        train = {key: value for key, value in changes.items() if key in TrainSettings.model_fields}
        rest = {key: value for key, value in changes.items() if key not in train}
        settings = core.model_copy(update={**rest, "train": core.train.model_copy(update=train)})
        return can_learn_beside(settings, agent or Dreams(specs), torch.device(device), cores)

    assert used() and used(threads=2, cores=4)
    assert not used(cores=1) and not used(threads=2) and not used(threads=0, cores=8)
    assert not used(strict=True) and not used(parallel=False) and not used(device="meta")
    assert not used(steps=900)  # 450 updates do not repay the start
    assert not used(ToyAgent(specs))  # it reads sequences


@pytest.mark.slow
@pytest.mark.usefixtures("blank_plots")
def test_a_run_with_it_resumes_and_its_checkpoint_is_complete(tmp_path, monkeypatch):
    monkeypatch.setattr(agent_process, "WORTH", 0)
    monkeypatch.setattr(agent_process, "available_cores", lambda: 2)
    used: list[AgentProcess] = []

    class Watched(AgentProcess):
        def __init__(self, *args):
            super().__init__(*args)
            used.append(self)

    monkeypatch.setattr(agent_process, "AgentProcess", Watched)
    train = {"prefill": 48, "pretrain": 2, "ratio": 0.2, "batch_size": 2, "batch_length": 8, "starts": 8, "threads": 1}
    small = {"train": train, "eval": {"every": 0, "final_episodes": 2}, "log": {"pictures": 0, "every": 20}}
    options: Any = {"preset": "laptop", "encoder": "vae", "device": "cpu", "settings": {**small, "size": "nano"}}
    worldlab.train("CartPole", steps=96, run=tmp_path / "run", **options)
    assert len(used) == 1 and used[0]._process is None  # closed
    saved = latest_valid(tmp_path / "run" / "checkpoints")
    updates = saved.state["counters"]["updates"]
    steps = [value for name, value in saved.tensors("optimizer_agent_actor").items() if name.endswith("step")]
    assert updates > 5 and {int(step) for step in steps} == {updates - 2}  # the pretraining is the model's alone
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert any("loss/agent/actor" in row for row in rows)
    worldlab.resume(tmp_path / "run", settings={"steps": 144})
    assert len(used) == 2
    later = latest_valid(tmp_path / "run" / "checkpoints")
    steps = [value for name, value in later.tensors("optimizer_agent_actor").items() if name.endswith("step")]
    now = later.state["counters"]["updates"]
    assert now > updates and {int(step) for step in steps} == {now - 2}


def test_the_agent_learns_with_products_of_the_same_type_in_its_process():
    trainer = made("vae", "vae", "vae")
    trainer.products = torch.bfloat16
    assert agent_process._open(agent_process._work(PluginFiles(()), 1, trainer)).products == torch.bfloat16
