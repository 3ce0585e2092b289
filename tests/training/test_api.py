"""worldlab from Python: it does what the command line does, and shows what a run holds."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import worldlab
from worldlab.errors import ConfigError, EnvError, MemoryLimitError, PluginError, WorldlabError
from worldlab.experience.collect import Collector
from worldlab.runs.checkpoint import checkpoint_name, list_checkpoints
from worldlab.training.api import _nest
from worldlab.training.loop import Loop

pytestmark = pytest.mark.usefixtures("blank_plots")
TINY: dict[str, Any] = {
    "train.prefill": 48,
    "train.pretrain": 2,
    "train.ratio": 0.05,
    "train": {"batch_size": 2, "batch_length": 8, "starts": 8, "threads": 1},
    "agent.horizon": 3,
    "model.units": 16,
    "dynamics": {"memory": 16, "units": 16},
    "eval": {"every": 0, "final_episodes": 2},
    "env.time_limit": 20,
    "log": {"pictures": 0, "track": ["none"], "every": 48},
}


def tiny(path: Path, **more: Any) -> worldlab.Run:
    options = {"encoder": "vae", "preset": "laptop", "steps": 96, "device": "cpu", "settings": TINY, **more}
    return worldlab.train("CartPole", run=path, **options)


def test_settings_may_be_dotted_or_nested_or_both():
    assert _nest({"a.b": 1, "a": {"c.d": 2}, "e": 3}) == {"a": {"b": 1, "c": {"d": 2}}, "e": 3}


@pytest.mark.slow
def test_a_run_from_python_is_the_run_of_the_command_line(tmp_path):
    run = tiny(tmp_path / "one", seed=3)
    assert run.result is not None and run.result["env_steps"] == 96
    assert run.config.core.seed == 3 and run.config.core.train.batch_length == 8
    assert [line["step"] for line in run.metrics][-1] == 96
    again = worldlab.load(run.path)
    assert again.evaluate(2)["returns"] == run.result["returns"]
    for name, weight in run.world_model.state_dict().items():
        assert torch.equal(weight, again.world_model.state_dict()[name])


@pytest.mark.slow
def test_a_loaded_run_acts_judges_and_dreams(tmp_path):
    run = worldlab.load(tiny(tmp_path / "one").path)
    env = run.make_env()
    obs, _ = env.reset(seed=0)
    action, state = run.agent.predict({key: value[None] for key, value in obs.items()}, deterministic=True)
    assert env.action_space.contains(np.asarray(action[0]).item()) and state is not None
    alone, state = run.agent.predict(obs, deterministic=True)
    assert np.array_equal(alone, action[0])
    assert np.shape(run.agent.predict(obs, state, episode_start=np.array([False]))[0]) == ()
    with pytest.raises(ConfigError, match="does not match the observations"):
        run.agent.predict({key: value[None, None] for key, value in obs.items()})
    assert len(run.evaluate(3)["returns"]) == 3
    files = run.dream(horizon=5, count=1, out=tmp_path / "pictures")["files"]
    assert files and all(Path(file).is_file() for file in files)
    assert repr(run) == f"Run({str(run.path)!r})"


@pytest.mark.slow
def test_a_run_goes_on_and_may_train_beside_the_main_thread(tmp_path):
    first: list[worldlab.Run] = []
    thread = threading.Thread(target=lambda: first.append(tiny(tmp_path / "one")))
    thread.start()
    thread.join(120)
    run = worldlab.resume(first[0].path, settings={"steps": 144})
    assert run.result is not None and run.result["env_steps"] == 144


@pytest.mark.slow
def test_a_resumed_run_keeps_its_wall_clock_and_its_alarms(tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as first:
        first.setattr("worldlab.training.clock.Clock.elapsed", lambda clock: 1000.0)
        first.setattr("worldlab.model.health.HealthMonitor.update", lambda monitor, *values: [monitor.note("odd")][1:])
        tiny(tmp_path / "one")
    run = worldlab.resume(tmp_path / "one", settings={"steps": 144})
    assert run.result is not None and run.result["env_steps"] == 144
    assert 1000 < run.result["wall_seconds"] < 2000 and "odd" in run.result["alarms"]
    run = worldlab.resume(tmp_path / "one", settings={"steps": 192, "minutes": 10})  # spent already
    assert run.result is not None and run.result["env_steps"] == 144
    assert (
        "step 144 of 192: the time limit of 10 minutes is reached; to continue, --resume with more --minutes"
        in capsys.readouterr().err
    )


@pytest.mark.slow
def test_a_refused_resume_leaves_the_run_as_it_was(tmp_path):
    path = tiny(tmp_path / "one").path
    before = {name: (path / name).read_bytes() for name in ("config.toml", "run.json")}
    with pytest.raises(WorldlabError, match="do not fit"):
        worldlab.resume(path, settings={"encoder.latent_dim": 9})
    assert before == {name: (path / name).read_bytes() for name in before}
    assert worldlab.load(path).evaluate(1)["episodes"] == 1


@pytest.mark.slow
def test_an_environment_that_fails_costs_nothing_that_was_learned(tmp_path, monkeypatch):
    end, calls = Collector.end, []

    def fails(self):
        calls.append(0)
        if len(calls) == 20:
            raise EnvError("the simulator is gone")
        return end(self)

    with monkeypatch.context() as broken, pytest.raises(EnvError, match="simulator is gone"):
        broken.setattr(Collector, "end", fails)
        tiny(tmp_path / "one")
    ((step, _),) = list_checkpoints(tmp_path / "one" / "checkpoints")
    facts = json.loads((tmp_path / "one" / "run.json").read_text())
    assert 0 < step < 96 and (facts["status"], facts["error"]) == ("failed", "the simulator is gone")
    odd, early = {"step": 90, "says": "x", "cure": "y"}, {"step": step, "says": "x", "cure": "y"}
    (tmp_path / "one" / "run.json").write_text(json.dumps(facts | {"alarms": [odd, early, "no alarm", {}]}))
    run = worldlab.resume(tmp_path / "one")
    assert run.result is not None and run.result["env_steps"] == 96
    facts = json.loads((tmp_path / "one" / "run.json").read_text())
    assert facts["error"] is None and facts["alarms"] == [early]  # later ones are repeated


@pytest.mark.slow
@pytest.mark.parametrize(("method", "saved"), [("_end_step", True), ("_update_once", False)])
def test_a_lack_of_memory_costs_nothing_and_no_half_update_is_saved(method, saved, tmp_path, monkeypatch):
    whole = getattr(Loop, method)

    def fails(self):
        if self.session.counters.updates == 3:
            self.session.trainer.updates += method == "_update_once"  # the update has begun
            raise MemoryError
        whole(self)

    with monkeypatch.context() as broken, pytest.raises(MemoryLimitError, match="not enough memory"):
        broken.setattr(Loop, method, fails)
        tiny(tmp_path / "one")
    facts = json.loads((tmp_path / "one" / "run.json").read_text())
    steps = [step for step, _ in list_checkpoints(tmp_path / "one" / "checkpoints")]
    assert facts["status"] == "failed" and (facts["step"] in steps) == saved


@pytest.mark.slow
def test_each_interruption_of_pretraining_keeps_what_was_done(tmp_path, monkeypatch):
    once = Loop._update_once

    def interrupted(self):
        once(self)
        self.signals.append(signal.SIGTERM)

    with monkeypatch.context() as context:
        context.setattr(Loop, "_update_once", interrupted)
        for number in (1, 2):
            with pytest.raises(KeyboardInterrupt):
                tiny(tmp_path / "one") if number == 1 else worldlab.resume(tmp_path / "one")
            newest = list_checkpoints(tmp_path / "one" / "checkpoints")[-1][1]
            assert json.loads((newest / "state.json").read_text())["counters"]["updates"] == number
    run = worldlab.resume(tmp_path / "one")
    assert run.result is not None and run.result["updates"] >= 2
    assert [line["step"] for line in run.metrics if "updates" in line] == [48, 96]
    lines = run.metrics
    assert worldlab.resume(tmp_path / "one").metrics == lines  # judged once more, told once


@pytest.mark.slow
def test_damaged_experience_costs_itself_and_a_lost_end_an_older_checkpoint(tmp_path, caplog):
    settings = {**TINY, "log": {**TINY["log"], "checkpoint": 48}}
    path = tiny(tmp_path / "one", settings=settings).path
    segment = sorted(path.glob("replay/seg-000-*.log"))[0]
    whole = segment.read_bytes()
    segment.write_bytes(whole[:-400] + bytes([whole[-400] ^ 1]) + whole[-399:])
    run = worldlab.resume(path, settings={"steps": 120})
    assert run.result is not None and run.result["env_steps"] == 120
    assert "steps of experience are left out" in caplog.text
    segment = sorted(path.glob("replay/seg-000-*.log"))[-1]
    segment.write_bytes(segment.read_bytes()[:-3])
    newest = list_checkpoints(path / "checkpoints")[-1][0]
    run = worldlab.resume(path, settings={"steps": 144})
    assert run.result is not None and run.result["env_steps"] == 144
    assert f"resuming from step 96 instead of {newest}" in caplog.text
    assert [one.name for one in (path / "checkpoints" / "quarantine").iterdir()] == [checkpoint_name(newest)]


@pytest.mark.slow
def test_sb3_learns_in_a_run_s_dreams_with_nothing_else_written(tmp_path):
    from stable_baselines3 import PPO

    run = worldlab.load(tiny(tmp_path / "one").path)
    dreams = run.dream_env(num_envs=8, horizon=5)
    learner = PPO("MlpPolicy", dreams, n_steps=16, batch_size=64, seed=0, device="cpu").learn(256)
    assert learner.num_timesteps == 256
    obs, again = dreams.reset(), run.dream_env(num_envs=8, horizon=5)
    assert obs.shape == (8, run.world_model.specs.feature_dim) and np.ptp(obs, 0).max() > 0
    first = run.dream_env(num_envs=8, horizon=5).reset()
    assert np.array_equal(first, again.reset())  # the seed's
    ended = np.zeros(8, bool)
    for _ in range(5):
        _, _, done, infos = again.step(np.zeros(8, int))
        ended |= done
        assert all(("terminal_observation" in info) == over for info, over in zip(infos, done, strict=True))
    assert ended.all()  # at the horizon, if not before
    with pytest.raises(ConfigError, match="has no temperature"):
        run.world_model.dynamics.predict = lambda memory: object()
        run.dream_env(temperature=2.0)


def test_mistakes_are_those_of_the_command_line(tmp_path):
    with pytest.raises(PluginError, match=r"no encoder named 'vea'\. Did you mean 'vae'"):
        worldlab.train("CartPole", encoder="vea", run=tmp_path / "one")
    with pytest.raises(ConfigError, match=r"train\.ration is not a setting"):
        worldlab.train("CartPole", settings={"train.ration": 1}, run=tmp_path / "one")
    with pytest.raises(ConfigError, match="stepz is not a setting"):
        worldlab.train("CartPole", run=tmp_path / "one", stepz=3)
    with pytest.raises(ConfigError):
        worldlab.load(tmp_path / "nothing")
    assert not (tmp_path / "one").exists()


@pytest.mark.slow
def test_a_run_ends_when_an_evaluation_reaches_until_and_keeps_the_best_one(tmp_path, monkeypatch, capsys):
    returns = iter([3.0, 5.0, 4.0, 9.0])
    evaluate = Loop._evaluate

    def scripted(self, episodes, record=False):
        outcome = evaluate(self, episodes, record)
        if not record:
            self.session.counters.evaluation = next(returns)
        return outcome

    monkeypatch.setattr(Loop, "_evaluate", scripted)
    settings = {**TINY, "eval": {"every": 24, "episodes": 1, "final_episodes": 2}, "log.keep": 2, "train.ratio": 0.1}
    run = tiny(tmp_path / "one", steps=240, settings={**settings, "train.prefill": 24, "until": 8})
    assert run.result is not None and run.result["env_steps"] == 96  # the prefill's evaluation does not count
    assert run.result["best"] == {"return": 9.0, "episodes": 1, "step": 96, "checkpoint": "checkpoints/best-000000096"}
    assert "the evaluation at step 96 reached 9.0, which ends training at 8 (until)" in capsys.readouterr().err
    returns = iter([2.0, 6.0])
    run = worldlab.resume(run.path, settings={"until": 10, "steps": 144})
    assert run.result is not None and run.result["env_steps"] == 144 and run.result["best"]["step"] == 96
    assert "no evaluation reached 10 (until); the best evaluation reached 9.0" in capsys.readouterr().err
    assert [worldlab.load(run.path, best=best)._loaded.step for best in (True, False)] == [96, 144]


def test_until_needs_evaluations_and_a_threshold(tmp_path):
    with pytest.raises(ConfigError, match="until needs evaluations"):
        tiny(tmp_path / "one", until=9)
    settings = {**TINY, "eval.every": 48}
    with pytest.raises(ConfigError, match="Pendulum-v1 declares no return at which it is solved"):
        worldlab.train("Pendulum", run=tmp_path / "two", preset="laptop", settings=settings, until="solved")
