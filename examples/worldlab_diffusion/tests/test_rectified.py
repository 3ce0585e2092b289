"""The loss, the ODE and the log-ratio against closed forms; what is learned against data whose truth is known."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from flow_truths import SETTINGS, CorrelatedNormals, energy_distance, fit, four_modes, gen, vector_flow
from worldlab.distributions import Normal
from worldlab.interfaces import LatentSpec

from worldlab_diffusion.denoisers import CodeDenoiser
from worldlab_diffusion.networks import VectorVelocity
from worldlab_diffusion.rectified import FlowSettings, RectifiedFlow, shift_times, stratified_times


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2)])
def test_the_solver_has_its_order(solver, order):
    """The exact flow of x ~ N(m, s^2) maps noise to m + s noise; halving the step divides the error by 2^order."""
    truth = CorrelatedNormals(1, 0.8)
    noise, condition = torch.linspace(-2, 2, 9)[:, None].double(), torch.full((9, 1), 0.7).double()
    exact = 0.8 * condition + 0.6 * noise
    errors = []
    for steps in (16, 32, 64):
        flow = truth.flow(SETTINGS._replace(steps=steps, solver=solver))
        errors.append(float((flow.trajectory(noise, (condition,))[-1] - exact).detach().abs().max()))
    for coarse, fine in itertools.pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.15)
    assert errors[-1] < 0.03


def test_a_straight_flow_has_no_bend_and_needs_one_step():
    """Where the condition gives x away, every trajectory is a straight line to it."""
    truth = CorrelatedNormals(2, 1.0)
    one, four = (truth.flow(SETTINGS._replace(steps=steps)) for steps in (1, 4))
    condition = torch.randn(50, 2, generator=gen())
    assert float(four.bend(condition, gen())) < 1e-9
    for flow in (one, four):
        torch.testing.assert_close(flow.trajectory(flow.noise(condition, gen()), (condition,))[-1], condition)
    bent = CorrelatedNormals(2, 0.0).flow(SETTINGS._replace(steps=4))
    assert float(bent.bend(condition, gen())) > 0.02


@pytest.mark.parametrize(("dim", "rho"), [(1, 0.5), (1, 0.9), (8, 0.9), (32, 0.99)])
def test_information_is_the_log_ratio_where_denoisers_are_exact(dim, rho):
    """log N(x; rho c, 1 - rho^2) / N(x; 0, 1): its mean, -log(1 - rho^2) / 2 an entry, and each value."""
    g = gen()
    condition = torch.randn(4000, dim, generator=g)
    x = rho * condition + math.sqrt(1 - rho**2) * torch.randn(4000, dim, generator=g)
    spread = torch.full((dim,), math.sqrt(1 - rho**2))
    ratio = Normal(rho * condition, spread).log_prob(x) - Normal(torch.zeros(dim), torch.ones(dim)).log_prob(x)
    flow = CorrelatedNormals(dim, rho).flow(SETTINGS)
    with torch.no_grad():
        found = flow.information(x, condition)
        fine = CorrelatedNormals(dim, rho).flow(SETTINGS._replace(nodes=64)).information(x, condition)
    assert float(found.mean()) == pytest.approx(float(ratio.mean()), rel=0.05)
    assert torch.corrcoef(torch.stack([found, ratio]))[0, 1] > 0.95
    assert float((fine - ratio).square().mean().sqrt()) < 0.05 * float(ratio.std())


def test_information_of_codes_is_their_log_ratio():
    """A network that knows P(code | c) and, where c is hidden, that all are alike: log P(code | c) - log 1/4."""
    probs = torch.tensor([0.55, 0.25, 0.15, 0.05])

    class Knows(VectorVelocity):
        def embed(self, condition):
            return (condition,)

        def forward(self, x, t, embedded):
            return torch.where(embedded[0].isnan(), 0.0, probs.log()).expand_as(x)

    denoiser = CodeDenoiser(Knows(4, 4, 1, 8, 1), LatentSpec(4, "categorical", 1, 4))
    flow = RectifiedFlow(denoiser, 1, SETTINGS._replace(nodes=512))
    flow.null.data.fill_(float("nan"))
    with torch.no_grad():
        found = flow.information(torch.eye(4), torch.zeros(4, 1))
    torch.testing.assert_close(found, (4 * probs).log(), atol=0.1, rtol=0.05)


def test_a_dying_value_gains_no_score():
    """Shrinking x does not raise log p(x|c)/p(x) in the mean: an encoder that climbs it is not paid for dying."""
    g = gen()
    condition = torch.randn(4000, 8, generator=g)
    x = 0.9 * condition + math.sqrt(1 - 0.81) * torch.randn(4000, 8, generator=g)
    flow = CorrelatedNormals(8, 0.9).flow(SETTINGS)
    scale = torch.ones((), requires_grad=True)
    information = flow.information(scale * x, condition).mean()
    assert float(torch.autograd.grad(information, scale)[0]) == pytest.approx(0.0, abs=0.25)  # log p(x|c) alone: -8


def test_times_are_stratified_and_shifted_towards_the_noise():
    t = stratified_times(100, torch.zeros(1), gen())
    assert torch.equal((100 * t.sort().values).floor(), torch.arange(100.0)) and not torch.equal(t, t.sort().values)
    moved = shift_times(t, 3.0)
    torch.testing.assert_close(moved / (1 - moved), t / (1 - t) / 3, rtol=1e-4, atol=0)
    assert vector_flow(1, 1, settings=SETTINGS._replace(shift=3.0)).times()[::4] == [0.0, 1.0]


def test_temperature_scales_the_noise():
    flow = CorrelatedNormals(1, 0.0).flow(SETTINGS._replace(steps=64))
    dist = flow.condition_on(torch.zeros(20000, 1))
    assert float(dist.tempered(4.0).sample(gen()).std()) == pytest.approx(2.0, rel=0.03)
    assert float(dist.sample(gen()).std()) == pytest.approx(1.0, rel=0.03)
    assert float(dist.mode.detach().abs().max()) < 1e-6


@pytest.mark.slow
def test_four_futures_are_told_apart():
    """A mixture that turns with the condition: far closer to the truth than the best Gaussian, and its shares are right."""
    g = gen()
    flow = vector_flow(2, 1)

    def draw():
        condition = 2 * torch.rand(64, 1, generator=g) - 1
        return condition, four_modes(condition, g)

    fit(flow, draw, 700)
    for turn in (-0.7, 0.5):
        condition = torch.full((2000, 1), turn)
        truth, again = four_modes(condition, g), four_modes(condition, g)
        gauss = truth.mean(0) + torch.randn(2000, 2, generator=g) @ torch.linalg.cholesky(truth.T.cov()).T
        with torch.no_grad():
            drawn = flow.condition_on(condition).sample(g)
        assert energy_distance(truth, again) < 0.006 < 0.05 < energy_distance(truth, gauss)
        assert energy_distance(truth, drawn) < 0.025
        angle = torch.atan2(drawn[:, 1], drawn[:, 0]) - turn
        shares = torch.bincount((angle / (math.pi / 2)).round().long() % 4, minlength=4) / 2000
        torch.testing.assert_close(shares, torch.tensor([0.4, 0.3, 0.2, 0.1]), atol=0.08, rtol=0)


@pytest.mark.slow
def test_codes_keep_together_what_belongs_together():
    """Two codes that always agree, one of three values, with odds that the condition decides. Drawn one by one from
    their own odds they would agree in less than half of the cases."""
    g = gen()
    torch.manual_seed(0)
    odds = torch.tensor([[0.6, 0.3, 0.1], [0.1, 0.2, 0.7]])
    denoiser = CodeDenoiser(VectorVelocity(6, 6, 2, 64, 2), LatentSpec(6, "categorical", 2, 3))
    flow = RectifiedFlow(denoiser, 2, SETTINGS)

    def draw():
        which = torch.randint(2, (64,), generator=g)
        value = torch.multinomial(odds[which], 1, generator=g)[:, 0]
        return torch.eye(2)[which], torch.eye(3)[value].repeat(1, 2)

    fit(flow, draw, 500)
    for which in (0, 1):
        with torch.no_grad():
            drawn = flow.condition_on(torch.eye(2)[which].expand(2000, 2)).sample(g).unflatten(1, (2, 3)).argmax(-1)
        assert float((drawn[:, 0] == drawn[:, 1]).float().mean()) > 0.95
        shares = torch.bincount(drawn[:, 0], minlength=3) / 2000
        torch.testing.assert_close(shares, odds[which], atol=0.08, rtol=0)


@pytest.mark.slow
def test_more_steps_come_closer():
    """One step ends at the mean of all futures; two of Euler's come closer, four closer still, four of Heun's closest."""
    g = gen()
    flow = vector_flow(2, 1)
    fit(flow, lambda: (torch.zeros(64, 1), four_modes(torch.zeros(64, 1), g)), 400)
    truth = four_modes(torch.zeros(3000, 1), g)
    distances = []
    for steps, solver in ((1, "euler"), (2, "euler"), (4, "euler"), (4, "heun")):
        flow.settings = FlowSettings(steps, solver, 0.2, 4, 16)
        with torch.no_grad():
            drawn = flow.condition_on(torch.zeros(3000, 1)).sample(gen(5))
        distances.append(energy_distance(truth, drawn))
        if steps == 1:
            torch.testing.assert_close(drawn.mean(0), truth.mean(0), atol=0.05, rtol=0)
            assert drawn.std(0).max() < 0.15
    assert distances == sorted(distances, reverse=True) and distances[-1] < 0.1 * distances[1]
