"""The weight of the information in the latent, and the capacity that it is held to: against closed forms."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from config_kit import configured
from model_kit import batch_for, build_model, gen, weighted_terms
from torch import Tensor

from worldlab import tree
from worldlab.distributions import Normal
from worldlab.errors import ConfigError
from worldlab.interfaces import Latent
from worldlab.model import matching
from worldlab.model.losses import model_losses
from worldlab.model.schedule import DYNAMICS, JOINT, REPRESENTATION, stage_at
from worldlab.settings import ModelSettings, TrainSettings


def losses_of(stage=JOINT, **settings) -> dict[str, Tensor]:
    model = build_model(ModelSettings(units=8, **settings))
    ctx, _ = model.observe(batch_for(model), gen())
    return weighted_terms(model, ctx, stage=stage)


def test_beta_1_is_the_plain_bound_bit_for_bit_and_another_one_scales_the_information_alone():
    plain, one, four = losses_of(), losses_of(beta=1.0), losses_of(beta=4.0)
    assert all(torch.equal(plain[name], one[name]) for name in plain)
    for name, value in four.items():
        torch.testing.assert_close(value, plain[name] * (4.0 if name in ("dyn", "rep") else 1.0))
    staged = [losses_of(REPRESENTATION, beta=beta)["rep"] for beta in (1.0, 4.0)]
    torch.testing.assert_close(staged[1], 4 * staged[0])


@pytest.mark.parametrize("beta", [0.1, 1.0, 4.0, 16.0])
def test_the_optimum_of_a_linear_gaussian_world_is_the_closed_form(beta: float):
    """x = z + noise of variance v, prior N(0, 1): the optimal q is N(x / (1 + beta v), beta v / (1 + beta v)).

    Higgins et al. 2017. The distortion of q is ((x - m)^2 + s^2) / (2 v); its gradient and that of the weighted KL add up
    to 0 there, and nowhere near.
    """
    v, x = 0.5, torch.tensor([[-1.0], [0.3], [2.0]])
    model = build_model(configured(ModelSettings, units=8, beta=beta, free_nats=0.0))
    ctx, _ = model.observe(batch_for(model, rows=3, length=1), gen())
    for factor, at_optimum in ((1.0, True), (1.3, False)):
        mean = (factor * x / (1 + beta * v)).requires_grad_()
        var = torch.full_like(x, factor * beta * v / (1 + beta * v)).requires_grad_()
        latent = tree.unflatten_time(Latent(mean, Normal(mean, var.sqrt())), 3)
        narrow = replace(ctx, latent=latent, prior=Normal(torch.zeros(3, 1), torch.ones(3, 1)))
        weight = model_losses(model, ctx, stage=REPRESENTATION)["rep"].weight
        information = matching.standard_terms(narrow, 0.0)["rep"].sum()
        distortion = (((x - mean).square() + var) / (2 * v)).sum()
        grads = torch.autograd.grad(distortion + weight * information, [mean, var])
        assert all(bool((g.abs() < 1e-5).all()) == at_optimum for g in grads), (factor, grads)


def test_a_capacity_pulls_the_kl_up_below_it_and_down_above_it():
    kl = torch.tensor([1.0, 3.0, 8.0], requires_grad=True)
    exact = matching._bounded(kl, True, 1.0, 4.0)
    torch.testing.assert_close(exact, torch.tensor([3.0, 1.0, 4.0]))
    assert torch.autograd.grad(exact.sum(), kl)[0].tolist() == [-1.0, -1.0, 1.0]
    for capacity, sign in ((3.0, 1.0), (5.0, -1.0)):  # the mean of a sampled KL is 4
        sampled = matching._bounded(kl, False, 1.0, capacity)
        torch.testing.assert_close(sampled.mean(), torch.tensor(1.0))
        assert torch.autograd.grad(sampled.sum(), kl)[0].tolist() == [sign] * 3


def test_the_capacity_rises_from_0_over_its_updates_and_binds_the_encoder_only():
    model = build_model(configured(ModelSettings, units=8, capacity=6.0, capacity_updates=100, free_nats=0.0))
    ctx, _ = model.observe(batch_for(model), gen())
    plain = matching.terms(model.rule, ctx, model.dynamics, 0.0)
    for updates, capacity in ((0, 0.0), (50, 3.0), (100, 6.0), (1000, 6.0)):
        found = model_losses(model, ctx, stage=stage_at(TrainSettings(pretrain=0), updates))
        torch.testing.assert_close(found["rep"].value, (plain["rep"] - capacity).abs())
        assert torch.equal(found["dyn"].value, plain["dyn"])


def test_stages_know_how_many_updates_came_before_and_stay_the_same_stages():
    settings = TrainSettings(schedule="staged", pretrain=20)
    assert [stage_at(settings, k).updates for k in (0, 7, 30)] == [0, 7, 30]
    assert stage_at(settings, 7) == REPRESENTATION and stage_at(settings, 12) == DYNAMICS


def test_a_capacity_without_a_kl_is_refused():
    with pytest.raises(ConfigError, match="needs a KL between posterior and prior") as caught:
        build_model(ModelSettings(units=8, capacity=2.0), kind="point")
    assert "the posterior has no density" in (caught.value.cause or "")
    scored = matching.Rule("own", "score_anchor", "by its score")
    with pytest.raises(ConfigError, match="needs a KL"):
        matching.check_capacity(scored, "analytic", staged=False)
    matching.check_capacity(scored, "analytic", staged=True)
