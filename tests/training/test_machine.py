"""The set-up of a training process changes speed and not results."""

import sys

import pytest
import torch
from model_kit import batch_for, build_model, gen, weights
from trainer_toys import ToyAgent

from worldlab.settings import CoreSettings, TrainSettings
from worldlab.training import machine
from worldlab.training.machine import large_products, set_up_machine
from worldlab.training.trainer import Generators, Trainer


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(machine, "has_faster_products", lambda: True)


def test_large_products_are_computed_otherwise_within_the_block_only():
    with large_products(machine.LARGE):
        assert torch.get_float32_matmul_precision() == "medium"
        with large_products(machine.LARGE - 1):
            assert torch.get_float32_matmul_precision() == "medium"
    assert torch.get_float32_matmul_precision() == "highest"
    with pytest.raises(KeyError), large_products(machine.LARGE):
        raise KeyError
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize("reason", ["small", "strict", "slow"])
def test_otherwise_products_stay_as_they_are(reason, monkeypatch):
    if reason == "strict":
        monkeypatch.setattr(machine, "exact", lambda: True)
    if reason == "slow":
        monkeypatch.setattr(machine, "has_faster_products", lambda: False)
    with large_products(machine.LARGE - (reason == "small")):
        assert torch.get_float32_matmul_precision() == "highest"


def test_an_update_differs_by_rounding_only(monkeypatch):
    found = []
    for least in (0, 10**12):
        monkeypatch.setattr(machine, "LARGE", least)
        model = build_model()
        trainer = Trainer(model, ToyAgent(model.specs), TrainSettings(starts=10), Generators(gen(1), gen(2)))
        for seed in range(3):
            trainer.update(batch_for(model, seed=seed))
        found.append({**weights(model), **weights(trainer.agent)})
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=1e-3, atol=1e-5)


def test_a_machine_is_faster_only_if_it_is_as_accurate(monkeypatch):
    """With products in bfloat16, which processors with matrix units compute, the answer is no however fast they are."""
    monkeypatch.undo()
    own = torch.Tensor.__matmul__

    def product(a, b):
        if a.dtype == torch.float32 and torch.get_float32_matmul_precision() == "medium":
            return own(a.bfloat16(), b.bfloat16()).float()
        return own(a, b)

    monkeypatch.setattr(torch.Tensor, "__matmul__", product)
    monkeypatch.setattr(machine, "_time", lambda call: 1.0 if torch.get_float32_matmul_precision() == "highest" else 0.1)
    assert not machine.has_faster_products.__wrapped__()
    accurate = lambda a, b: own(a.double(), b.double()).to(a.dtype)  # noqa: E731
    monkeypatch.setattr(torch.Tensor, "__matmul__", accurate)
    assert machine.has_faster_products.__wrapped__()
    monkeypatch.setattr(machine, "_time", lambda call: 1.0)
    assert not machine.has_faster_products.__wrapped__()
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.skipif(sys.platform != "linux", reason="other C libraries keep their own settings")
def test_freed_memory_is_not_returned_and_mapped_again():
    resource = pytest.importorskip("resource")
    set_up_machine(CoreSettings(device="cpu"))
    faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt  # noqa: E731
    for _ in range(3):
        torch.ones(4_000_000)  # 16 MB: by default mapped anew, page by page
    before = faults()
    for _ in range(20):
        torch.ones(4_000_000)
    assert faults() - before < 1000  # 20 mappings would be 78,000 pages
