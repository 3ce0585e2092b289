"""The update from static buffers: equal to the plain one, free of host reads, and recorded only where a replay is right.

No GPU is needed: the same code runs on the CPU, with a recorder that keeps a call where a GPU's keeps a graph.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import pytest
import torch
from static_kit import CPU, MIXES, Echo, batch_of, different, made, state_of
from torch import Tensor

from worldlab.errors import DivergedError
from worldlab.model.schedule import AGENT, JOINT, MODEL, stage_at
from worldlab.nn import fixed_shapes, may_read, reached
from worldlab.runs.optimizer_state import flatten_optimizer, restore_optimizer
from worldlab.training import graph
from worldlab.training.graph import EAGER, PATIENCE, StaticUpdate, why_not_recorded
from worldlab.training.host_reads import shortest, watch_host_reads

FAMILIES = ("vae", "flow", "autoregressive", "gan", "cpc")


@pytest.mark.parametrize(("encoder", "dynamics", "decoder", "agent", "image"), MIXES, ids=lambda value: str(value))
def test_updates_from_static_buffers_are_the_plain_ones_bit_for_bit(encoder, dynamics, decoder, agent, image):
    """Where every step has a reset: a step without one skips its replacement in the plain update, which adds gradients in
    another order."""
    plain, static = (made(encoder, dynamics, decoder, agent, image=image) for _ in range(2))
    static.static = StaticUpdate(static, None)
    for seed in range(3):
        batch = batch_of(plain, seed, resets=True)
        for trainer in (plain, static):
            trainer.anneal(seed / 7)  # a learning rate that float32 cannot hold
        assert different(plain.update(batch), static.update(batch)) == []
    assert different(state_of(plain), state_of(static)) == []


def test_without_resets_they_differ_by_rounding_only():
    plain, static = (made("vae", "vae", "vae") for _ in range(2))
    static.static = StaticUpdate(static, None)
    for seed in range(2):
        a, b = (trainer.update(batch_of(plain, seed)) for trainer in (plain, static))
        for name, value in a.items():
            torch.testing.assert_close(b[name], value, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("agent", ["dreamer", "tdmpc"])
@pytest.mark.parametrize("family", FAMILIES)
def test_no_update_reads_a_value_on_the_host(family, agent):
    trainer = made(family, family, family, agent, image=True)
    batch = batch_of(trainer)
    with fixed_shapes():
        for _ in range(EAGER):  # initialisations from data are over
            trainer.compute(batch, JOINT)
        with watch_host_reads(CPU) as places:
            trainer.compute(batch, JOINT)
    assert places == []


SYSTEMS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "particles": (("vae", "autoregressive", "vae"), {"model": {"samples": 3}}),
    "twister": (("simnorm", "twister", "pixelcnn"), {}),
    "gmmn": (("vae", "gmmn", "vae"), {}),
}


@pytest.mark.parametrize("system", SYSTEMS)
def test_no_named_system_reads_a_value_on_the_host(system):
    parts, flags = SYSTEMS[system]
    trainer = made(*parts, "tdmpc", image=True, **flags)  # type: ignore[arg-type]
    batch = batch_of(trainer)
    with fixed_shapes():
        for _ in range(EAGER):
            trainer.compute(batch, JOINT)
        with watch_host_reads(CPU) as places:
            trainer.compute(batch, JOINT)
    assert places == []


READS: dict[str, Any] = {
    "item": lambda x: x.sum().item(),
    "__bool__": lambda x: bool(x.sum() > 0),
    "__float__": lambda x: float(x[0]),
    "tolist": lambda x: x.tolist(),
    "numpy": lambda x: x.numpy(),
    "nonzero": lambda x: x.nonzero(),
    "__getitem__": lambda x: x[x > 0],
    "where": lambda x: torch.where(x > 0),
    "tensor": lambda x: torch.tensor([1.0, 2.0]),
    "repeat_interleave": lambda x: x.repeat_interleave(torch.ones(4, dtype=torch.long)),
    "_local_scalar_dense": lambda x: torch.nn.functional.one_hot(x.long(), 2),
}


@pytest.mark.parametrize("name", READS)
def test_a_read_is_noticed_with_its_place(name):
    with watch_host_reads(CPU) as places:
        READS[name](torch.ones(4))
    assert f"test_graph.py:{READS[name].__code__.co_firstlineno}: {name}" in shortest(places, 9)


def test_work_that_stays_on_the_device_is_not_noticed():
    x = torch.ones(4, requires_grad=True)
    with watch_host_reads(CPU) as places:
        y = torch.where(x > 0, x, 0.0)[torch.arange(2)].sum() * x[1:].max() + x.repeat_interleave(2).sum()
        y.backward()
    assert places == []


def test_values_may_be_read_on_the_cpu_unless_shapes_are_fixed():
    x = torch.zeros(2)
    assert may_read(x)
    with fixed_shapes(), fixed_shapes():
        assert not may_read(x)
    assert may_read(x) and not may_read(torch.zeros(2, device="meta"))


def test_a_state_that_was_reached_is_read_no_more_until_weights_are_loaded():
    module = torch.nn.Module()
    module.register_buffer("started", torch.tensor(False))
    before = module.state_dict()
    before = {name: value.clone() for name, value in before.items()}
    assert not reached(module, "started", True)
    module.get_buffer("started").fill_(True)
    assert reached(module, "started", True)
    with watch_host_reads(CPU) as places:
        assert reached(module, "started", True)
    assert places == []
    torch.nn.ModuleList([module]).load_state_dict({f"0.{name}": value for name, value in before.items()})
    assert not reached(module, "started", True)


# ---- steps that are not finite ----


def test_a_bad_step_is_skipped_on_the_device_and_reported_afterwards(caplog):
    plain, static = (made("vae", "vae", "vae") for _ in range(2))
    static.static = StaticUpdate(static, None)
    batch = batch_of(plain, resets=True)
    for trainer in (plain, static):
        trainer.update(batch)
    good = state_of(static)
    broken = batch_of(plain, resets=True)
    broken.reward[1, 2] = torch.nan
    for trainer in (plain, static):
        trainer.update(broken, MODEL)
    assert different(state_of(plain), state_of(static)) == []
    after = state_of(static)
    assert [name for name in different(good, after) if not name.startswith("stream")] == []
    assert caplog.messages == ["update 2: loss 'reward' is not finite; this update changes no weight of its player"] * 2
    assert plain.skips == static.skips == 1
    for trainer in (plain, static):
        trainer.update(batch)
    assert static.skips == 0 and different(state_of(plain), state_of(static)) == []


def test_bad_updates_in_a_row_end_a_static_run_too():
    trainer = made("vae", "vae", "vae")
    trainer.static = StaticUpdate(trainer, None)
    batch = batch_of(trainer)
    batch.reward[1, 2] = torch.nan
    with pytest.raises(DivergedError, match="loss 'reward' is not finite at update 10; 10 updates skipped in a row"):
        for _ in range(10):
            trainer.update(batch, MODEL)


# ---- recording ----


def recorded(spoil: Any = None, agent: str = "dreamer") -> tuple[Any, StaticUpdate, Echo]:
    trainer = made("vae", "vae", "vae", agent)
    static = StaticUpdate(trainer, echo := Echo(spoil))
    trainer.static = static
    return trainer, static, echo


@pytest.mark.parametrize("agent", ["dreamer", "tdmpc"])
def test_a_recorded_update_is_replayed_from_the_fourth_on_and_equals_the_plain_one(agent):
    plain = made("vae", "vae", "vae", agent)
    trainer, static, echo = recorded(agent=agent)
    kept: list[dict[str, Tensor]] = []
    for seed in range(6):
        batch = batch_of(plain, seed, resets=True)
        for one in (plain, trainer):
            one.anneal(seed / 7)
        expected = plain.update(batch)
        kept.append(trainer.update(batch))
        assert static.recorded == (seed >= EAGER)
        assert different({k: v.float() for k, v in expected.items()}, {k: v.float() for k, v in kept[-1].items()}) == []
    assert different(state_of(plain), state_of(trainer)) == []
    assert echo.replays == 2 + 3 and static.reason == ""  # two that verify
    assert float(kept[3]["loss/dyn"]) != float(kept[4]["loss/dyn"])  # a replay overwrites no metric of an earlier one


def test_an_update_in_which_nothing_learns_is_recorded_too():
    trainer, static, _ = recorded(agent="random")
    for _ in range(EAGER + 1):
        assert trainer.update(batch_of(trainer), AGENT) == {}
    assert static.recorded


def test_a_new_stage_is_recorded_anew_and_a_loaded_optimiser_drops_the_recording():
    trainer, static, _ = recorded()
    for _ in range(EAGER + 1):
        trainer.update(batch_of(trainer), MODEL)
    assert static.recorded
    trainer.update(batch_of(trainer), JOINT)
    assert not static.recorded
    for _ in range(EAGER):
        trainer.update(batch_of(trainer), JOINT)
    assert static.recorded
    restore_optimizer(trainer.main, *flatten_optimizer(trainer.main))
    assert not static.recorded
    group = trainer.main.param_groups[0]
    assert isinstance(group["lr"], float) and group["capturable"] is False  # a checkpoint is that of a plain run


def rewound(trainer: Any) -> Any:
    state = trainer.generators.model.get_state()
    return lambda _: trainer.generators.model.set_state(state)


def unchanged_buffer(trainer: Any) -> Any:
    low = trainer.agent.range.low
    value = low.clone()
    return lambda _: low.copy_(value)


SPOILT = {
    "a replay does not advance the random streams as an eager update does": rewound,
    "a replay and an eager update change different tensors: agent.range.low": unchanged_buffer,
    "an eager update and a replay differ in 'loss/": lambda _: lambda results: results[0].mul_(1.5),
}


@pytest.mark.parametrize("reason", SPOILT)
def test_a_recording_that_does_not_do_what_an_update_does_is_refused(reason, caplog):
    trainer, static, echo = recorded()
    echo.spoil = lambda: SPOILT[reason](trainer)
    plain = made("vae", "vae", "vae")
    for seed in range(6):
        batch = batch_of(plain, seed, resets=True)
        plain.update(batch)
        trainer.update(batch)
    assert static.reason.startswith(reason) and not static.recorded
    assert different(state_of(plain), state_of(trainer)) == []  # the attempt left no trace
    assert [message.partition(": ")[0] for message in caplog.messages] == ["updates run without a graph"]


def test_a_recording_that_fails_is_a_reason_and_no_error(monkeypatch):
    trainer, static, echo = recorded()

    def fail(call: Any) -> Any:
        try:
            call()
            raise RuntimeError("operation not permitted when stream is capturing")
        finally:
            raise RuntimeError("capture_end failed")

    monkeypatch.setattr(echo, "record", fail)
    plain = made("vae", "vae", "vae")
    for seed in range(5):
        batch = batch_of(plain, seed, resets=True)
        plain.update(batch)
        trainer.update(batch)
    assert static.reason == (
        "RuntimeError: operation not permitted when stream is capturing; then RuntimeError: capture_end failed"
    )
    assert different(state_of(plain), state_of(trainer)) == []


def test_an_update_that_goes_on_reading_values_is_not_recorded():
    trainer, static, _ = recorded()
    honest = trainer.agent.after_step

    def after_step() -> None:
        assert float(trainer.agent.range.low) < 1e9
        honest()

    trainer.agent.after_step = after_step
    for _ in range(PATIENCE):
        assert static.reason == ""
        trainer.update(batch_of(trainer))
    assert "values are read on the host at" in static.reason and "test_graph.py" in static.reason


def test_a_rising_capacity_is_not_recorded_before_it_has_its_value():
    trainer = made("vae", "vae", "vae", model={"capacity": 2.0})
    trainer.static = static = StaticUpdate(trainer, Echo())
    for updates in (*range(5), *range(1000, 1005)):
        trainer.update(batch_of(trainer), stage_at(trainer.settings, updates + trainer.settings.pretrain))
        assert not static.recorded or updates >= 1000
    assert static.recorded


def test_what_cannot_be_recorded_has_a_reason():
    ensemble = made("vae", "ensemble", "vae")
    assert "a member that is drawn" in why_not_recorded(ensemble.model, ensemble.agent)
    own = made("vae", "vae", "vae", "cma")
    assert why_not_recorded(own.model, own.agent) == "CMAAgent steps its own optimisers"
    trainer = made("vae", "vae", "vae")
    assert why_not_recorded(trainer.model, trainer.agent) == ""


class Cuda:
    """Stands in for torch.cuda: notes the order of calls. fails: the end of a recording raises, as CUDA does."""

    def __init__(self, fails: bool = False):
        self.calls: list[str] = []
        self.current, self.fails, self.streams = "main", fails, 0
        cuda = self

        class Stream:
            def __init__(self, device: Any = None):
                cuda.streams += 1
                self.name = "side"

            def wait_stream(self, other: Any) -> None:
                cuda.calls.append(f"{self.name} waits for {other.name}")

        class Graph:
            def register_generator_state(self, generator: torch.Generator) -> None:
                cuda.calls.append("register")

            def replay(self) -> None:
                cuda.calls.append(f"replay on {cuda.current}")

        class Main(Stream):
            def __init__(self) -> None:
                self.name = "main"

        self.Stream, self.CUDAGraph, self.main = Stream, Graph, Main()

    def current_stream(self, device: Any) -> Any:
        return self.main

    def set_stream(self, stream: Any) -> None:
        self.current = stream.name

    @contextmanager
    def stream(self, stream: Any) -> Any:
        before, self.current = self.current, stream.name
        yield
        self.current = before

    @contextmanager
    def graph(self, graph: Any, stream: Any) -> Any:
        before, self.current = self.current, stream.name
        try:
            yield
        finally:
            self.calls.append("end of recording")
            if self.fails:
                raise RuntimeError("capture_end failed")
        self.current = before


def test_the_recorder_of_a_gpu_keeps_the_order_of_streams(monkeypatch):
    """Without a GPU only the calls and their order can be tested."""
    monkeypatch.setattr(graph.torch, "cuda", cuda := Cuda())
    generator = torch.Generator()
    recorder = graph.CudaRecorder(CPU, (generator, generator))
    with recorder.beside():
        cuda.calls.append(f"eager on {cuda.current}")
    assert cuda.calls == ["side waits for main", "eager on side", "main waits for side"]
    cuda.calls.clear()
    results = recorder.record(lambda: cuda.calls.append(f"recorded on {cuda.current}") or (torch.ones(1),))
    recorder.replay()
    assert results[0] == 1 and cuda.streams == 1
    assert cuda.calls == [
        "register", "side waits for main", "recorded on side", "end of recording", "main waits for side", "replay on main"
    ]  # fmt: skip


def test_a_recorder_whose_recording_fails_restores_the_stream(monkeypatch):
    monkeypatch.setattr(graph.torch, "cuda", cuda := Cuda(fails=True))
    recorder = graph.CudaRecorder(CPU, (torch.Generator(),))
    with pytest.raises(RuntimeError, match="capture_end failed"):
        recorder.record(lambda: (torch.ones(1),))
    assert cuda.current == "main"
    with pytest.raises(AssertionError):
        recorder.replay()


# ---- bfloat16 ----


@pytest.mark.parametrize("agent", ["dreamer", "tdmpc"])
@pytest.mark.parametrize("family", FAMILIES)
def test_an_update_in_bfloat16_keeps_losses_weights_and_gradients_in_float32(family, agent):
    full, half = (made(family, family, family, agent) for _ in range(2))
    half.products = torch.bfloat16
    batch = batch_of(full)
    for seed in range(2):
        a, b = (trainer.compute(batch_of(full, seed), MODEL).metrics for trainer in (full, half))
        assert {value.dtype for value in b.values()} == {torch.float32}
        for name in a:
            if name.startswith("loss/"):
                torch.testing.assert_close(b[name], a[name], rtol=0.1, atol=0.1, msg=name)
    found = half.compute(batch, JOINT).metrics
    assert all(bool(value.isfinite()) for value in found.values())
    learnt = {name for name, p in half.agent.named_parameters() if p.grad is not None}
    full.compute(batch, JOINT)
    assert learnt == {name for name, p in full.agent.named_parameters() if p.grad is not None}
    assert {p.grad.dtype for p in half.model.parameters() if p.grad is not None} == {torch.float32}
