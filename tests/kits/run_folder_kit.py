"""A whole run folder in a tenth of a second: every kind of file that training writes, written by the same functions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from worldlab.experience.replay import Replay
from worldlab.runs.checkpoint import save_checkpoint
from worldlab.runs.folder import RunFolder
from worldlab.runs.metrics import MetricsBus
from worldlab.study.compare.cell_file import CellFile, CellSpec, write_cell
from worldlab.study.results import Trial

SCHEMA = {"vector": ((3,), np.float32), "reward": ((), np.float32), "is_first": ((), np.bool_)}
CONFIG = 'presets = ["debug"]\nseed = 7\nsteps = 200\n\n[env]\nid = "CartPole-v1"\n\n[train]\nlearning_rate = 0.0004\n'
RESULT = {
    "env": "CartPole-v1",
    "env_steps": 200,
    "updates": 20,
    "wall_seconds": 1.5,
    "return_mean": 9.5,
    "returns": [9.0, 10.0],
}
TEXTS = ("config.toml", "run.json", "result.json", "metrics.jsonl", "cell.json", "digests.json")


def make_run(path: Path) -> RunFolder:
    """Write a finished run with two checkpoints and two streams of experience. Returns its closed folder."""
    with RunFolder.create(path) as folder:
        folder.write_config(CONFIG)
        folder.write_run_json({"status": "running", "seed": 7, "parameters": {"total": 42}})
        replay = Replay(SCHEMA, 400, 2, folder.replay)  # 25 records in a segment
        with MetricsBus(folder) as metrics:
            for step in (100, 200):
                for number in range(step - 100, step):
                    row = {
                        "vector": np.full(3, number, np.float32),
                        "reward": np.float32(1),
                        "is_first": number % 50 == 0,
                    }
                    replay.append(number % 2, row)
                metrics.log(step, {"loss/reward": 1 / 3, "eval/return": step / 20})
                metrics.sync()
                folder.cover_metrics(metrics.digest)
                state = {"replay": replay.position(), "counters": {"env_steps": step, "lines": metrics.lines}}
                save_checkpoint(folder.checkpoints, step, {"model": {"w": torch.arange(20.0) + step}}, state)
        replay.close()
        folder.write_result(RESULT)
        folder.write_run_json({"status": "finished", "step": 200})
    return folder


def make_cell(path: Path) -> None:
    """Write the cell.json of a finished cell into a folder."""
    spec = CellSpec("vae", "CartPole-v1", 0, "model", "0" * 64, {"env": {"id": "CartPole-v1"}, "steps": 200})
    trial = Trial(
        "vae", "CartPole-v1", 0, "finished", returns=(9.0, 10.0), env_steps=200, curve=((100, 5.0), (200, 10.0))
    )
    path.mkdir(parents=True, exist_ok=True)
    write_cell(path, CellFile(spec, trial, 12.5, "", "host"))
