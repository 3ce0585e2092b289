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
    if machine._multiply("medium")[0] > 1e-3:
        pytest.skip("this processor multiplies bfloat16 matrices, so worldlab leaves its products as they are")
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


@pytest.mark.parametrize(("error", "seconds", "faster"), [(4e-5, 0.7, True), (0.2, 0.1, False), (4e-5, 0.9, False)])
def test_products_are_faster_only_if_they_are_as_accurate(error, seconds, faster, monkeypatch):
    monkeypatch.undo()
    found = {"highest": (3e-5, 1.0), "medium": (error, seconds)}
    monkeypatch.setattr(machine, "_multiply", found.__getitem__)
    assert machine.has_faster_products.__wrapped__() is faster


def test_a_busy_machine_does_not_decide_which_products_are_faster(monkeypatch):
    """Both libraries are slowed at random, up to a hundred times; each is undisturbed in one round."""
    monkeypatch.undo()
    slowed = torch.rand(2, machine.ROUNDS, generator=gen()) * 100 + 1
    slowed[0, 3] = slowed[1, 7] = 1.0
    calls = {"highest": iter(slowed[0].tolist()), "medium": iter((0.5 * slowed[1]).tolist())}
    monkeypatch.setattr(machine, "_multiply", lambda precision: (3e-5, next(calls[precision])))
    threads = torch.get_num_threads()
    assert machine.has_faster_products.__wrapped__() is True
    assert torch.get_num_threads() == threads


def test_the_error_of_a_product_is_measured_and_the_precision_restored(monkeypatch):
    own = torch.Tensor.__matmul__
    coarse = lambda a, b: own(a.bfloat16(), b.bfloat16()).float() if a.dtype == torch.float32 else own(a, b)  # noqa: E731
    assert machine._multiply("highest")[0] < 1e-3
    monkeypatch.setattr(torch.Tensor, "__matmul__", coarse)
    assert machine._multiply("medium")[0] > 1e-2
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
