"""The compiled update: traced, it is the eager one bit for bit; compiled, it differs by rounding."""

from __future__ import annotations

import shutil

import pytest
import torch
from static_kit import MIXES, batch_of, different, made, state_of

from worldlab import tree
from worldlab.model.schedule import MODEL
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


@pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor needs a C++ compiler")
def test_a_compiled_update_differs_from_the_eager_one_by_rounding():
    """Of the model alone, along two steps: what is longer takes longer to compile, and nothing else is new in it."""
    plain, compiled = (made("vae", "vae", "vae") for _ in range(2))
    compiled.static = StaticUpdate(compiled, CompiledRecorder(after=EAGER))
    for seed in range(EAGER + 3):
        batch = tree.tree_map(lambda leaf: leaf[:, :2], batch_of(plain, seed))
        expected, found = plain.update(batch, MODEL), compiled.update(batch, MODEL)
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4, msg=name)
    assert compiled.static.recorded, compiled.static.reason
