"""worldlab.runs.bundle and weights: what is published of a run, and under which names."""

import pytest
import torch

from worldlab.errors import CheckpointError
from worldlab.runs import bundle
from worldlab.runs.bundle import DREAMS, check_name, last_part
from worldlab.runs.checkpoint import open_checkpoint, save_checkpoint
from worldlab.runs.weights import copy_weights, holds_weights_only


def test_the_weights_of_a_checkpoint_are_a_checkpoint_without_its_training(tmp_path):
    shared = torch.arange(3.0)
    tensors = {
        "model": {"a": shared, "b": shared},
        "agent": {"c": torch.ones(2)},
        "optimizer_main": {"m": torch.ones(9)},
    }
    whole = open_checkpoint(save_checkpoint(tmp_path / "all", 7, tensors, {"counters": {"env_steps": 7}}))
    (tmp_path / whole.path.name).mkdir()
    copy_weights(whole, tmp_path / whole.path.name)
    copy = open_checkpoint(tmp_path / whole.path.name)
    assert copy.names == ("agent", "model") and copy.state == whole.state and copy.step == 7
    assert holds_weights_only(copy) and not holds_weights_only(whole)
    loaded = copy.tensors("model")
    assert torch.equal(loaded["a"], shared) and loaded["a"] is loaded["b"]
    assert copy.manifest["files"]["model.safetensors"] == whole.manifest["files"]["model.safetensors"]


def test_the_newest_dreams_and_one_episode_are_published(tmp_path):
    names = [f"dream-000000{step:03d}-{row}.{end}" for step in (90, 300) for row in range(6) for end in ("png", "webp")]
    for name in (*names, "evaluation.webp", "notes.txt", "dream-x.png", "dream-000000999.gif"):
        (tmp_path / name).touch()
    found = [path.name for path in bundle._pictures(tmp_path)]
    wanted = [f"dream-000000300-{row}.{end}" for row in range(DREAMS) for end in ("png", "webp")]
    assert found == [*wanted, "evaluation.webp"]
    assert bundle._pictures(tmp_path / "nothing") == []


GOOD = (
    "config.toml", "run.json", "checkpoints/step-000000090/model.safetensors", "checkpoints/step-000000090.2/state.json",
    "checkpoints/best-000000090/manifest.json", "plugins/mine.py", "videos/dream-000000090-0.webp",
    "replay/seg-000-00000012.log",
)  # fmt: skip
BAD = (
    "", ".", "/etc/passwd", "..", "a/../../b", "videos/../config.toml", "videos//a.png", "./config.toml", "config.toml/",
    "videos/a.png\n", "videos/\u202egnp.png", "plugins/a/b.py", "plugins/__init__", "lock", "checkpoints/quarantine/x.json",
    "checkpoints/step-1/state.json", "replay/seg-000-00000012.log.py", "Config.toml", "result.json ", "videos/a.svg", "c:x.png",
    "checkpoints/step-000000090/model.pth", "videos\\a.png", "checkpoints/step-000000090/model.safetensors/x",
)  # fmt: skip


def test_a_name_is_one_of_a_run_or_refused():
    assert [check_name(name) for name in GOOD] == list(GOOD)
    for name in BAD:
        with pytest.raises(CheckpointError, match="is refused"):
            check_name(name)


def test_absolute_paths_are_cut_and_names_stay():
    assert last_part("/home/me/set") == "set" and last_part("npz:/home/me/set") == "npz:set"
    for name in ("", "set", "sets/one", "minari:D4RL/pendulum/expert-v0", "hf:me/first"):
        assert last_part(name) == name
