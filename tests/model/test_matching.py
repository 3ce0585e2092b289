import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from config_kit import configured
from model_kit import batch_for, build_model, gen, weighted_terms
from torch import Tensor

from worldlab import tree
from worldlab.distributions import Normal, kl_to_standard_normal
from worldlab.errors import ConfigError, PluginError
from worldlab.interfaces import Latent
from worldlab.model import matching
from worldlab.settings import ModelSettings
from worldlab.specs import LatentSpec

SETTINGS = configured(ModelSettings, units=8, dyn_scale=0.7, rep_scale=0.2, free_nats=0.0, prior_anchor=0.05)


class Able(torch.nn.Module):
    """Stands in for a part: only its declared abilities are read."""

    def __init__(self, **abilities: str):
        super().__init__()
        for name, value in abilities.items():
            setattr(self, name, value)


class Scoring(Able):
    def score_latent(self, memory: Tensor, z: Tensor) -> Tensor:
        raise NotImplementedError


RULES = {
    ("analytic", "analytic"): ("kl", "kl"),
    ("analytic", "log_prob"): ("nll", "entropy_nll"),
    ("analytic", "sampler"): ("own", "score_anchor"),
    ("analytic", "critic"): ("own", "score_anchor"),
    ("own_logq", "analytic"): ("nll", "logq_nll"),
    ("own_logq", "log_prob"): ("nll", "logq_nll"),
    ("own_logq", "sampler"): ("own", "score_anchor"),
    ("own_logq", "critic"): ("own", "score_anchor"),
    ("implicit", "analytic"): ("nll", "none"),
    ("implicit", "log_prob"): ("nll", "none"),
    ("implicit", "sampler"): ("own", "none"),
    ("implicit", "critic"): ("own", "none"),
    ("deterministic", "analytic"): ("nll", "none"),
    ("deterministic", "log_prob"): ("nll", "none"),
    ("deterministic", "sampler"): ("own", "none"),
    ("deterministic", "critic"): ("own", "none"),
}


@pytest.mark.parametrize("pair", RULES, ids="-".join)
def test_the_rule_of_every_pair_of_abilities(pair):
    posterior, prior = pair
    rule = matching.choose(Able(posterior_kind=posterior), Scoring(prior_kind=prior))  # type: ignore[arg-type]
    assert (rule.dyn, rule.rep) == RULES[pair]
    assert posterior in rule.why and prior in rule.why


@pytest.mark.parametrize("posterior", ["analytic", "own_logq"])
@pytest.mark.parametrize("prior", ["sampler", "critic"])
def test_a_scored_prior_without_a_score_is_refused_with_a_way_out(posterior, prior):
    with pytest.raises(ConfigError) as caught:
        matching.choose(Able(posterior_kind=posterior), Able(prior_kind=prior))  # type: ignore[arg-type]
    assert "score_latent" in str(caught.value.fix) and len(caught.value.message) <= 100


def context(kind: Any = "gaussian"):
    model = build_model(SETTINGS, kind=kind)
    ctx, _ = model.observe(batch_for(model), gen())
    return model, ctx


def gradients(loss: Tensor, parameters) -> float:
    found = torch.autograd.grad(loss, list(parameters), retain_graph=True, allow_unused=True)
    return sum(g.abs().sum().item() for g in found if g is not None)


def test_nll_is_of_the_stopped_latent():
    model, ctx = context("point")
    assert (model.rule.dyn, model.rule.rep) == ("nll", "none")
    out = matching.terms(model.rule, ctx, model.dynamics, SETTINGS.free_nats)
    assert set(out) == {"dyn"}
    expected = -ctx.prior.log_prob(ctx.latent.z.flatten(0, 1)).unflatten(0, (3, 8))
    torch.testing.assert_close(out["dyn"], expected)
    torch.testing.assert_close(weighted_terms(model, ctx)["dyn"], 0.7 * expected)
    direct = replace(ctx, prior=tree.detach(ctx.prior))
    stopped = matching.terms(model.rule, direct, model.dynamics, SETTINGS.free_nats)["dyn"]
    assert not stopped.requires_grad, "with the prediction given, nothing is left to train"


@dataclass(frozen=True)
class Flowlike:
    """A log-density without a closed form KL."""

    base: Normal

    @property
    def mode(self) -> Tensor:
        return self.base.mode

    def sample(self, generator):
        return self.base.sample(generator)

    def log_prob(self, x: Tensor) -> Tensor:
        return self.base.log_prob(x)


def flowlike_dynamics(model):
    inner = model.dynamics.predict
    model.dynamics.predict = lambda memory: Flowlike(inner(memory))
    return model.dynamics


@pytest.mark.parametrize("rep", ["entropy_nll", "logq_nll"])
def test_rep_estimates_the_kl_and_trains_the_encoder_alone(rep):
    """Averaged over samples, both estimators equal the closed-form KL; the dynamics' weights get no gradient."""
    model, ctx = context()
    flowlike_dynamics(model)
    rule = matching.Rule("nll", rep, "")
    dist: Any = ctx.latent.dist
    flat, prior = tree.flatten_time(dist), ctx.prior
    exact = flat.kl(prior).unflatten(0, (3, 8)).detach()
    g, draws = gen(1), []
    for _ in range(150):
        z = dist.sample(g)
        sampled = replace(ctx, latent=Latent(z, dist=dist, log_q=dist.log_prob(z)))
        draws.append(matching.terms(rule, sampled, model.dynamics, SETTINGS.free_nats)["rep"])
    samples = torch.stack(draws).detach()
    error = samples.std(0) / len(samples) ** 0.5
    assert ((samples.mean(0) - exact).abs() < 4.5 * error + 1e-6).all()
    loss = draws[-1].sum()
    assert gradients(loss, model.dynamics.head.parameters()) == 0
    assert gradients(loss, model.encoder.parameters()) > 0
    cut = replace(sampled, latent=tree.detach(sampled.latent))
    assert not matching.terms(rule, cut, model.dynamics, SETTINGS.free_nats)["rep"].requires_grad, (
        "memory is stopped in rep"
    )


@pytest.mark.parametrize("floor", [0.0, 1e9])
def test_free_nats_of_a_sampled_kl_are_decided_by_the_batchs_mean(floor):
    model, ctx = context()
    flowlike_dynamics(model)
    rep = matching.terms(matching.Rule("nll", "entropy_nll", ""), ctx, model.dynamics, floor)["rep"]
    assert bool(rep.any()) == (floor == 0.0)


class ScoredDynamics(torch.nn.Module):
    """score(h, z) = -(sum of z - w)^2, with its own weight."""

    def __init__(self) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor(2.0))

    def score_latent(self, memory: Tensor, z: Tensor) -> Tensor:
        return -(z.sum(-1) - self.w).square()


def test_score_terms_are_the_frozen_score_plus_anchor_or_log_q():
    _, ctx = context()
    dynamics: Any = ScoredDynamics()
    dist: Any = ctx.latent.dist
    score = -(ctx.latent.z.sum(-1) - 2.0).square()
    anchor = kl_to_standard_normal(tree.flatten_time(dist)).unflatten(0, (3, 8))
    rule = matching.Rule("own", "score_anchor", "")
    out = matching.terms(rule, ctx, dynamics, SETTINGS.free_nats)
    assert set(out) == {"rep", "anchor"}
    torch.testing.assert_close(out["rep"], -score)
    torch.testing.assert_close(0.2 * out["rep"] + 0.05 * out["anchor"], -0.2 * score + 0.05 * anchor)
    z = ctx.latent.z
    log_q = dist.log_prob(z)
    own = replace(ctx, latent=replace(ctx.latent, log_q=log_q, dist=None))
    out = matching.terms(rule, own, dynamics, SETTINGS.free_nats)
    sampled = log_q - Normal(torch.zeros_like(z), torch.ones_like(z)).log_prob(z)  # the same KL, from one draw
    torch.testing.assert_close(0.2 * out["rep"] + 0.05 * out["anchor"], -0.2 * score + 0.05 * sampled)
    out["rep"].sum().backward()
    assert dynamics.w.grad is None and dynamics.w.requires_grad


def test_an_entropy_is_preferred_to_log_q_of_the_sample_and_codes_have_no_scale_to_anchor():
    _, ctx = context("categorical")
    dist: Any = ctx.latent.dist
    score = -(ctx.latent.z.sum(-1) - 2.0).square()
    own = replace(ctx, latent=replace(ctx.latent, log_q=torch.full((3, 8), 1e9)))
    out = matching.terms(matching.Rule("own", "score_anchor", ""), own, ScoredDynamics(), SETTINGS.free_nats)  # type: ignore[arg-type]
    torch.testing.assert_close(0.2 * out["rep"] + 0.05 * out["anchor"], -0.2 * score - 0.05 * dist.entropy())


def test_own_and_none_add_nothing():
    _, ctx = context()
    assert matching.terms(matching.Rule("own", "none", ""), ctx, ScoredDynamics(), SETTINGS.free_nats) == {}  # type: ignore[arg-type]


def test_kl_between_different_kinds_is_refused_by_name():
    model, ctx = context("categorical")
    with pytest.raises(PluginError, match=r"OneHot.*Normal"):
        matching.terms(
            model.rule,
            replace(ctx, prior=Normal(torch.zeros(24, 8), torch.ones(24, 8))),
            model.dynamics,
            SETTINGS.free_nats,
        )


def test_divergence_is_exact_where_it_can_be_and_unbiased_where_not():
    _, ctx = context()
    dist: Any = tree.flatten_time(ctx.latent.dist)
    exact = matching.divergence(ctx)
    torch.testing.assert_close(exact, dist.kl(ctx.prior))
    draws = []
    for seed in range(400):
        z = dist.sample(gen(seed))
        latent = Latent(z.unflatten(0, (3, 8)), log_q=dist.log_prob(z).unflatten(0, (3, 8)))
        draws.append(matching.divergence(replace(ctx, latent=latent)))
    sampled = torch.stack(draws)  # type: ignore[arg-type]
    assert ((sampled.mean(0) - exact).abs() < 5 * sampled.std(0) / 20).all()  # type: ignore[operator]
    assert matching.divergence(replace(ctx, latent=Latent(ctx.latent.z))) is None


def test_the_standard_prior_is_a_normal_or_uniform_codes():
    like = torch.zeros(5, 2)
    normal: Any = matching.standard_prior(LatentSpec(3, "gaussian"), like)
    torch.testing.assert_close(normal.kl(Normal(torch.zeros(5, 3), torch.ones(5, 3))), torch.zeros(5))
    codes: Any = matching.standard_prior(LatentSpec(8, "categorical", 2, 4), like)
    torch.testing.assert_close(codes.entropy(), torch.full((5,), 2 * math.log(4)))
