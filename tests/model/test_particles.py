"""K particles: their bound and their filter against the Kalman filter, closed forms and the plain bound."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from exact_parts import ENV, episodes, exact_model
from model_kit import batch_for, build_model, gen

from worldlab import tree
from worldlab.errors import ConfigError
from worldlab.model import particles
from worldlab.model.losses import model_losses
from worldlab.settings import ModelSettings


def filtered(samples: int, batch, seed: int = 0) -> tuple[np.ndarray, torch.Tensor]:
    """The estimate of log p(y_t | y_<t) by the filter that agents act on, and its features: [B, T], [B, T, F]."""
    model, generator = exact_model(samples), gen(seed)
    carry, scores, features = model.initial(len(batch.is_first)), [], []
    for t in range(batch.is_first.shape[1]):
        obs, action, first = ({"y": batch.obs["y"][:, t]}, batch.prev_action[:, t], batch.is_first[:, t])
        carry, found = model.filter(carry, obs, action, first, generator)
        assert carry.particles is not None
        scores.append(torch.logsumexp(carry.particles.log_weight.double(), 1) - math.log(samples))
        features.append(found)
    return torch.stack(scores, 1).numpy(), torch.stack(features, 1)


def test_one_particle_is_the_plain_bound_bit_for_bit():
    model = build_model(ModelSettings(units=8))
    batch = batch_for(model)
    plain, seen = model.observe(batch, gen())
    one, many = particles.observe(model, batch, gen())
    for name in ("memory", "features", "row", "time"):
        assert torch.equal(getattr(plain, name), getattr(one, name)), name
    assert torch.equal(plain.batch.mask, one.batch.mask)
    for name, term in model_losses(model, plain).items():
        assert torch.equal(term.mean(), model_losses(model, one)[name].mean()), name
    index = torch.arange(3)
    assert torch.equal(seen.at(index, index).z, many.at(index, index).z)
    assert model.observe_to_learn(batch, gen())[0].features.equal(plain.features)


def test_the_gradient_is_that_of_the_importance_weighted_bound():
    """One step, where nothing is resampled: autograd of log 1/K sum w with the same noise."""
    model = build_model(ModelSettings(units=8, samples=4, rep_scale=1.0, free_nats=0.0))
    batch = batch_for(model, rows=3, length=1)
    ctx, _ = model.observe_to_learn(batch, gen())
    weights = [p for part in model.parts.values() for p in part.parameters()]
    terms = model_losses(model, ctx)
    loss = sum(terms[name].mean() for name in ("decoder/reconstruction", "dyn", "rep"))
    found = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)  # type: ignore[arg-type]
    latent, obs = tree.flatten_time(ctx.latent), tree.flatten_time(ctx.batch.obs)
    score = model.decoder.score(ctx.features.flatten(0, 1), obs)
    log_w = score + ctx.prior.log_prob(latent.z) - latent.dist.log_prob(latent.z)  # type: ignore[union-attr]
    bound = (torch.logsumexp(log_w.view(3, 4), 1) - math.log(4)).mean()
    expected = torch.autograd.grad(-bound, weights, allow_unused=True)
    for got, want in zip(found, expected, strict=True):
        if want is None:
            assert got is None or not got.any()
        else:
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)
    assert ctx.batch.mask.view(3, 4).sum(1).allclose(torch.full((3,), 4.0)) and ctx.batch.mask.std() > 0.1


def test_the_bound_rises_with_k_and_stays_below_the_exact_log_likelihood():
    batch, exact = episodes(200, 12)
    means, errors = [], []
    for samples in (1, 4, 32, 512):
        model = exact_model(samples)
        if samples == 1:
            ctx, _ = particles.observe(model, batch, gen(samples))
            log_w = particles.log_weight(
                model, ctx.memory.flatten(0, 1), tree.flatten_time(ctx.latent), tree.flatten_time(ctx.batch.obs)
            )
            gap = exact.sum(1) - log_w.view(200, 12).double().sum(1).numpy()
        else:
            gap = exact.sum(1) - filtered(samples, batch, samples)[0].sum(1)
        means.append(gap.mean())
        errors.append(gap.std() / len(gap) ** 0.5)
    assert means[0] > 1.0 and all(
        a > b + 2 * (e + f) for a, b, e, f in zip(means, means[1:], errors, errors[1:], strict=False)
    )
    assert all(mean > 2 * error for mean, error in zip(means[:3], errors[:3], strict=True))
    assert -2 * errors[3] < means[3] < 0.1


def test_the_filters_estimate_of_the_likelihood_is_unbiased_and_its_mean_is_kalmans():
    """E[exp(estimate)] is the likelihood for any K; with many particles the features are the mean of the exact filter."""
    batch, exact = episodes(3, 3, seed=5)
    many = tree.tree_map(lambda leaf: leaf.repeat_interleave(800, 0), batch)
    estimate = filtered(16, many)[0].sum(1).reshape(3, 800)
    ratio = np.exp(estimate - exact.sum(1)[:, None])
    error = ratio.std(1) / 800**0.5
    assert (np.abs(ratio.mean(1) - 1) < 4 * error).all() and (error < 0.1).all()
    estimate, features = filtered(1024, batch)
    assert np.abs(estimate.sum(1) - exact.sum(1)).max() < 0.3
    mean, cov = np.zeros(2), np.eye(2)
    for t in range(3):
        if t:
            mean = ENV.A @ mean + ENV.B @ batch.prev_action[0, t].numpy()
            cov = ENV.A @ cov @ ENV.A.T + ENV.Q
        gain = cov @ ENV.C.T / (ENV.C @ cov @ ENV.C.T + ENV.R)
        mean, cov = mean + gain @ (batch.obs["y"][0, t].numpy() - ENV.C @ mean), cov - gain @ ENV.C @ cov
        assert np.abs(features[0, t, 3:].numpy() - mean).max() < 0.1


def test_resampling_is_unbiased_and_its_numbers_are_rounded_expectations():
    log_weight = torch.tensor([0.5, 0.2, 0.05, 0.25]).log() + 7.0
    found = particles.resample(log_weight.expand(4000, 4), gen())
    counts = torch.nn.functional.one_hot(found, 4).sum(1).double()
    expected = 4 * (log_weight - 7.0).exp()
    assert ((counts.mean(0) - expected).abs() < 4 * counts.std(0) / 4000**0.5 + 1e-9).all()
    assert ((counts >= expected.floor()) & (counts <= expected.ceil())).all()
    assert (found.diff(dim=1) >= 0).all(), "ascending"
    assert particles.resample(torch.zeros(5, 7), gen()).equal(torch.arange(7).expand(5, 7)), "equal ones all survive"
    assert particles.resample(torch.full((2, 3), 1e9), gen()).equal(torch.arange(3).expand(2, 3))


def test_a_reset_starts_new_particles_and_a_carry_keeps_its_form():
    batch, _ = episodes(2, 4)
    model = exact_model(5)
    start = model.initial(2)
    obs, action = {"y": batch.obs["y"][:, 1]}, batch.prev_action[:, 1]
    warm, _ = model.filter(start, obs, action, torch.ones(2, dtype=torch.bool), gen())
    reset, _ = model.filter(warm, obs, action, torch.tensor([True, False]), gen(3))
    fresh, _ = model.filter(start, obs, action, torch.tensor([True, True]), gen(3))
    assert reset.particles.state["h"][0].equal(fresh.particles.state["h"][0])  # type: ignore[union-attr]
    assert not reset.particles.state["h"][1].equal(fresh.particles.state["h"][1])  # type: ignore[union-attr]
    assert {k: v.shape for k, v in tree.named_leaves(warm).items()} == {
        k: v.shape for k, v in tree.named_leaves(start).items()
    }
    chosen = (warm.particles.z == warm.z[:, None]).all(-1)  # type: ignore[union-attr]
    assert chosen.any(1).all() and warm.z.shape == (2, 2)
    assert model.fork(warm, 3).particles is None and model.fork(warm, 3).z.shape == (6, 2)


def test_the_starts_of_dreams_are_resampled_and_what_an_agent_reads_is_the_mean():
    model = build_model(ModelSettings(units=8, samples=6))
    batch = batch_for(model, rows=2, length=5)
    ctx, seen = model.observe_to_learn(batch, gen())
    assert ctx.memory.shape[:2] == (12, 5)
    share = (ctx.batch.mask / 6).view(2, 6, 5)
    torch.testing.assert_close(share.sum(1), torch.ones(2, 5))
    rows, last = torch.arange(12), torch.full((12,), 2)
    drawn = seen.at(rows, last).z.view(2, 6, -1)
    own = ctx.latent.z[:, 2].view(2, 6, -1)
    counts = (drawn[:, :, None] == own[:, None]).all(-1).sum(1)  # [2, 6] survivors of each particle
    assert ((counts - 6 * share[:, :, 2]).abs() < 1).all()
    mean = particles.average(ctx, 6)
    expected = (share[..., None] * ctx.features.view(2, 6, 5, -1)).sum(1)
    torch.testing.assert_close(mean.features, expected)
    assert mean.batch.mask.equal(batch.mask) and mean.row.equal(torch.tensor([[0] * 5, [1] * 5]))


@pytest.mark.parametrize(("kind", "part"), [("point", "encoder ReferenceEncoder"), ("gaussian", "")])
def test_a_part_without_a_density_is_refused_by_name(kind, part):
    if part:
        with pytest.raises(ConfigError, match="needs densities") as caught:
            build_model(ModelSettings(units=8, samples=2), kind=kind)
        assert part in (caught.value.cause or "") and "--model.samples 1" in (caught.value.fix or "")
    model = build_model(ModelSettings(units=8))
    parts = (model.encoder, model.dynamics, model.decoder)
    for attribute, index, value, name in (
        ("prior_kind", 1, "sampler", "dynamics ReferenceDynamics"),
        ("score_kind", 2, "critic", "decoder ReferenceDecoder"),
    ):
        before = getattr(parts[index], attribute)
        setattr(parts[index], attribute, value)
        with pytest.raises(ConfigError) as caught:
            particles.check_densities(build_model().encoder, *parts[1:], staged=False)
        assert name in (caught.value.cause or "")
        setattr(parts[index], attribute, before)
    with pytest.raises(ConfigError) as caught:
        particles.check_densities(*parts, staged=True)
    assert "staged" in (caught.value.cause or "")
