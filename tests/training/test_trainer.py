"""The trainer with a toy adversarial decoder, and what it does when numbers go bad."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from config_kit import configured
from model_kit import batch_for, build_model, build_parts, changed, gen, weighted_terms, weights
from torch import Tensor
from trainer_toys import AdversarialDecoder, ToyAgent

from worldlab import tree
from worldlab.errors import DivergedError
from worldlab.interfaces import Player
from worldlab.model.health import first_nonfinite
from worldlab.model.schedule import JOINT, MODEL
from worldlab.settings import ModelSettings, TrainSettings
from worldlab.training.trainer import Generators, Trainer
from worldlab.world_model import WorldModel


def adversarial(**train) -> Trainer:
    specs, encoder, dynamics, _ = build_parts()
    model = WorldModel(specs, encoder, dynamics, AdversarialDecoder(None, specs), ModelSettings(units=8))
    settings = configured(TrainSettings, starts=10, **train)
    return Trainer(model, ToyAgent(specs), settings, Generators(gen(1), gen(2)))


def critic_names(model: WorldModel) -> set[str]:
    return {name for name in model.state_dict() if name.startswith("decoder.critic")}


def test_the_critic_goes_first_on_a_detached_context_then_main_with_the_critic_frozen():
    trainer = adversarial()
    trainer.update(batch_for(trainer.model), MODEL)
    decoder: Any = trainer.model.decoder
    assert decoder.trace == ["critic:False:True", "after:critic", "main:True:False", "after:main"]


def test_a_players_step_moves_its_own_parameters_and_nothing_else():
    trainer = adversarial()
    model = trainer.model
    ctx, _ = model.observe(batch_for(model), gen())
    before = weights(model)
    trainer._update_critics(ctx, JOINT)
    assert changed(model, before) == critic_names(model)
    before, agent = weights(model), weights(trainer.agent)
    trainer._update_main(ctx, JOINT)
    moved = changed(model, before)
    assert not moved & critic_names(model)
    assert {"decoder.generator.weight", "encoder.head.weight", "dynamics.cell.weight", "cont.net.0.weight"} <= moved
    assert not changed(trainer.agent, agent)


def test_no_gradient_ever_touches_the_critic_in_mains_turn():
    trainer = adversarial()
    model = trainer.model
    ctx, _ = model.observe(batch_for(model), gen())
    trainer._update_main(ctx, JOINT)
    decoder: Any = model.decoder
    assert decoder.critic.weight.grad is None and decoder.critic.weight.requires_grad
    assert decoder.generator.weight.grad is not None


def test_the_critic_has_its_own_optimiser_and_rate():
    trainer = adversarial(learning_rate=1e-3, critic_learning_rate=5e-4)
    groups = {name: opt.param_groups[0] for name, opt in trainer.optimizers.items()}
    assert {name: group["lr"] for name, group in groups.items()} == {
        "model/main": 1e-3, "model/critic": 5e-4, "agent/a": 1e-2, "agent/b": 1e-3
    }  # fmt: skip
    assert groups["model/critic"]["betas"][0] == 0 and groups["model/main"]["betas"][0] == 0.9


def test_a_players_own_rate_and_betas_reach_its_optimiser_and_are_annealed():
    specs, encoder, dynamics, _ = build_parts()
    decoder, agent = AdversarialDecoder(None, specs), ToyAgent(specs)
    generator, critic = list(decoder.generator.parameters()), list(decoder.critic.parameters())
    decoder.players = lambda: {"main": Player(generator), "critic": Player(critic, 7e-4, (0.5, 0.9))}  # type: ignore[method-assign]
    agent.players = lambda: {"a": Player(list(agent.parameters()), 1e-2, (0.8, 0.95))}  # type: ignore[method-assign]
    model = WorldModel(specs, encoder, dynamics, decoder, ModelSettings(units=8))
    settings = TrainSettings(learning_rate=1e-3, critic_learning_rate=5e-4, final_rate=0.1)
    trainer = Trainer(model, agent, settings, Generators(gen(1), gen(2)))
    groups = {name: opt.param_groups[0] for name, opt in trainer.optimizers.items()}
    found = {name: (group["lr"], group["betas"]) for name, group in groups.items()}
    assert found == {
        "model/main": (1e-3, (0.9, 0.999)), "model/critic": (7e-4, (0.5, 0.9)), "agent/a": (1e-2, (0.8, 0.95))
    }  # fmt: skip
    assert [id(p) for p in groups["model/critic"]["params"]] == [id(p) for p in critic]
    trainer.anneal(1.0)
    assert [group["lr"] for group in groups.values()] == pytest.approx([1e-4, 7e-5, 1e-3])


def test_a_player_of_an_agent_without_a_rate_is_refused():
    model = build_model()
    agent = ToyAgent(model.specs)
    agent.players = lambda: {"a": Player(list(agent.parameters()))}  # type: ignore[method-assign]
    with pytest.raises(AssertionError, match="an agent's player declares its learning rate"):
        Trainer(model, agent, TrainSettings(), Generators(gen(1), gen(2)))


def test_the_agents_step_leaves_the_model_alone_and_its_players_apart():
    trainer = adversarial()
    model = trainer.model
    batch = batch_for(model)
    ctx, seen = model.observe(batch, gen())
    before, agent = weights(model), weights(trainer.agent)
    trainer._update_agent(ctx, seen)
    assert not changed(model, before)
    assert changed(trainer.agent, agent) == {"a.weight", "a.bias", "b.weight", "b.bias"}
    assert all(p.grad is None for p in model.parameters()) and all(p.requires_grad for p in model.parameters())
    assert trainer.agent.steps == 1  # type: ignore[attr-defined]


def test_starts_are_distinct_detached_posterior_states_with_their_own_reward_and_cont():
    trainer = adversarial()
    model = trainer.model
    batch = batch_for(model)
    ctx, seen = model.observe(batch, gen())
    starts = trainer.starts(ctx, seen)
    features = model.features(starts.carry)
    assert features.shape[0] == 10 and not features.requires_grad
    flat, places = ctx.features.flatten(0, 1), set()
    for i in range(10):
        place = int((flat - features[i]).abs().sum(1).argmin())
        torch.testing.assert_close(flat[place], features[i])
        assert starts.reward[i] == batch.reward.flatten()[place] and starts.cont[i] == batch.cont.flatten()[place]
        places.add(place)
    assert len(places) == 10


def test_one_update_is_one_adam_step_on_the_average_of_all_terms():
    """An independent optimiser with the same gradient lands on the same weights; invalid steps do not count."""
    trainer, twin = adversarial(clip=1e9), build_model()
    model = build_model()
    agent = ToyAgent(model.specs)
    trainer = Trainer(model, agent, configured(TrainSettings, learning_rate=1e-2, clip=1e9), Generators(gen(1), gen(2)))
    batch = batch_for(model)
    batch.mask[1, 5:] = 0
    out = trainer.update(batch, MODEL)
    ctx, _ = twin.observe(batch, gen(1))
    losses = weighted_terms(twin, ctx)
    valid = batch.mask.bool()
    sum(term[valid].mean() for term in losses.values()).backward()  # type: ignore[union-attr]
    optimizer = torch.optim.Adam(twin.parameters(), 1e-2, eps=1e-8)
    norm = torch.stack([p.grad.norm() for p in twin.parameters() if p.grad is not None]).norm()
    optimizer.step()
    torch.testing.assert_close(out["grad_norm/model/main"], norm)
    torch.testing.assert_close(out["loss/dyn"], losses["dyn"][valid].mean())
    for (name, ours), theirs in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, msg=lambda m, name=name: f"{name}: {m}", rtol=1e-4, atol=1e-5)


def test_gradients_are_clipped_to_the_global_norm():
    trainer = adversarial(clip=0.01)
    out = trainer.update(batch_for(trainer.model), MODEL)
    assert out["grad_norm/model/main"] > 0.1  # reported before clipping
    for optimizer in (trainer.main, trainer.critics["critic"]):
        grads = [p.grad for p in optimizer.param_groups[0]["params"] if p.grad is not None]
        assert torch.stack([g.norm() for g in grads]).norm().item() == pytest.approx(0.01, rel=1e-3)


def poison(trainer: Trainer) -> None:
    """From now on the generator's loss, and only that, is NaN."""
    decoder: Any = trainer.model.decoder
    honest = decoder.losses

    def losses(ctx, player="main"):
        out = honest(ctx, player)
        return {key: term * torch.nan for key, term in out.items()} if player == "main" else out

    decoder.losses = losses


def test_a_bad_update_changes_no_weight_of_its_player_and_is_forgiven_after_a_good_one(caplog):
    trainer = adversarial(max_skips=3)
    batch = batch_for(trainer.model)
    honest = trainer.model.decoder.losses
    poison(trainer)
    before = weights(trainer.model)
    for _ in range(2):
        out = trainer.update(batch, MODEL)
        assert not torch.isfinite(out["grad_norm/model/main"])
    assert caplog.messages == [
        "update 1: loss 'decoder/fool' is not finite; this update changes no weight of its player"
    ]
    assert changed(trainer.model, before) <= critic_names(trainer.model)
    trainer.model.decoder.losses = honest  # type: ignore[method-assign]
    trainer.update(batch, MODEL)
    assert trainer.skips == 0
    assert "encoder.head.weight" in changed(trainer.model, before)


@pytest.mark.parametrize("stage", [MODEL, JOINT])
def test_bad_updates_in_a_row_end_the_run_naming_the_loss_though_other_players_are_well(stage):
    trainer = adversarial(max_skips=3)
    batch = batch_for(trainer.model)
    poison(trainer)
    with pytest.raises(DivergedError) as caught:
        for _ in range(3):
            trainer.update(batch, stage)
    assert "loss 'decoder/fool'" in caught.value.message and "update 3" in caught.value.message
    assert caught.value.exit_code == 5 and len(caught.value.message) <= 100
    assert "learning-rate" in str(caught.value.fix)


def test_a_bad_agent_is_skipped_as_a_whole_and_named():
    trainer = adversarial(max_skips=2)
    batch = batch_for(trainer.model)
    trainer.agent.broken = True  # type: ignore[assignment]
    before = weights(trainer.agent)
    trainer.update(batch)
    assert not changed(trainer.agent, before)
    with pytest.raises(DivergedError, match="agent/a"):
        trainer.update(batch)


def test_a_finite_loss_with_a_bad_gradient_is_caught_too():
    trainer = adversarial(max_skips=1)
    decoder: Any = trainer.model.decoder
    # sqrt has an infinite gradient at 0, where its value is 0.
    root = lambda ctx: {"root": (ctx.features.square().sum(-1) * 0).sqrt()}  # noqa: E731
    decoder.losses = lambda ctx, player="main": root(ctx) if player == "main" else {}
    before = weights(trainer.model)
    with pytest.raises(DivergedError, match="gradient of model/"):
        trainer.update(batch_for(trainer.model), MODEL)
    assert not changed(trainer.model, before)


def test_an_infinite_loss_with_a_finite_gradient_ends_the_run_after_as_many_updates(caplog):
    """A constant added to a loss changes no gradient, so such a run once ended as "finished"."""
    trainer = adversarial(max_skips=3)
    decoder: Any = trainer.model.decoder
    honest, batch = decoder.losses, batch_for(trainer.model)
    before = weights(trainer.model)
    _add_to_main(decoder, torch.inf)
    for _ in range(2):
        out = trainer.update(batch, MODEL)
        assert torch.isfinite(out["grad_norm/model/main"]) and torch.isinf(out["loss/decoder/fool"])
    assert "encoder.head.weight" in changed(trainer.model, before)  # what could be learnt was learnt
    assert caplog.messages == ["update 1: loss 'decoder/fool' is not finite; its gradient is finite and is used"]
    decoder.losses = honest
    trainer.update(batch, MODEL)
    assert trainer.skips == 0
    _add_to_main(decoder, torch.inf)
    with pytest.raises(
        DivergedError, match=r"'decoder/fool' is not finite at update 6; 3 updates in a row\n"
    ) as caught:
        for _ in range(3):
            trainer.update(batch, MODEL)
    assert caught.value.exit_code == 5


def _add_to_main(decoder: Any, constant: float) -> None:
    honest = decoder.losses

    def losses(ctx, player="main"):
        out = honest(ctx, player)
        return {key: term + constant for key, term in out.items()} if player == "main" else out

    decoder.losses = losses


def test_an_agent_whose_loss_is_infinite_ends_the_run_too():
    trainer = adversarial(max_skips=2)
    honest: Any = trainer.agent.losses

    def losses(model, seen, generator):
        out, metrics = honest(model, seen, generator)
        return {**out, "b": out["b"] + torch.inf}, metrics

    trainer.agent.losses = losses  # type: ignore[method-assign]
    trainer.update(batch_for(trainer.model))
    with pytest.raises(DivergedError, match="agent/b"):
        trainer.update(batch_for(trainer.model))


def _spoil(trainer: Trainer, role: str, method: str, at: int | None = None) -> None:
    part: Any = trainer.model.parts[role]
    honest = getattr(part, method)
    count = iter(range(10**6))

    def spoilt(*args: Any) -> Any:
        out = honest(*args)
        return tree.tree_map(lambda leaf: leaf * torch.nan, out) if at is None or next(count) == at else out

    setattr(part, method, spoilt)


@pytest.mark.parametrize(
    ("role", "method", "at", "named"),
    [
        ("encoder", "embed", None, "the embedding of the encoder"),
        ("encoder", "infer", 2, "the latent of the encoder"),
        ("dynamics", "predict", None, "the prediction of the dynamics"),
    ],
)
def test_the_part_that_first_gave_a_bad_value_is_named_at_once(role, method, at, named, caplog):
    trainer = adversarial(max_skips=2)
    _spoil(trainer, role, method, at)
    batch = batch_for(trainer.model)
    trainer.update(batch, MODEL)
    assert f"; the first value that is not finite: {named}; this update changes no weight" in caplog.messages[0]


def test_a_bad_memory_is_told_from_the_latent_that_follows_it():
    ctx, _ = (trainer := adversarial()).model.observe(batch_for(trainer.model), gen())
    memory, z = ctx.memory.detach().clone(), ctx.latent.z.detach().clone()
    memory[0, 2:], z[:, 2:] = torch.nan, torch.inf
    later = replace(ctx, memory=memory, latent=replace(ctx.latent, z=z))
    assert first_nonfinite(later) == "the memory of the dynamics"
    z[:, 1:] = torch.inf
    assert first_nonfinite(replace(later, latent=replace(ctx.latent, z=z))) == "the latent of the encoder"
    assert first_nonfinite(ctx) == ""


def test_reports_do_not_fill_the_screen(caplog):
    trainer = adversarial(max_skips=3)
    decoder: Any = trainer.model.decoder
    honest, batch = decoder.losses, batch_for(trainer.model)
    for _ in range(8):
        poison(trainer)
        trainer.update(batch, MODEL)
        decoder.losses = honest
        trainer.update(batch, MODEL)
    assert len(caplog.messages) == 5 and caplog.messages[-1].endswith("; later ones are not reported")


def test_one_bad_update_counts_once_however_many_players_were_skipped():
    trainer = adversarial(max_skips=2)
    poison(trainer)
    trainer.agent.broken = True  # type: ignore[assignment]
    trainer.update(batch_for(trainer.model))
    assert trainer.skips == 1


def test_the_same_streams_give_the_same_update():
    def run() -> dict[str, Tensor]:
        trainer = adversarial()
        for seed in range(3):
            trainer.update(batch_for(trainer.model, seed=seed))
        return {**weights(trainer.model), **weights(trainer.agent)}

    first, second = run(), run()
    assert all(torch.equal(first[name], second[name]) for name in first)
