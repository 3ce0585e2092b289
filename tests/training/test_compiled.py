"""The compiled update: traced, it is the eager one bit for bit; compiled, it differs by rounding."""

from __future__ import annotations

import shutil

import pytest
import torch
from static_kit import MIXES, batch_of, different, made, state_of
from torch import Tensor

from worldlab.distributions import normal_like
from worldlab.model.noise import stream
from worldlab.training.adam import Adam
from worldlab.training.compiled import CompiledRecorder
from worldlab.training.graph import EAGER, StaticUpdate


def interpreted(after: int = EAGER) -> CompiledRecorder:
    """A recorder whose graph runs as it was traced, one operation of torch after the other."""
    return CompiledRecorder(compile_graph=lambda graph, inputs: graph, after=after)


@pytest.mark.parametrize(("encoder", "dynamics", "decoder", "agent", "image"), MIXES, ids=lambda value: str(value))
def test_a_traced_update_is_the_eager_one_bit_for_bit(encoder, dynamics, decoder, agent, image):
    plain, traced = (made(encoder, dynamics, decoder, agent, image=image) for _ in range(2))
    plain.static, traced.static = StaticUpdate(plain, None), StaticUpdate(traced, interpreted())
    for seed in range(EAGER + 3):
        batch = batch_of(plain, seed)
        for trainer in (plain, traced):
            trainer.anneal(seed / 17)  # a learning rate that float32 cannot hold
        assert different(plain.update(batch), traced.update(batch)) == []
    assert traced.static.recorded, traced.static.reason
    assert different(state_of(plain), state_of(traced)) == []


def test_a_bad_batch_changes_no_weight_and_the_next_one_does():
    plain, traced = (made("vae", "vae", "vae") for _ in range(2))
    plain.static, traced.static = StaticUpdate(plain, None), StaticUpdate(traced, interpreted())
    for seed in range(EAGER + 3):
        batch = batch_of(plain, seed)
        if seed == EAGER + 1:
            batch.reward[0, 1] = torch.nan
        before = [parameter.detach().clone() for parameter in traced.model.parameters()]
        for trainer in (plain, traced):
            trainer.update(batch)
        changed = any(not torch.equal(*pair) for pair in zip(before, traced.model.parameters(), strict=True))
        assert changed == (seed != EAGER + 1)
    assert traced.static.recorded and different(state_of(plain), state_of(traced)) == []


def test_a_stage_runs_eagerly_until_compilation_may_pay():
    trainer = made("vae", "vae", "vae")
    trainer.static = StaticUpdate(trainer, interpreted(after=5))
    seen = []
    for seed in range(7):
        trainer.update(batch_of(trainer, seed))
        seen.append(trainer.static.recorded)
    assert seen == [False] * 5 + [True] * 2


def test_numbers_whose_distribution_depends_on_a_tensor_are_not_recorded(monkeypatch):
    trainer = made("vae", "vae", "vae")
    trainer.static = StaticUpdate(trainer, interpreted())
    losses = trainer.agent.losses

    def with_draw(model, seen, generator):
        seen.reward.clone().bernoulli_(torch.full_like(seen.reward, 0.5), generator=generator)
        return losses(model, seen, generator)

    monkeypatch.setattr(trainer.agent, "losses", with_draw)
    for _ in range(EAGER + 1):
        trainer.update(batch_of(trainer))
    assert not trainer.static.recorded
    assert "draws numbers whose distribution depends on a tensor" in trainer.static.reason


class Small:
    """The least that an update consists of: random numbers, a gradient and a step of Adam that may be skipped."""

    def __init__(self) -> None:
        self.generator = stream(0)
        self.net = torch.nn.Linear(3, 2)
        with torch.no_grad():
            for weight in self.net.parameters():
                weight.copy_(torch.linspace(-1, 1, weight.numel()).view_as(weight))
        self.rate = torch.tensor(0.1, dtype=torch.float64)
        self.optimizer = Adam(self.net.parameters(), self.rate, fused=True)

    def update(self) -> tuple[Tensor, ...]:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.net(normal_like(torch.zeros(4, 3), self.generator)).tanh().square().sum()
        loss.backward()
        self.optimizer.step_if(torch.isfinite(loss))
        return (loss.detach(),)

    def tensors(self) -> list[Tensor]:
        moments = [value for state in self.optimizer.state.values() for value in state.values()]
        return [weight.detach() for weight in self.net.parameters()] + moments


@pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor needs a C++ compiler")
def test_a_compiled_update_differs_from_the_eager_one_by_rounding():
    eager, compiled = Small(), Small()
    for one in (eager, compiled):
        one.update()  # the optimiser has its state
    before, stream_before = [tensor.clone() for tensor in compiled.tensors()], compiled.generator.get_state()
    recorder = CompiledRecorder()
    (loss,) = recorder.record(compiled.update)
    for tensor, value in zip(compiled.tensors(), before, strict=True):
        tensor.copy_(value)
    compiled.generator.set_state(stream_before)
    for rate in (0.1, 0.01, 0.3):
        for one in (eager, compiled):
            one.rate.fill_(rate)
        recorder.replay()
        torch.testing.assert_close(loss, eager.update()[0])
        torch.testing.assert_close(compiled.tensors(), eager.tensors())
    assert torch.equal(compiled.generator.get_state(), eager.generator.get_state())
