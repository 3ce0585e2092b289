"""The flow of real vectors: exact both ways, one network call a coupling, and able to split a mode."""

import math
from dataclasses import replace

import pytest
import torch
from flow_toys import count_calls, gen, jacobian, stirred
from worldlab_flow.coupling import SLOPE, CouplingFlow
from worldlab_flow.location_scale import FlowDensity, FlowHead
from zuko.transforms import MonotonicRQSTransform

from worldlab.distributions import Normal

KINDS = pytest.mark.parametrize("kind", ["spline", "realnvp", "nice"])
SLOPED = pytest.mark.parametrize("kind", ["spline", "realnvp"])
DIMS = pytest.mark.parametrize("dim", [1, 2, 5, 8])


def density(dim: int, kind: str, rows: int = 1, dtype=torch.float64, size: float = 0.3) -> FlowDensity:
    """A density with stirred weights, one context a row."""
    torch.manual_seed(0)
    flow = CouplingFlow(dim, 4, kind, transforms=3, units=16, layers=1, bins=8)
    head = FlowHead(4, dim, 0.05)
    stirred(flow, size), stirred(head, size, 1)
    context = torch.randn(rows, 4, generator=gen(2), dtype=torch.float64).to(dtype)
    return head.to(dtype)(context, flow.to(dtype))


@KINDS
@DIMS
def test_inverse(kind: str, dim: int):
    """x -> noise -> x within 1e-5 in float32. Measured: 4e-6 at most; trained on four modes 9e-6 (steeper splines)."""
    p = density(dim, kind, rows=500, dtype=torch.float32, size=0.1)
    noise = 1.5 * torch.randn(500, dim, generator=gen(3))
    x = p.flow.generate(noise, p.context)
    torch.testing.assert_close(p.flow.normalise(x, p.context)[0], noise, rtol=0, atol=1e-5)
    again = p.flow.generate(p.flow.normalise(noise, p.context)[0], p.context)
    torch.testing.assert_close(again, noise, rtol=0, atol=1e-5)
    assert (x - noise).abs().max() > 0.05  # not the identity


@KINDS
@DIMS
def test_log_det_is_autograds(kind: str, dim: int):
    """Within 1e-8 in float64. Measured: below 1e-13."""
    p = density(dim, kind)
    x = torch.randn(dim, generator=gen(3), dtype=torch.float64)
    matrix = jacobian(lambda row: p.flow.normalise(row, p.context)[0], x)
    assert abs(p.flow.normalise(x[None], p.context)[1].item() - torch.linalg.slogdet(matrix).logabsdet.item()) < 1e-8


@KINDS
def test_density_integrates_to_one_in_two_dimensions(kind: str):
    p = density(2, kind)
    with torch.no_grad():
        centre, width = p.mean[0], 8 * p.std[0]
        axes = [torch.linspace(float(c - w), float(c + w), 500, dtype=torch.float64) for c, w in zip(centre, width)]
        points = torch.cartesian_prod(*axes)
        rows = FlowDensity(*(leaf.expand(len(points), -1) for leaf in (p.mean, p.std, p.context)), p.flow)
        cell = (axes[0][1] - axes[0][0]) * (axes[1][1] - axes[1][0])
        mass = (rows.log_prob(points).exp().sum() * cell).item()
    assert mass == pytest.approx(1, abs=0.01)


@KINDS
def test_a_hotter_density_still_integrates_to_one_and_its_samples_are_of_it(kind: str):
    """At temperature 2: the grid as above, and the mean of log p over samples as the grid has it."""
    p = density(2, kind).tempered(2.0)
    assert torch.equal(p.mode, p.tempered(0.5).mode) and p.tempered(0.5).temperature == 1.0
    with torch.no_grad():
        centre, width = p.mean[0], 10 * p.std[0]
        axes = [torch.linspace(float(c - w), float(c + w), 500, dtype=torch.float64) for c, w in zip(centre, width)]
        points = torch.cartesian_prod(*axes)
        rows = replace(p, **{k: getattr(p, k).expand(len(points), -1) for k in ("mean", "std", "context")})
        log_p = rows.log_prob(points)
        cell = (axes[0][1] - axes[0][0]) * (axes[1][1] - axes[1][0])
        many = replace(p, **{k: getattr(p, k).expand(20_000, -1) for k in ("mean", "std", "context")})
        sampled = many.log_prob(many.sample(gen())).mean().item()
    assert (log_p.exp().sum() * cell).item() == pytest.approx(1, abs=0.01)
    assert sampled == pytest.approx((log_p.exp() * log_p).sum().item() * float(cell), abs=0.03)


@KINDS
def test_both_directions_cost_one_network_call_a_coupling(kind: str):
    p = density(6, kind, rows=4)
    for coupling in p.flow.couplings:
        assert count_calls(coupling.net, lambda: p.sample(gen())) == 1
        assert count_calls(coupling.net, lambda: p.log_prob(p.mean)) == 1


@KINDS
@DIMS
def test_it_starts_as_the_outer_gaussian(kind: str, dim: int):
    flow, head = CouplingFlow(dim, 4, kind, 3, 16, 1, 8), FlowHead(4, dim, 0.05)
    p = head(torch.randn(7, 4, generator=gen()), flow)
    x = torch.randn(7, dim, generator=gen(1))
    torch.testing.assert_close(p.log_prob(x), Normal(p.mean, p.std).log_prob(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(p.sample(gen(2)), Normal(p.mean, p.std).sample(gen(2)), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(p.mode, p.mean, rtol=1e-4, atol=1e-4)


@DIMS
def test_every_entry_is_moved_and_with_two_couplings_sees_every_other(dim: int):
    flow = stirred(CouplingFlow(dim, 4, "spline", 2, 16, 1, 8)).double()
    assert sorted(torch.cat([c.moved for c in flow.couplings]).unique().tolist()) == list(range(dim))
    assert all(len(c.moved) for c in flow.couplings)
    x, context = torch.randn(dim, generator=gen(), dtype=torch.float64), torch.zeros(1, 4, dtype=torch.float64)
    matrix = jacobian(lambda row: flow.normalise(row, context)[0], x)
    moved_last = flow.couplings[-1].moved
    others = [i for i in range(dim) if i not in moved_last.tolist()]
    assert matrix[moved_last][:, others].all()


def test_far_values_keep_the_outer_gaussian():
    """Beyond +-5 standardised units splines are the identity: densities there are those of the Gaussian, and finite."""
    p = density(2, "spline")
    x = p.mean + torch.tensor([[40.0, -60.0]]) * p.std
    torch.testing.assert_close(p.log_prob(x), Normal(p.mean, p.std).log_prob(x))
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(p.log_prob(x).sum(), x)
    torch.testing.assert_close(gradient, -(x - p.mean) / p.std.square())
    huge = (p.mean + 1e12).detach().requires_grad_()
    assert torch.isfinite(torch.autograd.grad(p.log_prob(huge).sum(), huge)[0]).all()


@pytest.mark.parametrize("size", [1.0, 10.0, 1000.0])
def test_extreme_splines_stay_finite_with_their_gradients(size: float):
    """A discriminant that rounding makes negative would be a NaN in a dream: none in a million."""
    g = gen()
    for _ in range(10):
        widths, heights, slopes = (size * torch.randn(100_000, n, generator=g) for n in (8, 8, 7))
        y = (2.5 * torch.randn(100_000, generator=g)).requires_grad_()
        x = MonotonicRQSTransform(widths, heights, slopes, slope=SLOPE).inv(y)
        (gradient,) = torch.autograd.grad(x.sum(), y)
        assert torch.isfinite(x).all() and torch.isfinite(gradient).all()


@SLOPED
def test_std_and_slopes_are_bounded_below_whatever_the_weights(kind: str):
    p = density(3, kind, rows=50, size=100.0)
    assert p.std.min() >= 0.05
    slopes = torch.cat(p.flow.normalise_with_slopes(torch.randn(50, 3, generator=gen()).double(), p.context)[1], -1)
    # Inside a bin of mean slope s between knots of slope d a spline is as flat as 2 s^2 / d; s >= 0.024 with 8 bins.
    steepest = -math.log(SLOPE) if kind == "realnvp" else -math.log(2 * 0.024**2 * SLOPE)
    assert 1 < slopes.abs().max().item() <= steepest + 1e-6


@KINDS
def test_gradients_reach_all_tensor_fields_and_the_weights(kind: str):
    p = density(5, kind, rows=3)
    leaves = [leaf.detach().requires_grad_() for leaf in (p.mean, p.std, p.context)]
    fresh = FlowDensity(*leaves, p.flow)
    weights = list(p.flow.parameters())
    for out in (fresh.sample(gen()), fresh.log_prob(p.mean.detach() + 0.3)):
        found = torch.autograd.grad(out.square().sum(), leaves + weights)
        assert all(gradient.abs().sum() > 0 for gradient in found)


@DIMS
def test_shifts_leave_the_volume_to_the_outer_scaling(dim: int):
    """NICE, arXiv:1410.8516, section 3.3: log|det dnoise/dx| is that of the diagonal scaling, - sum log S, for any weights."""
    p = density(dim, "nice", rows=6, size=1.0)
    x = torch.randn(6, dim, generator=gen(3), dtype=torch.float64)
    noise, log_det = p.flow.normalise((x - p.mean) / p.std, p.context)
    assert torch.equal(log_det, torch.zeros(6, dtype=torch.float64))
    expected = Normal(torch.zeros_like(noise), torch.ones_like(noise)).log_prob(noise) - p.std.log().sum(-1)
    torch.testing.assert_close(p.log_prob(x), expected)
