from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from model_kit import MEMORY, batch_for, build_model, build_parts, gen, weighted_terms

from worldlab import tree
from worldlab.errors import ConfigError
from worldlab.interfaces import Player
from worldlab.model.health import HealthMonitor
from worldlab.model.noise import noise_batch
from worldlab.settings import ModelSettings
from worldlab.testing.reference import ReferenceDecoder, ReferenceDecoderConfig
from worldlab.testing.toys import ACTIONS, OBS
from worldlab.world_model import WorldModel


class Blind(ReferenceDecoder):  # type: ignore[misc]  # a test double, not a component to ship
    """Scores as the reference does but draws nothing."""

    renders = False

    def decode(self, features):
        return {}

    def losses(self, ctx, player="main"):
        return {}


def blind_model(**settings) -> WorldModel:
    specs, encoder, dynamics, _ = build_parts(obs=OBS["dict"])
    decoder = Blind(ReferenceDecoderConfig(), specs)
    return WorldModel(specs, encoder, dynamics, decoder, ModelSettings(units=8, **settings))


@pytest.mark.parametrize("use_memory, parallel", [(True, False), (False, False), (False, True)])
def test_filtering_step_by_step_is_observing_the_whole(use_memory, parallel):
    """Raw observations in, resets included: what acting sees is what training saw."""
    model = build_model(use_memory=use_memory, parallel=parallel)
    raw = batch_for(model)
    batch = replace(raw, obs=model.preprocess(raw.obs))
    ctx, seen = model.observe(batch, None)
    carry = model.initial(3)
    for t in range(8):
        obs = {key: value[:, t] for key, value in raw.obs.items()}
        carry, features = model.filter(carry, obs, batch.prev_action[:, t], batch.is_first[:, t], None)
        torch.testing.assert_close(features, ctx.features[:, t])
        torch.testing.assert_close(model.features(carry), features)
    for ours, theirs in zip(tree.leaves(carry), tree.leaves(seen.final), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_without_a_carry_the_first_step_is_a_reset_and_with_one_it_continues():
    model = build_model()
    batch = batch_for(model)
    middle = tree.tree_map(lambda leaf: leaf[1:, 3:], batch)
    cold, _ = model.observe(middle, None)
    said = replace(middle, is_first=torch.cat([torch.ones(2, 1, dtype=torch.bool), middle.is_first[:, 1:]], 1))
    torch.testing.assert_close(cold.features, model.observe(said, None)[0].features)
    _, seen = model.observe(tree.tree_map(lambda leaf: leaf[1:, :3], batch), None)
    warm, _ = model.observe(middle, None, seen.final)
    whole, _ = model.observe(tree.tree_map(lambda leaf: leaf[1:], batch), None)
    torch.testing.assert_close(warm.features, whole.features[:, 3:])


def test_context_holds_the_prior_of_each_step_and_where_each_frame_stands():
    model = build_model()
    ctx, _ = model.observe(batch_for(model), gen())
    prior = model.dynamics.predict(ctx.memory.flatten(0, 1))
    torch.testing.assert_close(ctx.prior.mode, prior.mode)  # type: ignore[union-attr]
    assert ctx.row[2].tolist() == [2] * 8 and ctx.time[1].tolist() == list(range(8))
    some = ctx.frames(torch.tensor([2, 0]), torch.tensor([7, 1]))
    torch.testing.assert_close(some.features, torch.stack([ctx.features[2, 7], ctx.features[0, 1]])[:, None])
    torch.testing.assert_close(some.batch.obs["vector"][0, 0], ctx.batch.obs["vector"][2, 7])
    assert (some.row.tolist(), some.time.tolist()) == ([[2], [0]], [[7], [1]])
    assert not any(leaf.requires_grad for leaf in tree.leaves(ctx.detach()))


def test_dream_rewards_belong_to_arrival():
    """A reward head that reads the features' first entry must give the dream the entry of features[:, k + 1]."""
    model = build_model()
    model.reward.forward = lambda features: SimpleNamespace(mean=features[..., 0])  # type: ignore[assignment]
    model.cont.forward = lambda features: SimpleNamespace(mean=features[..., 1])  # type: ignore[assignment]
    carry = model.initial(3)
    plan = torch.randn(3, 4, 2, generator=gen())
    dream = model.imagine(carry, plan, 4, gen(1))
    torch.testing.assert_close(dream.reward, dream.features[:, 1:, 0])
    torch.testing.assert_close(dream.cont, dream.features[:, 1:, 1])
    assert torch.equal(dream.action, plan)
    noise = gen(1)
    for k in range(4):
        carry, features, reward, cont = model.step(carry, plan[:, k], noise)
        torch.testing.assert_close(features, dream.features[:, k + 1])
        torch.testing.assert_close(reward, dream.reward[:, k])
        torch.testing.assert_close(cont, dream.cont[:, k])


def test_losses_are_named_by_role_and_cover_every_part():
    model = build_model()
    ctx, _ = model.observe(batch_for(model), gen())
    losses = weighted_terms(model, ctx)
    assert set(losses) == {"decoder/reconstruction", "dyn", "rep", "reward", "cont"}
    assert all(term.shape == (3, 8) for term in losses.values())
    arrived = (~ctx.batch.is_first).float()  # at a reset there is nothing to predict
    torch.testing.assert_close(losses["cont"], -model.cont(ctx.features).log_prob(ctx.batch.cont) * arrived)
    assert not losses["reward"][ctx.batch.is_first].any()
    torch.testing.assert_close(losses["reward"], -model.reward(ctx.features).log_prob(ctx.batch.reward) * arrived)
    assert weighted_terms(model, ctx, "critic") == {}


@pytest.mark.parametrize("reward_grad", [True, False])
def test_reward_grad_decides_whether_heads_train_the_representation(reward_grad):
    model = build_model(ModelSettings(units=8, reward_grad=reward_grad))
    torch.nn.init.normal_(model.reward.net[-1].weight)  # type: ignore[arg-type]
    ctx, _ = model.observe(batch_for(model), gen())
    losses = weighted_terms(model, ctx)
    (losses["reward"] + losses["cont"]).sum().backward()
    reached = [p.grad is not None and bool(p.grad.any()) for p in model.encoder.parameters()]
    assert any(reached) == reward_grad
    assert all(p.grad is not None for p in [*model.reward.parameters(), *model.cont.parameters()])


def test_a_random_subset_of_frames_is_an_unbiased_estimate():
    full, part = build_model(), build_model(ModelSettings(units=8, frames_per_update=7))
    batch = batch_for(full)
    ctx, _ = full.observe(batch, gen())
    exact = full.decoder.losses(ctx)["reconstruction"].mean()
    ctx = replace(ctx.detach(), generator=gen(2))
    draws = torch.stack([part.decoder.losses(part.decoder_context(ctx))["reconstruction"] for _ in range(60)])
    assert draws.shape == (60, 7, 1)
    means = draws.detach().mean((1, 2))
    assert abs(means.mean() - exact) < 4 * means.std() / 60**0.5


def test_a_dear_decoder_chooses_how_many_frames_it_sees_unless_the_user_does():
    asked, told = (
        build_model(ModelSettings(units=8)),
        build_model(ModelSettings(units=8, frames_per_update=0)),
    )
    for model, count in ((asked, 5), (told, 24)):
        model.decoder.frames = 5
        ctx, _ = model.observe(batch_for(model), gen())
        assert weighted_terms(model, ctx)["decoder/reconstruction"].numel() == count


def test_a_loss_of_another_shape_is_refused_by_name():
    model = build_model()
    ctx, _ = model.observe(batch_for(model), gen())
    model.decoder.losses = lambda ctx, player="main": {"wrong": torch.zeros(3)}  # type: ignore[method-assign]
    with pytest.raises(AssertionError, match="loss 'wrong' of ReferenceDecoder"):
        weighted_terms(model, ctx)


def test_a_blind_decoder_gets_a_probe_that_trains_alone():
    model = blind_model()
    assert model.probe is not None and model.drawn_by == "probe"
    ctx, _ = model.observe(batch_for(model), gen())
    losses = weighted_terms(model, ctx)
    losses["probe"].sum().backward()
    assert not any(p.grad is not None for part in model.parts.values() for p in part.parameters())
    assert all(p.grad is not None for p in model.probe.parameters())
    drawn = model.render(ctx.features[:, 0])
    assert drawn["image"].shape == (3, 16, 16, 3) and drawn["image"].dtype == torch.uint8
    assert drawn["vector"].shape == (3, 3)


def test_the_probe_is_a_choice():
    assert build_model().probe is None and build_model().drawn_by == "decoder"
    assert build_model(ModelSettings(units=8, probe="yes")).probe is not None
    assert blind_model(probe="no").probe is None


def test_render_restores_the_units_of_the_environment():
    model = build_model(obs=OBS["dict"])
    features = torch.randn(2, MEMORY + 4, generator=gen())
    mean = model.decoder.decode(features)["image"].mode
    expected = ((mean + 0.5) * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    assert torch.equal(model.render(features)["image"], expected)


@pytest.mark.parametrize("blind", [False, True])
def test_every_parameter_has_exactly_one_player(blind):
    model = blind_model() if blind else build_model()
    ids = [id(p) for player in model.players().values() for p in player.parameters]
    assert len(ids) == len(set(ids))
    assert set(ids) == {id(p) for p in model.parameters() if p.requires_grad}


def test_a_part_that_forgets_a_parameter_is_our_bug_or_a_plugins_and_is_named():
    model = build_model()
    model.decoder.players = lambda: {"main": Player(list(model.decoder.parameters())[1:])}  # type: ignore[method-assign]
    with pytest.raises(AssertionError, match="ReferenceDecoder"):
        model.players()


def test_players_of_one_name_are_merged_and_keep_their_optimiser():
    model = build_model()
    head, own = list(model.dynamics.head.parameters()), list(model.dynamics.cell.parameters())  # type: ignore[union-attr]
    forgetful = {"rate": 3e-4, "betas": (0.0, 0.99)}
    model.dynamics.players = lambda: {"main": Player(own), "critic": Player(head, **forgetful)}  # type: ignore[method-assign]
    bias, rest = model.decoder.net.vectors[-1].bias, []  # type: ignore[union-attr]
    rest = [p for p in model.decoder.parameters() if p is not bias]
    model.decoder.players = lambda: {"main": Player(rest), "critic": Player([bias], **forgetful)}  # type: ignore[method-assign]
    players = model.players()
    assert set(players) == {"main", "critic"}
    assert [id(p) for p in players["critic"].parameters] == [id(p) for p in [*head, bias]]
    assert (players["critic"].rate, players["critic"].betas) == (3e-4, (0.0, 0.99))
    assert (players["main"].rate, players["main"].betas) == (None, (0.9, 0.999))
    held = {id(p) for player in players.values() for p in player.parameters}
    assert held == {id(p) for p in model.parameters()}


@pytest.mark.parametrize("other", [{"betas": (0.9, 0.999)}, {"betas": (0.0, 0.999), "rate": 1e-3}])
def test_parts_that_disagree_on_a_players_optimiser_are_refused(other):
    model = build_model()
    for part, options in ((model.dynamics, {"betas": (0.0, 0.999)}), (model.decoder, other)):
        first, *rest = part.parameters()
        players = {"main": Player(rest), "critic": Player([first], **options)}
        part.players = lambda players=players: players  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match=r"player 'critic' of .* needs another optimiser"):
        model.players()


def test_metrics_carry_no_gradient_and_name_the_role():
    model = build_model()
    model.dynamics.metrics = lambda ctx: {"h": ctx.memory.mean()}  # type: ignore[method-assign]
    ctx, _ = model.observe(batch_for(model), gen())
    out = HealthMonitor(model).metrics(ctx)
    assert {"latent/min_std", "latent/effective_rank", "dynamics/h"} <= set(out)
    assert not any(value.requires_grad for value in out.values())


def test_the_same_seed_gives_the_same_forward_and_loss():
    first, second = build_model(), build_model()
    batch = noise_batch(OBS["vector"], ACTIONS["continuous"], 2, 4, gen())
    for name in ("dyn", "reward"):
        a = weighted_terms(first, first.observe(batch, gen(3))[0])[name]
        assert torch.equal(a, weighted_terms(second, second.observe(batch, gen(3))[0])[name])
