"""What a run uses of a GPU, and why. torch's answers about the machine are made up: there need be no GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from config_kit import configured
from static_kit import Echo, batch_of, made

from worldlab.experience.replay import Replay
from worldlab.experience.resident import resident_bytes
from worldlab.experience.segments import record_dtype
from worldlab.registry import PluginFiles
from worldlab.settings import CoreSettings, ReplaySettings, TrainSettings
from worldlab.training import agent_process, engine
from worldlab.training.agent_process import can_learn_beside, learn_beside
from worldlab.training.compiled import CompiledRecorder
from worldlab.training.engine import choose_engine, choose_products, choose_storage, choose_update

SCHEMA = {"image": ((8, 8, 3), "uint8"), "reward": ((), "float32")}
CUDA, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A GPU as torch describes one: 80 GB, all free, with units for bfloat16."""
    facts: dict[str, Any] = {"memory": (80e9, 80e9), "bf16": True}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: facts["memory"])
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: facts["bf16"])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "NVIDIA Made-up")
    return facts


def test_a_replay_lives_on_the_gpu_if_it_takes_at_most_a_quarter_of_it(gpu):
    core = CoreSettings()
    row = resident_bytes(record_dtype(SCHEMA), 1)
    assert row == 208  # 196 bytes, rounded up to a multiple of 16
    fitting = int(20e9 // row)
    assert (
        choose_storage(core, SCHEMA, fitting, CUDA) == CUDA and choose_storage(core, SCHEMA, fitting + 1, CUDA) == "ram"
    )
    gpu["memory"] = (1e9, 80e9)  # another process has the rest
    assert choose_storage(core, SCHEMA, fitting, CUDA) == "ram"
    assert choose_storage(core, SCHEMA, 1000, CPU) == "ram"


@pytest.mark.parametrize("storage", ["ram", "disk"])
def test_a_storage_that_is_set_is_taken(gpu, storage):
    core = CoreSettings(replay=ReplaySettings(storage=storage))
    assert choose_storage(core, SCHEMA, 1000, CUDA) == choose_storage(core, SCHEMA, 1000, CPU) == storage


@pytest.mark.parametrize(
    ("wanted", "products", "update"),
    [
        ("auto", "bfloat16", "graph"),
        ("graph", "bfloat16", "graph"),
        ("bfloat16", "bfloat16", "eager"),
        ("float32", "float32", "eager"),
    ],
)
def test_a_gpu_is_used_as_train_engine_says(gpu, wanted, products, update):
    assert choose_products(wanted, CUDA).what == products and choose_update(wanted, CUDA).what == update
    gpu["bf16"] = False
    assert choose_products(wanted, CUDA).what == "float32"


@pytest.mark.parametrize("units", [True, False])
def test_a_cpu_is_used_as_train_engine_says(monkeypatch, units):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: units, raising=False)
    low = "bfloat16" if units else "float32"
    wanted = {
        "auto": ("float32", "eager"),
        "graph": (low, "graph"),
        "bfloat16": (low, "eager"),
        "float32": ("float32", "eager"),
    }
    for engine_, found in wanted.items():
        assert (choose_products(engine_, CPU).what, choose_update(engine_, CPU).what) == found


def test_a_run_on_the_cpu_is_a_plain_one():
    trainer = made("vae", "vae", "vae")
    found = choose_engine(CoreSettings(), CPU, trainer, Replay(SCHEMA, 1000, 1))
    assert trainer.static is None and trainer.products is None
    assert found.record() == {
        "device": found.record()["device"],
        "products": "float32 (the device is the CPU)",
        "replay": "ram (the device is the CPU)",
        "update": "eager (the device is the CPU)",
    }
    assert found.record()["device"].startswith("cpu (")


def test_a_run_on_the_cpu_compiles_its_update_in_one_process_if_the_engine_is_a_graph(monkeypatch):
    monkeypatch.setattr(agent_process, "available_cores", lambda: 8)
    core = CoreSettings(train=TrainSettings(engine="graph", threads=1))
    replay = Replay(SCHEMA, 1000, 1)
    trainer = made("vae", "vae", "vae")
    found = choose_engine(core, CPU, trainer, replay)
    assert trainer.static is found.static is not None and isinstance(trainer.static.recorder, CompiledRecorder)
    assert found.record()["update"] == "graph (one compiled graph, after some hundred eager updates)"
    assert can_learn_beside(core, trainer.agent, CPU, 8)
    learn_beside(trainer, core, CPU, PluginFiles(()))
    assert trainer.beside is None
    own = made("vae", "vae", "vae", "cma")
    assert (
        choose_engine(core, CPU, own, replay).update.why == "CMAAgent steps its own optimisers" and own.static is None
    )


def test_a_run_on_a_gpu_is_recorded_and_run_json_says_why_it_is_not(gpu, monkeypatch):
    monkeypatch.setattr(engine, "CudaRecorder", lambda device, generators: Echo())
    trainer, replay = made("vae", "vae", "vae"), Replay(SCHEMA, 1000, 1, None, CPU)
    found = choose_engine(CoreSettings(), CUDA, trainer, replay)
    assert found.static is trainer.static is not None and trainer.products == torch.bfloat16
    assert found.record() == {
        "device": "NVIDIA Made-up (torch finds this GPU)",
        "products": "bfloat16 (this GPU has units for it)",
        "replay": "the GPU's memory (its 0.0 GB are at most 25% of it)",
        "update": "graph (one CUDA graph, recorded after a few eager updates)",
    }
    trainer.products = None
    for _ in range(4):
        trainer.update(batch_of(trainer))
    assert trainer.static.recorded
    trainer.static._give_up("values are read on the host at a/b.py:1: item")
    assert found.record()["update"] == "eager (values are read on the host at a/b.py:1: item)"
    own = made("vae", "vae", "vae", "cma")
    assert choose_engine(CoreSettings(), CUDA, own, replay).update.why == "CMAAgent steps its own optimisers"
    assert own.static is None
    core = CoreSettings(train=configured(TrainSettings, engine="float32"))
    assert choose_engine(core, CUDA, made("vae", "vae", "vae"), replay).update.why == "train.engine is float32"


def test_doctor_describes_both_machines(gpu, monkeypatch):
    assert engine.describe_machine() == {
        "device": "NVIDIA Made-up (torch finds this GPU)",
        "products": "bfloat16 (this GPU has units for it)",
        "update": "graph (one CUDA graph, recorded after a few eager updates)",
        "replay": "the GPU's memory (up to 20.0 GB, 25% of it; larger ones in ram)",
    }
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert engine.describe_machine()["update"] == "eager (the device is the CPU)"
