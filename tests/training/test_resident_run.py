"""A run whose replay lives on a device: the same bytes as a run in memory, also after a resume. The device is the CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from interrupted_runs import TINY, outcome

from worldlab.cli.flags import read_flags
from worldlab.config.resolve import resolve
from worldlab.registry import open_registry
from worldlab.training import session
from worldlab.training import train as training


def trained(run: Path, steps: int) -> dict[str, Any]:
    """Start a run, or continue it, to a number of steps in this process, without its strict state. Returns run.json."""
    flags = read_flags([word for word in TINY if word != "--strict"]).settings
    train = {**flags["train"], "threads": 1, "parallel": False}
    flags |= {"eval": {**flags["eval"], "every": 0}, "env": {**flags["env"], "time_limit": 10}}
    registry = open_registry(())
    config = resolve(registry, presets=["laptop"], flags={**flags, "train": train, "steps": steps})
    training.train(config, registry, run=run, resume=True)
    return json.loads((run / "run.json").read_text())


@pytest.mark.slow
def test_a_replay_on_a_device_changes_no_byte_of_a_run_that_is_continued(tmp_path, monkeypatch):
    found = []
    for name, storage in (("ram", "ram"), ("device", torch.device("cpu"))):
        monkeypatch.setattr(session, "choose_storage", lambda *_, storage=storage: storage)
        facts = [trained(tmp_path / name, steps) for steps in (56, 72)]
        assert [entry["exact"] for entry in facts[1]["resumed"]] == [True]
        assert facts[1]["engine"]["replay"].startswith("the GPU's memory" if name == "device" else "ram")
        found.append(outcome(tmp_path / name))
    assert found[0] == found[1]
