"""Untrained, both denoisers are exact for the simplest data of their kind; units follow the data between updates only."""

from __future__ import annotations

import itertools

import pytest
import torch
from flow_truths import gen, vector_flow
from worldlab.interfaces import LatentSpec

from worldlab_diffusion.denoisers import CodeDenoiser, RealDenoiser
from worldlab_diffusion.networks import PictureVelocity, VectorVelocity
from worldlab_diffusion.standardise import Standardiser, for_codes

CODES = LatentSpec(6, "categorical", groups=2, classes=3)


def test_an_untrained_flow_is_that_of_standard_normal_data():
    denoiser, g = vector_flow(5, 3).denoiser, gen()
    x, t = torch.randn(64, 5, generator=g), torch.rand(64, generator=g)
    a, b = (1 - t)[:, None], t[:, None]  # x_t = a noise + b data
    expected_data = b / (a**2 + b**2) * x  # regression of one normal on a sum of two
    expected_noise = a / (a**2 + b**2) * x
    embedded = denoiser.embed(torch.randn(64, 3, generator=g))
    torch.testing.assert_close(denoiser.endpoint(x, t, embedded), expected_data)
    torch.testing.assert_close(denoiser.velocity(x, t, embedded), expected_data - expected_noise)


def test_untrained_codes_follow_bayes_rule():
    denoiser, g = CodeDenoiser(VectorVelocity(6, 6, 4, 16, 1), CODES), gen()
    x, t = torch.randn(32, 6, generator=g), 0.9 * torch.rand(32, generator=g)
    rows = torch.tensor(list(itertools.product(range(3), repeat=2)))
    codes = denoiser.units(torch.eye(3)[rows].flatten(1))  # all nine, standardised
    distance = (x[:, None] - t[:, None, None] * codes).square().sum(-1)
    posterior = torch.softmax(-distance / (2 * (1 - t[:, None]) ** 2), 1)  # uniform prior, normal noise
    embedded = denoiser.embed(torch.randn(32, 4, generator=g))
    torch.testing.assert_close(denoiser.endpoint(x, t, embedded), posterior @ codes, atol=1e-4, rtol=1e-4)


def test_finished_codes_are_one_hots_with_a_gradient():
    denoiser = CodeDenoiser(VectorVelocity(6, 6, 4, 16, 1), CODES)
    probs = torch.tensor([[0.2, 0.3, 0.5], [0.9, 0.05, 0.05]])
    x = denoiser.units(probs.flatten()[None].expand(20000, -1)).requires_grad_()
    drawn = denoiser.finish(x, gen())
    assert ((drawn - drawn.round()).abs() < 1e-5).all() and (drawn.unflatten(1, (2, 3)).sum(-1) - 1).abs().max() < 1e-5
    torch.testing.assert_close(drawn.mean(0).unflatten(0, (2, 3)), probs, atol=0.015, rtol=0)
    assert torch.autograd.grad(drawn[:, 0].sum(), x)[0].abs().sum() > 0
    assert denoiser.finish(x[:1], None).tolist() == [[0, 0, 1, 1, 0, 0]]


@pytest.mark.parametrize("side", [(16, 16), (17, 22)])
def test_pictures_of_any_size_start_as_standard_normal(side):
    shape = (3, *side)
    denoiser, g = RealDenoiser(PictureVelocity(shape, 4, 4, 8), shape), gen()
    x, t = torch.randn(2, *shape, generator=g), torch.tensor([0.3, 0.8])
    at = t.view(2, 1, 1, 1)
    embedded = denoiser.embed(torch.randn(2, 4, generator=g))
    torch.testing.assert_close(denoiser.endpoint(x, t, embedded), at / (at**2 + (1 - at) ** 2) * x)


def test_units_move_between_updates_only_and_to_the_moments_of_the_data():
    units, x = Standardiser((3,)), 3 + 2 * torch.randn(5000, 3, generator=gen())
    mask = (torch.arange(5000) < 4000).float()
    units.record_moments(torch.where(mask[:, None] > 0, x, 1e6), mask)
    assert torch.equal(units(x), x)  # nothing yet
    units.update()
    inside = units(x[:4000])
    torch.testing.assert_close(inside.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(inside.std(0, correction=0), torch.ones(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(units.inverse(units(x)), x)
    before = units.mean.clone()
    units.update()  # nothing was noted since
    assert torch.equal(units.mean, before)


def test_two_batches_of_different_means_have_the_variance_of_both():
    units, g = Standardiser(()), gen()
    parts = [torch.randn(2, 1, 50, 50, generator=g) + shift for shift in (-2.0, 2.0)]
    for part in parts:
        units.record_moments(part, torch.ones(2))
        units.update()
    both = torch.cat(parts)
    torch.testing.assert_close(units.mean, both.mean())
    torch.testing.assert_close(units.variance, both.var(correction=0))


def test_equally_likely_codes_have_mean_0_and_variance_1():
    codes = for_codes(4, 4)(torch.eye(4))
    torch.testing.assert_close(codes.mean(0), torch.zeros(4))
    torch.testing.assert_close(codes.square().mean(0), torch.ones(4))
