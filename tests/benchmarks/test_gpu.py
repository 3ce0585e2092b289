"""benchmarks/gpu.py does what it says: on the CPU as everywhere, and its part for a card with stand-ins for torch.cuda."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from static_kit import Echo

BENCHMARKS = str(Path(__file__).parents[2] / "benchmarks")


@pytest.fixture(scope="module")
def gpu():
    sys.path.insert(0, BENCHMARKS)
    try:
        import gpu

        yield gpu
    finally:
        sys.path.remove(BENCHMARKS)


def test_without_a_card_it_checks_what_it_can_and_says_what_it_cannot(gpu, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "CHECKED", [("vae", "tdmpc")])
    monkeypatch.setattr(gpu, "header", lambda script: {"command": script})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["gpu.py", "--out", str(tmp_path / "gpu.json")])
    assert gpu.main() == 0
    assert json.loads((tmp_path / "gpu.json").read_text()) == {"command": "gpu.py", "cpu": "equal"}
    said = capsys.readouterr().err
    assert "vae with tdmpc: equal, no host read" in said and "torch finds no GPU here" in said


def test_a_difference_on_the_cpu_fails(gpu, monkeypatch):
    monkeypatch.setattr(gpu, "CHECKED", [("vae", "dreamer")])
    honest = gpu.StaticUpdate.run

    def run(self, batch, stage):
        batch.reward.add_(1)
        return honest(self, batch, stage)

    monkeypatch.setattr(gpu.StaticUpdate, "run", run)
    assert any("vae with dreamer: 'loss/reward' differs" in one for one in gpu.check_on_cpu())


def test_the_part_for_a_card_records_compares_and_times(gpu, monkeypatch):
    """On the CPU every read is noticed, and there an update reads its flags: so all of these are reported, and nothing else."""
    for name, result in (
        ("synchronize", None), ("reset_peak_memory_stats", None), ("max_memory_reserved", 10**9), ("get_device_name", "no card")
    ):  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, lambda *_, result=result: result)
    monkeypatch.setattr(gpu, "CARD", torch.device("cpu"))
    monkeypatch.setattr(gpu, "CudaRecorder", lambda device, generators: Echo())
    monkeypatch.setattr(gpu, "STEPS", 200)
    monkeypatch.setattr(gpu, "TRAIN", {"batch_size": 4, "batch_length": 8, "starts": 8})
    settings = {"size": "nano", **{role: {"name": "vae"} for role in ("encoder", "dynamics", "decoder")}}
    small = gpu.Workload(gymnasium.spaces.Box(0, 255, (16, 16, 3), np.uint8), settings, 9.0)
    monkeypatch.setattr(gpu, "WORKLOADS", {"small": small})
    honest = gpu.noise_batch
    monkeypatch.setattr(gpu, "noise_batch", lambda obs, action, *_: honest(obs, action, 4, 8, gpu.stream(0)))
    args = gpu.argparse.Namespace(rounds=2, updates=1)
    result: dict = {}
    wrong = gpu.on_gpu("small", args, result)
    assert [one for one in wrong if "waits for the card at" not in one] == []
    assert result["host_reads_graph"] == 1 and result["goal_ms"] == 9.0 and result["memory_of_all_modes_gb"] == 1.0
    assert (
        list(result["modes"]) == ["float32", "bfloat16", "graph"]
        and result["modes"]["float32"]["ratio"]["estimate"] == 1
    )
    assert result["parameters"] > 1000 and result["batch_from_card_ms"] > 0 and len(result["largest_difference"]) == 3
