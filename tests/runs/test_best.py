"""The checkpoint of the best evaluation: one is kept, whole, whatever the moment of a failure."""

from __future__ import annotations

import os

import pytest
import torch

from worldlab.errors import CheckpointError, StorageError
from worldlab.runs import best, storage
from worldlab.runs.best import keep_best, list_best, open_best
from worldlab.runs.checkpoint import latest_valid, prune, save_checkpoint


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run" / "checkpoints"


def save(folder, step):
    return save_checkpoint(folder, step, {"model": {"w": torch.full((2, 3), float(step))}}, {"step": step})


@pytest.mark.parametrize("links", [True, False])
def test_the_best_outlasts_the_checkpoint_that_it_was(folder, links, monkeypatch):
    if not links:
        monkeypatch.setattr(os, "link", lambda *_, **__: (_ for _ in ()).throw(PermissionError("no links here")))
    keep_best(save(folder, 3), 3)
    for step in (4, 5, 6):
        save(folder, step)
    prune(folder, 1)
    assert torch.equal(open_best(folder).tensors("model")["w"], torch.full((2, 3), 3.0))
    assert latest_valid(folder).step == 6


def test_a_better_one_replaces_it_and_the_same_one_does_nothing(folder):
    first, second = save(folder, 3), save(folder, 4)
    keep_best(first, 3)
    keep_best(second, 4)
    assert [path.name for path in list_best(folder)] == ["best-000000004"]
    before = list_best(folder)[0].stat().st_mtime_ns
    keep_best(second, 4)
    assert list_best(folder)[0].stat().st_mtime_ns == before and open_best(folder).step == 4


@pytest.mark.parametrize("fails", ["publish_folder", "remove_tree"])
def test_a_failure_leaves_a_whole_one(folder, fails, monkeypatch):
    first, second = save(folder, 3), save(folder, 4)
    keep_best(first, 3)

    def fail(*_):
        raise StorageError("the disk is full")

    with monkeypatch.context() as patch, pytest.raises(StorageError):
        patch.setattr(storage, fails, fail)
        keep_best(second, 4)
    assert open_best(folder).step == (3 if fails == "publish_folder" else 4)
    keep_best(second, 4)
    assert [path.name for path in list_best(folder)] == ["best-000000004"]


def test_a_run_without_one_and_a_damaged_one_are_errors(folder):
    path = save(folder, 3)
    with pytest.raises(CheckpointError, match="has no best checkpoint"):
        open_best(folder)
    keep_best(path, 3)
    kept = list_best(folder)[0] / "model.safetensors"
    data = bytearray(kept.read_bytes())
    data[-1] ^= 1
    kept.unlink()
    kept.write_bytes(data)
    with pytest.raises(CheckpointError, match="hash differs"):
        open_best(folder)
    assert best.list_best(folder.parent / "elsewhere") == []
