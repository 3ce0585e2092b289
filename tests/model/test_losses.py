"""Terms, their weights and their mean against hand computation; what each stage trains; what the trainer steps on."""

import math
from typing import Any

import pytest
import torch
from config_kit import configured
from model_kit import batch_for, build_model, build_parts, gen
from torch import Tensor, nn
from trainer_toys import AdversarialDecoder, ToyAgent

from worldlab.distributions import Normal
from worldlab.interfaces import Decoder
from worldlab.model.losses import Term, model_losses, part_terms
from worldlab.model.schedule import AGENT, DYNAMICS, JOINT, MODEL, REPRESENTATION
from worldlab.settings import ModelSettings, TrainSettings
from worldlab.testing.reference import ReferenceDynamics, ReferenceDynamicsConfig, ReferenceEncoder
from worldlab.training.trainer import Generators, Trainer
from worldlab.world_model import WorldModel

SETTINGS = configured(
    ModelSettings,
    units=8,
    dyn_scale=0.7,
    rep_scale=0.2,
    reward_scale=0.3,
    free_nats=0.0,
    prior_anchor=0.05,
    probe="yes",
)


class Scored(ReferenceDynamics):  # type: ignore[misc]  # a test double
    """A sampler with a score of its own, -(sum of z - w)^2, and a weighted loss."""

    prior_kind = "sampler"

    def __init__(self, config: Any, specs: Any) -> None:
        super().__init__(config, specs)
        self.loss_weights = {"own": 0.5}
        self.w = nn.Parameter(torch.tensor(2.0))

    def score_latent(self, memory: Tensor, z: Tensor) -> Tensor:
        return -(z.sum(-1) - self.w).square()

    def losses(self, ctx, player="main"):
        error = (ctx.prior.mean.view_as(ctx.latent.z) - ctx.latent.z.detach()).square().sum(-1)
        return {"own": error + self.w.square()} if player == "main" else {}


class WeightedCritic(AdversarialDecoder):  # type: ignore[misc]  # a test double
    """Both players of the toy game, with weights."""

    def __init__(self, config: Any, specs: Any) -> None:
        super().__init__(config, specs)
        self.loss_weights = {"fool": 0.25, "tell": 3.0}


class Plain(Decoder):
    """A Gaussian with a learned scale that implements no losses."""

    score_kind = "log_density"

    def __init__(self, config: Any, specs: Any) -> None:
        super().__init__(config, specs)
        self.net = nn.Linear(specs.feature_dim, 3)
        self.log_std = nn.Parameter(torch.tensor([0.3, -0.2, 0.1]))

    def decode(self, features: Tensor):
        mean = self.net(features)
        return {"vector": Normal(mean, self.log_std.exp().expand_as(mean))}

    def score(self, features: Tensor, obs) -> Tensor:
        return self.decode(features)["vector"].log_prob(obs["vector"])


def world(dynamics: type | None = None, decoder: type | None = None, settings: ModelSettings = SETTINGS) -> WorldModel:
    specs, encoder, memory, drawing = build_parts()
    if dynamics is not None:
        memory = dynamics(ReferenceDynamicsConfig(memory=specs.memory_dim), specs)
    return WorldModel(specs, encoder, memory, drawing if decoder is None else decoder(None, specs), settings)


def trainer_of(model: WorldModel, **train) -> Trainer:
    return Trainer(
        model, ToyAgent(model.specs), configured(TrainSettings, starts=10, **train), Generators(gen(1), gen(2))
    )


# ---- a term ----


def test_a_term_is_weighted_and_averaged_over_valid_steps():
    value = torch.tensor([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]])
    mask = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    term = Term("x", value, 0.5, mask)
    assert term.weighted().tolist() == [[0.5, 1.0, 2.0], [4.0, 8.0, 16.0]]
    assert term.mean().item() == pytest.approx(0.5 * (1 + 2 + 8) / 3)
    assert Term("x", value, 1.0, mask).weighted() is value and Term("x", value, 0.0, mask).mean() == 0
    assert Term("x", value, 0.5, torch.zeros(2, 3)).mean() == 0, "no valid step, no loss"


# ---- the terms of a model ----


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        (JOINT, {"decoder/reconstruction": 1.0, "dyn": 0.7, "rep": 0.2, "reward": 0.3, "cont": 1.0, "probe": 1.0}),
        (MODEL, {"decoder/reconstruction": 1.0, "dyn": 0.7, "rep": 0.2, "reward": 0.3, "cont": 1.0, "probe": 1.0}),
        (REPRESENTATION, {"decoder/reconstruction": 1.0, "rep": 1.0, "probe": 1.0}),
        (DYNAMICS, {"dyn": 0.7, "reward": 0.3, "cont": 1.0}),
        (AGENT, {}),
    ],
    ids=lambda value: value.name if hasattr(value, "name") else None,
)
def test_each_stage_has_the_terms_of_what_learns_in_it(stage, expected):
    model = world()
    ctx, _ = model.observe(batch_for(model), gen())
    terms = model_losses(model, ctx, "main", stage)
    assert {name: term.weight for name, term in terms.items()} == expected
    assert all(term.name == name and term.value.shape == (3, 8) for name, term in terms.items())
    assert all(torch.equal(term.mask, ctx.batch.mask) for term in terms.values())
    assert model_losses(model, ctx.detach(), "critic", stage) == {}


@pytest.mark.parametrize(
    ("stage", "expected", "critic"),
    [
        (
            JOINT,
            {
                "dynamics/own": 0.5, "decoder/fool": 0.25, "rep": 0.2, "anchor": 0.05, "reward": 0.3, "cont": 1.0,
                "probe": 1.0,
            },
            {"decoder/tell": 3.0},
        ),
        (REPRESENTATION, {"decoder/fool": 0.25, "rep": 1.0, "probe": 1.0}, {"decoder/tell": 3.0}),
        (DYNAMICS, {"dynamics/own": 0.5, "reward": 0.3, "cont": 1.0}, {}),
    ],
    ids=lambda value: value.name if hasattr(value, "name") else None,
)  # fmt: skip
def test_the_weights_that_parts_declare_and_the_anchor_of_a_scored_prior(stage, expected, critic):
    model = world(Scored, WeightedCritic)
    ctx, _ = model.observe(batch_for(model), gen())
    assert {name: term.weight for name, term in model_losses(model, ctx, "main", stage).items()} == expected
    found = model_losses(model, ctx.detach(), "critic", stage)
    assert {name: term.weight for name, term in found.items()} == critic


def test_values_are_unweighted_and_the_same_whatever_their_weights():
    one, other = world(Scored, WeightedCritic), world(Scored, WeightedCritic)
    other.settings = SETTINGS.model_copy(update={"rep_scale": 2.0, "reward_scale": 9.0, "prior_anchor": 7.0})
    other.dynamics.loss_weights, other.decoder.loss_weights = {"own": 11.0}, {"fool": 5.0, "tell": 1.0}
    batch = batch_for(one)
    first, second = (model_losses(model, model.observe(batch, gen())[0]) for model in (one, other))
    for name, term in first.items():
        assert torch.equal(term.value, second[name].value), name
    own = one.dynamics.losses(one.observe(batch, gen())[0])["own"]
    assert torch.equal(first["dynamics/own"].value, own)


def test_a_decoder_of_chosen_frames_has_terms_and_masks_of_those_frames():
    model = build_model(SETTINGS.model_copy(update={"frames_per_update": 5}))
    batch = batch_for(model)
    batch.mask[:, 4:] = 0
    ctx, _ = model.observe(batch, gen())
    terms = model_losses(model, ctx)
    source = gen()  # the generator of the context, which was drawn from before
    model.observe(batch, source)
    chosen = torch.randperm(24, generator=source)[:5]
    kept = batch.mask.flatten()[chosen][:, None]
    assert 0 < kept.sum() < 5
    for name in ("decoder/reconstruction", "probe"):
        assert torch.equal(terms[name].mask, kept) and terms[name].value.shape == (5, 1)
    whole = model.decoder.losses(ctx)["reconstruction"].flatten()[chosen]
    expected = (whole * kept[:, 0]).sum() / kept.sum()
    torch.testing.assert_close(terms["decoder/reconstruction"].mean(), expected)
    assert terms["rep"].value.shape == (3, 8)


# ---- what is refused ----


@pytest.mark.parametrize("shape", [(), (3,), (8, 3), (3, 8, 1), (24, 1)])
def test_a_term_of_another_shape_is_refused(shape):
    model = world()
    ctx, _ = model.observe(batch_for(model), gen())
    model.encoder.losses = lambda ctx, player="main": {"wrong": torch.zeros(shape)}  # type: ignore[method-assign]
    with pytest.raises(AssertionError) as caught:
        model_losses(model, ctx)
    says = f"loss 'wrong' of ReferenceEncoder has shape {list(shape)}, declared is [3, 8]"
    assert str(caught.value).splitlines()[0] == says


def test_a_term_without_a_declared_weight_is_refused():
    model = world(Scored)
    ctx, _ = model.observe(batch_for(model), gen())
    for declared, known in (({"other": 1.0, "more": 2.0}, "other, more"), ({}, "")):
        model.dynamics.loss_weights = declared
        with pytest.raises(AssertionError) as caught:
            list(part_terms("dynamics", model.dynamics, ctx, "main"))
        says = f"loss 'own' of Scored has no weight; loss_weights has {known}"
        assert str(caught.value).splitlines()[0] == says
    model.dynamics.loss_weights = {
        "own": 2.0,
        "never": 3.0,
    }  # a term may be missing, such as that of a switched-off player
    (term,) = part_terms("dynamics", model.dynamics, ctx, "main")
    assert (term.name, term.weight) == ("dynamics/own", 2.0)


# ---- what the trainer steps on ----


def test_the_sum_of_the_terms_means_is_what_the_trainer_steps_on():
    """For both players, with weights, a probe, a scored prior with its anchor, and steps that do not count."""
    model, twin = world(Scored, WeightedCritic), world(Scored, WeightedCritic)
    batch = batch_for(model)
    batch.mask[1, 5:] = 0
    trainer = trainer_of(model, clip=1e9)
    ctx, _ = model.observe(batch, gen(5))
    out = trainer._update_critics(ctx, JOINT)
    critic = [p.grad for p in trainer.critics["critic"].param_groups[0]["params"]]
    twin.load_state_dict(model.state_dict())  # main plays against the critic that was just updated
    fresh = world(Scored, WeightedCritic)
    own, _ = fresh.observe(batch, gen(5))
    terms = model_losses(fresh, own.detach(), "critic")
    expected = torch.autograd.grad(hand_sum(terms), fresh.players()["critic"].parameters)
    for ours, theirs in zip(critic, expected, strict=True):
        torch.testing.assert_close(ours, theirs)

    assert {name for name in out if name.startswith("loss/")} == {"loss/decoder/tell"}
    torch.testing.assert_close(out["loss/decoder/tell"], terms["decoder/tell"].mean())

    ctx, _ = model.observe(batch, gen(6))
    out = trainer._update_main(ctx, JOINT)
    main = [p.grad for p in trainer.main.param_groups[0]["params"]]
    ctx, _ = twin.observe(batch, gen(6))
    terms = model_losses(twin, ctx)
    assert {"dynamics/own", "decoder/fool", "rep", "anchor", "reward", "cont", "probe"} == set(terms)
    expected = torch.autograd.grad(hand_sum(terms), twin.players()["main"].parameters, allow_unused=True)
    for ours, theirs in zip(main, expected, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs)
    assert {name for name in out if name.startswith("loss/")} == {f"loss/{name}" for name in terms}
    for name, term in terms.items():
        torch.testing.assert_close(out[f"loss/{name}"], term.mean(), msg=name)


def hand_sum(terms: dict[str, Term]) -> Tensor:
    """Every term times its weight, averaged over the steps that count, and added up."""
    return torch.stack([term.weight * term.value[term.mask.bool()].mean() for term in terms.values()]).sum()


# ---- an encoder tied to a score ----


def test_rep_and_anchor_add_up_to_the_frozen_score_and_the_pull_to_a_standard_normal():
    """rep_scale * (-score) + prior_anchor * KL(q || N(0, I)), and it trains the encoder alone."""
    model = world(Scored)
    assert model.rule.rep == "score_anchor"
    ctx, _ = model.observe(batch_for(model), gen())
    terms = model_losses(model, ctx)
    score = -(ctx.latent.z.sum(-1) - 2.0).square()
    mean, std = ctx.latent.dist.mean, ctx.latent.dist.std
    kl = 0.5 * (mean.square() + std.square() - 1 - 2 * std.log()).sum(-1)
    torch.testing.assert_close(terms["rep"].value, -score)
    torch.testing.assert_close(terms["anchor"].value, kl)
    both = terms["rep"].weighted() + terms["anchor"].weighted()
    torch.testing.assert_close(both, 0.2 * -score + 0.05 * kl)
    terms["rep"].mean().backward(retain_graph=True)
    terms["anchor"].mean().backward()
    assert model.dynamics.w.grad is None  # type: ignore[union-attr]
    assert all(p.grad is not None and p.grad.any() for p in encoder_head(model))


def encoder_head(model: WorldModel) -> list[nn.Parameter]:
    assert isinstance(model.encoder, ReferenceEncoder)
    return list(model.encoder.head.parameters())


def test_no_rule_but_the_score_has_an_anchor():
    for kind in ("gaussian", "categorical", "point"):
        model = build_model(SETTINGS, kind=kind)
        ctx, _ = model.observe(batch_for(model), gen())
        assert "anchor" not in model_losses(model, ctx)


# ---- a decoder that implements no losses ----


def test_a_decoder_without_losses_of_its_own_trains_by_its_density():
    model = world(decoder=Plain)
    ctx, _ = model.observe(batch_for(model), gen())
    decoder: Any = model.decoder
    mean, std = decoder.net(ctx.features), decoder.log_std.exp()
    error = (ctx.batch.obs["vector"] - mean) / std
    expected = (0.5 * error.square() + std.log() + 0.5 * math.log(2 * math.pi)).sum(-1)
    terms = model_losses(model, ctx)
    assert terms["decoder/vector"].weight == 1.0 and "decoder/reconstruction" not in terms
    torch.testing.assert_close(terms["decoder/vector"].value, expected)
    assert decoder.losses(ctx, "critic") == {}
    some = ctx.frames(torch.tensor([2, 0]), torch.tensor([7, 1]))
    torch.testing.assert_close(decoder.losses(some)["vector"], torch.stack([expected[2, 7], expected[0, 1]])[:, None])


def test_updates_lower_the_loss_of_a_decoder_without_losses_of_its_own():
    model = world(decoder=Plain, settings=ModelSettings(units=8))
    trainer = trainer_of(model, learning_rate=1e-2)
    batch = batch_for(model)
    before = model.decoder.log_std.detach().clone()  # type: ignore[operator]
    losses = [trainer.update(batch, MODEL)["loss/decoder/vector"].item() for _ in range(30)]
    assert losses[-1] < losses[0] - 0.1 and all(later < losses[0] for later in losses[10:])
    assert (model.decoder.log_std != before).all()
