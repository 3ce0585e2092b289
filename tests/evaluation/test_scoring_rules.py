"""Scoring rules against closed forms, double loops and order statistics."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from model_kit import gen

from worldlab.evaluation.scoring_rules import coverage_90, crps, energy_score


def test_energy_score_of_gaussians_matches_the_closed_form():
    """Forecast and truth N(0, s^2 I) in 3 dimensions: E|x - y| - E|x - x'| / 2 = E|N(0, 2 s^2 I)| / 2 = s Gamma(2) /
    Gamma(3/2)."""
    s, n = 0.7, 4000
    samples, target = s * torch.randn(10, n, 3, generator=gen()), s * torch.randn(n, 3, generator=gen(1))
    scores = energy_score(samples.double(), target.double())
    exact = s * math.gamma(2) / math.gamma(1.5)
    assert abs(float(scores.mean()) - exact) < 4 * float(scores.std()) / n**0.5
    assert float(scores.std()) / n**0.5 < 0.01 * exact


def test_crps_of_a_gaussian_matches_the_closed_form():
    """The CRPS of N(0, 1) at y is y (2 Phi(y) - 1) + 2 phi(y) - 1 / sqrt(pi); Gneiting & Raftery 2007, section 4.2."""
    y = torch.tensor([[0.0], [0.5], [-2.0]]).double()
    scores = crps(torch.randn(200_000, 3, 1, generator=gen()).double(), y)
    normal = torch.distributions.Normal(0.0, 1.0)
    exact = y[:, 0] * (2 * normal.cdf(y[:, 0]) - 1) + 2 * normal.log_prob(y[:, 0]).exp() - 1 / math.sqrt(math.pi)
    torch.testing.assert_close(scores, exact, atol=0.01, rtol=0)


def test_both_match_double_loops():
    x, y = torch.randn(6, 2, 3, generator=gen()).double(), torch.randn(2, 3, generator=gen(1)).double()
    for n in range(2):
        miss = sum((x[i, n] - y[n]).norm() for i in range(6)) / 6
        spread = sum((x[i, n] - x[j, n]).norm() for i in range(6) for j in range(6) if i != j) / 30
        assert float(energy_score(x, y)[n]) == pytest.approx(float(miss - spread / 2))
        entry = [energy_score(x[:, n : n + 1, k : k + 1], y[n : n + 1, k : k + 1]) for k in range(3)]
        assert float(crps(x, y)[n]) == pytest.approx(float(sum(entry)) / 3)
    assert energy_score(x[:1], y).tolist() == pytest.approx((x[0] - y).norm(dim=-1).tolist())
    assert crps(x[:1], y).tolist() == pytest.approx((x[0] - y).abs().mean(-1).tolist())


@pytest.mark.parametrize("count", [19, 39])
def test_interval_of_a_correct_forecast_contains_90_percent_for_any_distribution(count):
    n = 4000
    draws = torch.from_numpy(np.random.default_rng(0).exponential(size=(count + 1, n, 1)))
    covered = coverage_90(draws[1:], draws[0])
    assert abs(float(covered.mean()) - 0.9) < 4 * (0.09 / n) ** 0.5
    with pytest.raises(ValueError, match="20 k - 1"):
        coverage_90(draws[2:], draws[0])
