"""Stages: who learns when, and that the others rest to the last bit."""

from dataclasses import replace

import pytest
import torch
from model_kit import batch_for, build_parts, changed, gen, weighted_terms, weights
from trainer_toys import AdversarialDecoder, ToyAgent

from worldlab.model import matching
from worldlab.model.schedule import AGENT, DYNAMICS, JOINT, MODEL, REPRESENTATION, stage_at
from worldlab.settings import ModelSettings, TrainSettings
from worldlab.training.trainer import Generators, Trainer
from worldlab.world_model import WorldModel


def test_the_order_of_stages():
    joint = TrainSettings(pretrain=4)
    assert [stage_at(joint, n) for n in range(6)] == [MODEL] * 4 + [JOINT] * 2
    staged = TrainSettings(pretrain=5, schedule="staged")
    assert [stage_at(staged, n) for n in range(7)] == [REPRESENTATION] * 2 + [DYNAMICS] * 3 + [AGENT] * 2


def trainer(kind="gaussian", decoder=None, **model) -> Trainer:
    specs, encoder, dynamics, plain = build_parts(kind=kind)
    part = decoder(None, specs) if decoder else plain
    world = WorldModel(specs, encoder, dynamics, part, ModelSettings(units=8, **model))
    return Trainer(world, ToyAgent(specs), TrainSettings(starts=10), Generators(gen(1), gen(2)))


@pytest.mark.parametrize(
    ("stage", "learns"),
    [
        (JOINT, {"encoder", "dynamics", "decoder", "reward", "cont", "agent"}),
        (MODEL, {"encoder", "dynamics", "decoder", "reward", "cont"}),
        (REPRESENTATION, {"encoder", "decoder"}),
        (DYNAMICS, {"dynamics", "reward", "cont"}),
        (AGENT, {"agent"}),
    ],
    ids=lambda value: value.name if hasattr(value, "name") else None,
)
def test_a_stage_moves_its_own_parts_and_no_other(stage, learns):
    made = trainer(decoder=AdversarialDecoder)
    model, before, agent = made.model, weights(made.model), weights(made.agent)
    for _ in range(3):
        made.update(batch_for(model), stage)
    moved = {name.partition(".")[0] for name in changed(model, before)}
    assert moved - {"preprocess"} == learns - {"agent"}
    assert bool(changed(made.agent, agent)) == ("agent" in learns)
    assert all(p.requires_grad for p in model.parameters())
    critic = {name for name in changed(model, before) if name.startswith("decoder.critic")}
    assert bool(critic) == ("decoder" in learns)


@pytest.mark.parametrize("schedule", ["joint", "staged"])
def test_what_is_frozen_learns_in_no_stage_and_all_else_when_it_would(schedule):
    plain = TrainSettings(pretrain=4, schedule=schedule)
    frozen = plain.model_copy(update={"freeze": ("dynamics",)})
    for updates in range(7):
        one, other = stage_at(plain, updates), stage_at(frozen, updates)
        assert other == replace(one, parts=one.parts - {"dynamics"})


def test_frozen_dynamics_have_no_loss_and_do_not_move_and_the_other_losses_are_the_same():
    made, control = trainer(), trainer()
    stage = stage_at(TrainSettings(pretrain=0, freeze=("dynamics",)), 0)
    before, agent = weights(control.model), weights(control.agent)
    batch = batch_for(made.model)
    free, held = made.update(batch), control.update(batch, stage)
    gone = {name for name in free if name not in held}
    assert gone == {"loss/dyn"} and set(held) < set(free)
    for name in held:
        if name.startswith("loss/") and not name.startswith("loss/agent"):  # the agent dreams in what was just updated
            torch.testing.assert_close(held[name], free[name], rtol=0, atol=0)
    control.update(batch, stage)
    moved = {name.partition(".")[0] for name in changed(control.model, before)}
    assert moved - {"preprocess"} == {"encoder", "decoder", "reward", "cont"} and changed(control.agent, agent)


def test_the_probe_learns_wherever_a_decoder_would_also_if_it_is_frozen():
    for schedule, learns in (("joint", [True] * 7), ("staged", [True, True, False, False, False, False, False])):
        for freeze in ((), ("decoder",)):
            settings = TrainSettings(pretrain=4, schedule=schedule, freeze=freeze)  # type: ignore[arg-type]
            assert [stage_at(settings, updates).probe for updates in range(7)] == learns


@pytest.mark.parametrize("kind", ["gaussian", "categorical"])
def test_the_representation_is_tied_to_the_standard_prior(kind):
    made = trainer(kind, free_nats=0.0)
    ctx, _ = made.model.observe(batch_for(made.model), gen())
    losses = weighted_terms(made.model, ctx, "main", REPRESENTATION)
    assert set(losses) == {"decoder/reconstruction", "rep"}
    dist = ctx.latent.dist
    prior = matching.standard_prior(made.model.specs.latent, ctx.memory.flatten(0, 1))
    kl = torch.stack([dist.kl(type(prior)(*(leaf[:8] for leaf in vars(prior).values())))[b] for b in range(3)])
    torch.testing.assert_close(losses["rep"], kl)


def test_a_decoder_kept_from_the_memory_sees_zeros_in_its_place_wherever_it_is_used():
    specs, encoder, dynamics, decoder = build_parts()
    world = WorldModel(replace(specs, decoder_memory=False), encoder, dynamics, decoder, ModelSettings(units=8))
    ctx, _ = world.observe(batch_for(world), gen())
    blank = torch.cat([torch.zeros_like(ctx.memory), ctx.latent.z], -1)
    loss = weighted_terms(world, ctx)["decoder/reconstruction"]
    torch.testing.assert_close(loss, decoder.losses(replace(ctx, features=blank))["reconstruction"])
    drawn = world.render(ctx.features[:, 0])
    torch.testing.assert_close(drawn, world.render(blank[:, 0]))
    reaches = torch.autograd.grad(loss.sum(), ctx.features)[0]
    assert not reaches[..., : specs.memory_dim].any() and reaches[..., specs.memory_dim :].any()
