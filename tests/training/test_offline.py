"""Training from a data set alone: what is learned from, how it is evaluated, resumed and gone on from; recording and export."""

from __future__ import annotations

import json

import gymnasium
import numpy as np
import pytest
import torch
from data_kit import assert_same, made
from gymnasium import spaces
from PIL import Image
from worldlab_data.npz import NpzFormat
from worldlab_data.run_folder import RunFolderFormat

import worldlab
from worldlab import cli
from worldlab.env.none import NO_ENV
from worldlab.errors import ConfigError, EnvError
from worldlab.evaluation import open_loop
from worldlab.experience.data_records import split
from worldlab.experience.dataset import open_dataset
from worldlab.registry import load_registry
from worldlab.runs.folder import RunFolder
from worldlab.training.data import resolve_run

REGISTRY = load_registry()
TINY = {
    "train": {"pretrain": 2, "ratio": 0.1, "batch_size": 2, "batch_length": 8, "starts": 8, "threads": 1},
    "agent.horizon": 3,
    "eval": {"every": 0, "final_episodes": 1, "dream_horizon": 0},
    "log": {"pictures": 0, "track": ["none"], "every": 10, "checkpoint": 20},
}
pytestmark = pytest.mark.usefixtures("blank_plots")


def offline(data, folder, **more):
    settings = {**TINY, "data": str(data), "offline": True, **more.pop("settings", {})}
    options = {"preset": "laptop", "size": "nano", "steps": 40, "device": "cpu", "run": folder, "strict": True, **more}
    return worldlab.train(settings=settings, **options)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "npz"
    NpzFormat().write(made((30,) * 12, env_id=""), path)
    return path


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "one"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(open_loop, "vector_strip", lambda *_, **__: Image.new("RGB", (8, 8)))
        return offline(data, folder)


def test_an_offline_run_draws_what_was_held_out(data, tmp_path, monkeypatch):
    drawn = []
    plain = open_loop.open_loop

    def watched(model, batch, *rest):
        drawn.append(batch)
        return plain(model, batch, *rest)

    monkeypatch.setattr(open_loop, "open_loop", watched)
    monkeypatch.setattr(open_loop, "vector_strip", lambda *_, **__: Image.new("RGB", (8, 8)))
    run = offline(data, tmp_path / "run", settings={"log.pictures": 20})
    (name,) = RunFolder.open(run.path).read_run_json()["data"]["held_out"]
    dataset = open_dataset(str(data), REGISTRY)
    (number,) = (n for n, episode in enumerate(dataset.episodes) if episode.name == name)
    first = dataset.read(number, 0, 12).reward
    shown = next(batch for batch in drawn if len(batch.reward) == 1)  # the evaluation takes several sequences
    # A step's reward is that of its arrival, so the first one has none.
    np.testing.assert_allclose(shown.reward[0, 1:], first)


def weights(run):
    return {name: value for name, value in run.world_model.state_dict().items()}


def test_without_an_environment_the_model_is_evaluated_on_held_out_episodes(trained, data):
    result, said = trained.result, RunFolder.open(trained.path).read_run_json()
    assert result["env"] == NO_ENV and result["env_steps"] == 0 and result["offline_steps"] == 40
    # The credit of the last step is not spent.
    assert result["updates"] == 2 + 3 and "return_mean" not in result
    assert result["held_out"]["episodes"] == 1 and len(result["held_out"]["rmse_by_step"]["vector"]) == 31 - 5
    assert {"dyn", "reward", "decoder/vector"} <= set(result["held_out"]["losses"])
    assert 0 < result["held_out"]["divergence"] <= result["held_out"]["losses"]["dyn"]  # which has free nats
    assert set(result["held_out"]["energy_by_step"]["vector"]) == {"1", "5", "15"}
    assert "there is no environment" in result["protocol"]["why"]
    assert len(said["data"]["held_out"]) == 1 and said["data"]["decisions"] == 330
    assert set(said["data"]["sha256"]) == {"training", "held_out"}


def test_the_run_learned_from_the_training_episodes_alone(trained, data):
    recorded = open_dataset(str(data), REGISTRY)
    copy = open_dataset(str(trained.path), REGISTRY)
    held_out = RunFolder.open(trained.path).read_run_json()["data"]["held_out"]
    kept = [number for number, episode in enumerate(recorded.episodes) if episode.name not in held_out]
    assert [copy.read(n, 0, 5).reward.tolist() for n in range(11)] == [
        recorded.read(n, 0, 5).reward.tolist() for n in kept
    ]


def test_a_trained_run_is_evaluated_and_dreams_without_an_environment(trained, capsys):
    loaded = worldlab.load(trained.path)
    assert loaded.dream_env().num_envs > 0
    assert cli.main(["eval", str(trained.path), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["held_out"]["losses"] == pytest.approx(trained.result["held_out"]["losses"])
    with pytest.raises(EnvError, match="no environment, only a data set"):
        loaded._loaded.make().reset()


def test_a_resumed_offline_run_is_the_run_that_was_not_interrupted(trained, data, tmp_path):
    offline(data, tmp_path / "part", steps=20, settings={"train.final_rate": 1.0})
    part = offline(data, tmp_path / "part", steps=40, resume=True)
    whole = offline(data, tmp_path / "whole", settings={"train.final_rate": 1.0})
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(part)[name]), name
    said = RunFolder.open(part.path).read_run_json()
    assert said["data"]["sha256"] == RunFolder.open(whole.path).read_run_json()["data"]["sha256"]
    assert said["resumed"][-1]["exact"]


def test_finetune_takes_what_fits_and_names_what_does_not(trained, tmp_path, caplog):
    path = tmp_path / "wider"
    source = made((30,) * 12, env_id="", action=made().facts.action_space)
    NpzFormat().write(source, path)
    same = offline(
        path,
        tmp_path / "same",
        steps=1,
        settings={"finetune": str(trained.path), "train.ratio": 0.01, "train.pretrain": 0},
    )
    for name, value in weights(trained).items():
        assert torch.equal(weights(same)[name], value), name
    other = made((30,) * 12, env_id="", image=True)
    NpzFormat().write(other, tmp_path / "pictures")
    offline(
        tmp_path / "pictures", tmp_path / "other", steps=1, settings={"finetune": str(trained.path), "env.size": 16}
    )
    said = RunFolder.open(tmp_path / "other").read_run_json()["finetune"]
    assert said["run"] == "one" and said["taken"] > 10
    assert any("encoder" in name for name in said["fresh"])
    assert "begin anew" in caplog.text and said["fresh"][0] in caplog.text


def test_the_environment_is_the_one_that_the_data_name(tmp_path, data):
    RunFolderFormat().write(made((30,) * 3), tmp_path / "named")

    def env_of(**settings):
        return resolve_run(REGISTRY, flags={k: v for k, v in settings.items()}).core.env.id

    assert env_of(data=str(tmp_path / "named")) == "Pendulum-v1"
    assert env_of(data=str(tmp_path / "named"), env={"id": "CartPole-v1"}) == "CartPole-v1"
    assert env_of(data=str(data), offline=True) == NO_ENV
    with pytest.raises(ConfigError, match="no environment to evaluate in: the data set does not name"):
        env_of(data=str(data))
    RunFolderFormat().write(made((30,) * 3, env_id="antigravity:Id-v0"), tmp_path / "module")
    with pytest.raises(ConfigError, match="would import a module"):
        env_of(data=str(tmp_path / "module"))
    with pytest.raises(ConfigError, match="offline training needs a data set"):
        env_of(offline=True)


def test_the_preset_of_offline_runs_is_laid_over_the_chosen_ones(data):
    penalty = [
        resolve_run(
            REGISTRY, flags={"data": str(data), "env": {"id": "CartPole-v1"}, "offline": flag}
        ).agent.options.penalty  # type: ignore[attr-defined]
        for flag in (True, False)
    ]
    assert penalty[0] > 0 == penalty[1]


def test_actions_are_scaled_by_the_bounds_of_the_environment_not_by_guessed_ones(tmp_path):
    source = made((30,) * 12, env_id="", action=spaces.Box(-1, 1, (1,), np.float32))
    NpzFormat().write(source, tmp_path / "npz")
    (tmp_path / "npz" / "recording.json").unlink()  # written by others, it has no bounds: they are guessed as -1 to 1
    settings = {"env.id": "Pendulum-v1", "env.time_limit": 10}
    offline(tmp_path / "npz", tmp_path / "run", steps=12, settings=settings)
    seen = RunFolderFormat().open(str(tmp_path / "run")).read(0, 0, 20).action
    first = split(source)[0][0]
    np.testing.assert_allclose(seen, source.read(first, 0, 20).action / 2, atol=1e-6)  # Pendulum's torque goes to 2


def test_with_an_environment_returns_and_held_out_losses_are_measured(tmp_path):
    torque = spaces.Box(-2, 2, (1,), np.float32)
    RunFolderFormat().write(made((30,) * 12, action=torque), tmp_path / "named")
    result = offline(tmp_path / "named", tmp_path / "run", steps=12, settings={"env.time_limit": 10}).result
    assert result is not None and result["env"] == "Pendulum-v1" and len(result["returns"]) == 1
    assert result["held_out"]["episodes"] == 1 and "reward" in result["held_out"]["losses"]


# ---- recording and export ----


def test_a_recording_is_what_the_environment_did(tmp_path, capsys):
    out = tmp_path / "recorded"
    assert cli.main(["record", "--env", "CartPole", "--episodes", "3", "--seed", "5", "--out", str(out), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    recorded = open_dataset(str(out), REGISTRY)
    assert len(recorded.episodes) == 3 and recorded.facts.env_id == "CartPole-v1" and recorded.facts.missing == ()
    assert said["decisions"] == sum(e.length for e in recorded.episodes)
    assert all(e.terminated for e in recorded.episodes)
    env = gymnasium.make("CartPole-v1")
    steps = recorded.read(0, 0, recorded.episodes[0].length)
    env.reset(seed=0)
    env.unwrapped.state = steps.obs["vector"][0].astype(np.float64)  # type: ignore[attr-defined]
    after = env.step(int(steps.action[0].argmax()))[0]
    np.testing.assert_allclose(after, steps.obs["vector"][1], atol=1e-5)
    assert cli.main(["record", "--env", "CartPole", "--out", str(out)]) == 2
    assert "is there already" in capsys.readouterr().err


def test_the_last_episode_of_a_recording_is_cut_and_that_of_a_run_in_progress(tmp_path):
    out = tmp_path / "recorded"
    assert cli.main(["record", "--env", "Pendulum", "--episodes", "2", "--out", str(out)]) == 0
    assert [episode.truncated for episode in open_dataset(str(out), REGISTRY).episodes] == [True, True]
    RunFolderFormat().write(open_dataset(str(out), REGISTRY), tmp_path / "copy")
    assert [episode.truncated for episode in open_dataset(str(tmp_path / "copy"), REGISTRY).episodes] == [True, True]
    (out / "recording.json").rename(tmp_path / "gone.json")  # as after a recording that was interrupted
    assert [episode.truncated for episode in open_dataset(str(out), REGISTRY).episodes] == [True, False]


def test_an_export_is_read_again_bit_for_bit(tmp_path, capsys):
    source = made()
    NpzFormat().write(source, tmp_path / "a")
    out = tmp_path / "b"
    assert cli.main(["export", str(tmp_path / "a"), "--format", "npz", "--out", str(out)]) == 0
    assert_same(open_dataset(str(out), REGISTRY), source)
    assert cli.main(["export", str(tmp_path / "a"), "--format", "npz", "--out", str(out)]) == 2
    assert cli.main(["export", str(tmp_path / "a"), "--format", "video", "--out", str(tmp_path / "c")]) == 2
    assert "is only read" in capsys.readouterr().err


def test_data_inspect_prints_and_fails_where_something_is_wrong(tmp_path, capsys):
    source = made((8, 8), ends="c")
    NpzFormat().write(source, tmp_path / "a")
    assert cli.main(["data", "inspect", str(tmp_path / "a"), "--strip", str(tmp_path / "s.png"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["wrong"] == "nothing" and said["episodes"] == 2 and (tmp_path / "s.png").stat().st_size > 100
    source.all[0].reward[3] = np.nan
    NpzFormat().write(source, tmp_path / "b")
    assert cli.main(["data", "inspect", str(tmp_path / "b"), "--json"]) == 1
    assert "step 3: reward is not finite" in json.loads(capsys.readouterr().out)["wrong"]
