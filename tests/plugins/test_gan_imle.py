"""Implicit maximum likelihood: the nearest sample, by enumeration; no outcome is lost; scores are likelihoods."""

from __future__ import annotations

import math

import pytest
import torch
from config_kit import configured
from gan_toys import FourModes, context, gen, make_batch, make_specs, small_decoder, small_encoder
from torch import Tensor
from worldlab_gan.configs import IMLEDynamicsConfig
from worldlab_gan.energy import BANDWIDTHS, kernel, kernel_score
from worldlab_gan.imle import IMLEDynamics

from worldlab.config.resolve import resolve
from worldlab.nn import frozen
from worldlab.registry import load_registry
from worldlab.settings import ModelSettings
from worldlab.specs import LatentSpec, Specs
from worldlab.world_model import WorldModel


def small_imle(specs: Specs, **config) -> IMLEDynamics:
    torch.manual_seed(0)
    sizes = dict(memory=specs.memory_dim, units=16, noise=3)
    return IMLEDynamics(configured(IMLEDynamicsConfig, **sizes | config), specs)


def test_the_loss_is_half_the_squared_distance_to_the_nearest_of_m_samples_by_enumeration():
    specs = make_specs()
    dynamics = small_imle(specs, samples=7)
    z, memory = torch.randn(5, 4, generator=gen(1)), torch.randn(5, 6, generator=gen(2))
    found = dynamics.losses(context(z, memory, seed=3))["nearest"]
    repeated = memory.repeat(7, 1)
    samples = dynamics.generator(repeated, dynamics.generator.draw(repeated, gen(3))).view(7, 5, 4)
    away = [[0.5 * (samples[j, i] - z[i]).square().sum().item() for j in range(7)] for i in range(5)]
    expected = torch.tensor([min(row) for row in away])
    torch.testing.assert_close(found[:, 0], expected)


def test_no_gradient_reaches_the_target_and_none_the_samples_that_are_not_nearest():
    """The gradient is that of the nearest sample alone."""
    specs = make_specs()
    dynamics = small_imle(specs, samples=3)
    z, memory = torch.randn(5, 4, requires_grad=True), torch.randn(5, 6)
    loss = dynamics.losses(context(z, memory, seed=1))["nearest"].sum()
    weights = [p for p in dynamics.generator.parameters()]
    grads = torch.autograd.grad(loss, [z, *weights], allow_unused=True)
    assert grads[0] is None and all(g is not None for g in grads[1:])
    noise = dynamics.nearest_noise(z, memory, gen(1))
    alone = 0.5 * (z.detach() - dynamics.generator(memory, noise)).square().sum()
    for a, b in zip(grads[1:], torch.autograd.grad(alone, weights), strict=True):
        torch.testing.assert_close(a, b)


def test_more_samples_are_never_farther():
    specs = make_specs()
    z, memory = torch.randn(64, 4), torch.randn(64, 6)
    one, many = (
        small_imle(specs, samples=m).losses(context(z, memory, seed=1))["nearest"].mean().item() for m in (1, 32)
    )
    assert many < 0.75 * one


def test_every_outcome_is_generated_also_the_rarest():
    """Weights .4 .3 .2 .1: a critic loses the last one (test_gan_dynamics); a nearest sample does not, but it flattens
    them, and most samples lie between the outcomes.
    """
    world, g = FourModes(), gen(5)
    specs = make_specs(latent=LatentSpec(2), memory=3)
    dynamics = small_imle(specs, units=48, noise=8, samples=16)
    updates = 600
    optimizer = torch.optim.Adam(dynamics.generator.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, updates)
    for step in range(updates):
        memory = world.memory(128, g)
        loss = dynamics.losses(context(world.sample(memory, g), memory, seed=step))["nearest"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    found = world.judge(lambda memory: dynamics.predict(memory).sample(g))
    gaussian = world.judge(lambda memory: world.gaussian(memory, g))
    assert min(found.shares) > 0.03 and max(found.shares) < 4 * min(found.shares), found
    assert found.energy < gaussian.energy, (found, gaussian)


def test_the_score_is_the_likelihood_of_the_best_variance_around_the_mean_of_the_samples():
    """A generator that ignores its noise, at 2 in every entry."""
    dynamics = small_imle(make_specs())
    for p in dynamics.generator.parameters():
        torch.nn.init.zeros_(p)
    last: Tensor = dynamics.generator.net.last.bias
    torch.nn.init.constant_(last, 2.0)
    z, memory = torch.randn(5, 4, generator=gen()), torch.randn(5, 6)
    std = torch.sqrt((z - 2).square().mean(0) + 1e-4).expand_as(z)
    expected = torch.distributions.Normal(2.0, std).log_prob(z).sum(-1)
    score = dynamics.score_latent(memory, z)
    torch.testing.assert_close(score, expected)
    # No other variance is more likely: at the best one the mean is -1/2 log 2 pi e var.
    best = -0.5 * (2 * math.pi * math.e * (z - 2).square().mean(0)).log().sum()
    assert score.mean().item() == pytest.approx(best.item(), abs=1e-3)


def test_latents_that_the_score_trains_do_not_run_away():
    """Latents follow the score while the generator follows them, as encoder and dynamics do."""
    dynamics = small_imle(make_specs())
    memory, g = torch.randn(64, 6, generator=gen(1)), gen(2)
    z = torch.nn.Parameter(0.5 * torch.randn(64, 4, generator=gen(3)))
    optimizer = torch.optim.Adam([z, *dynamics.parameters()], 1e-2)
    for step in range(300):
        noisy = z + 0.05 * torch.randn(64, 4, generator=g)
        with frozen(dynamics):
            score = dynamics.score_latent(memory, noisy).mean()
        loss = dynamics.losses(context(noisy.detach(), memory, seed=step))["nearest"].mean()
        optimizer.zero_grad()
        (loss - score).backward()
        optimizer.step()
    assert z.abs().max() < 1.5, z.abs().max()  # where they began; with a ratio to running moments they come to 3.7


def test_metrics_do_not_move_the_stream_of_training():
    specs = make_specs()
    model = WorldModel(specs, small_encoder(specs), small_imle(specs), small_decoder(specs), ModelSettings(units=16))
    ctx, _ = model.observe(make_batch(specs), gen())
    before = ctx.generator.get_state()
    found = model.dynamics.metrics(ctx.detach())
    assert torch.equal(ctx.generator.get_state(), before)
    assert set(found) == {"energy_score", "spread"} and all(torch.isfinite(value) for value in found.values())


def test_the_kernel_score_is_its_closed_form_and_smallest_at_the_truth():
    """Samples from N(0, s^2), targets from N(0, 1): E k of width w is w / sqrt(w^2 + the variance of the difference)."""
    found = {}
    for s in (0.5, 1.0, 2.0):
        samples = s * torch.randn(8, 40_000, 1, generator=gen(1), dtype=torch.float64)
        target = torch.randn(40_000, 1, generator=gen(2), dtype=torch.float64)
        scores = kernel_score(samples, target)
        closed = [w / (w**2 + 2 * s**2) ** 0.5 / 2 - w / (w**2 + s**2 + 1) ** 0.5 + 0.5 for w in BANDWIDTHS]
        expected, error = sum(closed) / len(closed), scores.std().item() / 40_000**0.5
        assert abs(scores.mean().item() - expected) < 4 * error
        found[s] = expected
    assert found[1.0] < min(found[0.5], found[2.0])


def test_moment_matching_scores_all_samples_and_learns_a_distribution():
    specs = make_specs()
    dynamics = small_imle(specs, samples=5, loss="moments")
    z, memory = torch.randn(6, 4, generator=gen(1)), torch.randn(6, 6, generator=gen(2))
    found = dynamics.losses(context(z, memory, seed=3))
    repeated = memory.repeat(5, 1)
    samples = dynamics.generator(repeated, dynamics.generator.draw(repeated, gen(3))).view(5, 6, 4)
    pairs = [kernel(samples[i], samples[j]) for i in range(5) for j in range(5) if i != j]
    expected = 4 * (torch.stack(pairs).mean(0) / 2 - kernel(samples, z).mean(0) + 0.5)
    torch.testing.assert_close(found["moments"][:, 0], expected)
    assert set(found) == {"moments"}
    assert settings_of_gmmn() == IMLEDynamicsConfig(loss="moments")


def test_one_sample_has_no_other_to_be_compared_with():
    with pytest.raises(ValueError, match="at least 2"):
        IMLEDynamicsConfig(loss="moments", samples=1)


def settings_of_gmmn() -> IMLEDynamicsConfig:
    """The settings of `--dynamics gmmn`."""
    return resolve(
        load_registry(), presets=["debug"], flags={"dynamics": {"name": "gmmn"}, "size": "medium"}
    ).dynamics.options  # type: ignore[return-value]
