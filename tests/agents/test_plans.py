"""Distributions over plans against their moments, and coloured noise against its spectrum."""

import pytest
import torch
from worldlab_agents.plans import CategoricalPlans, GaussianPlans, coloured_noise, initial_plans

from worldlab.testing.toys import ACTIONS


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("horizon", [12, 15])
@pytest.mark.parametrize("beta", [0.0, 1.0, 2.5])
def test_coloured_noise_has_unit_variance_and_the_promised_spectrum(beta, horizon):
    noise = coloured_noise((20_000, horizon, 2), beta, gen())
    torch.testing.assert_close(noise.var(0), torch.ones(horizon, 2), atol=0.05, rtol=0)
    power = torch.fft.rfft(noise, dim=1).abs().square().mean((0, 2))
    frequency = torch.arange(len(power)).clamp(min=1).float()
    inner = slice(1, (horizon + 1) // 2)  # the highest frequency of an even horizon holds its power in one part only
    slope = torch.log(power[inner] / power[1]) / torch.log(frequency[inner]).clamp(min=1e-9)
    torch.testing.assert_close(slope[1:], torch.full_like(slope[1:], -beta), atol=0.1, rtol=0)


def test_short_horizons_get_white_noise():
    assert coloured_noise((1000, 2, 1), 2.0, gen()).std().item() == pytest.approx(1, abs=0.1)


def test_gaussian_plans_fit_the_weighted_moments():
    plans = GaussianPlans(torch.zeros(1, 2, 1), torch.ones(1, 2, 1))
    tried = torch.tensor([[0.0, 1.0], [1.0, 0.0], [9.0, 9.0]])[None, :, :, None]
    weight = torch.tensor([[0.25, 0.75, 0.0]])
    fitted = plans.fit(tried, weight, keep=0.0, floor=0.0)
    torch.testing.assert_close(fitted.mean.flatten(), torch.tensor([0.75, 0.25]))
    torch.testing.assert_close(fitted.std.flatten(), torch.full((2,), (0.25 * 0.75) ** 0.5))
    half = plans.fit(tried, weight, keep=0.5, floor=0.9)
    torch.testing.assert_close(half.mean, fitted.mean / 2)
    assert (half.std == 0.9).all()


def test_categorical_plans_sample_their_odds_and_fit_frequencies():
    odds = torch.tensor([0.5, 0.3, 0.2])
    plans = CategoricalPlans(odds.log().expand(1, 4, 3))
    tried = plans.sample(coloured_noise((1, 20_000, 4, 3), 0.0, gen()))
    assert torch.equal(tried.sum(-1), torch.ones(1, 20_000, 4))
    torch.testing.assert_close(tried.mean(1)[0], odds.expand(4, 3), atol=0.015, rtol=0)
    weight = torch.zeros(1, 20_000)
    weight[0, :2] = 0.5
    fitted = plans.fit(tried, weight, keep=0.0, floor=0.1)
    torch.testing.assert_close(fitted.logits.exp()[0], 0.9 * tried[0, :2].mean(0) + 0.1 / 3, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_a_shifted_plan_is_the_plan_one_step_later(kind):
    action = ACTIONS[kind]
    plans = initial_plans(2, 4, action, torch.device("cpu"))
    tried = plans.sample(coloured_noise((2, 1, 4, action.dim), 0.0, gen()))
    fitted = plans.fit(tried, torch.ones(2, 1), keep=0.0, floor=0.01)
    later = fitted.shift().best
    torch.testing.assert_close(later[:, :3], fitted.best[:, 1:])
    torch.testing.assert_close(later[:, 3], fitted.best[:, 3])
