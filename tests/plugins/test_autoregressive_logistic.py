import pytest
import torch
from autoregressive_toys import gen
from worldlab_autoregressive.logistic import PixelMixture, PixelNoise, parameters_per_pixel


def mixture(channels: int, levels: int, scale: float, rows: int = 4, k: int = 3) -> PixelMixture:
    outputs = torch.randn(rows, parameters_per_pixel(channels, k), 1, 1, generator=gen(), dtype=torch.float64)
    return PixelMixture.of(scale * outputs, channels, k, levels)


@pytest.mark.parametrize("scale", [1.0, 8.0])
def test_256_levels_sum_to_one(scale: float):
    x = torch.arange(256, dtype=torch.float64).view(1, 1, 1, 256) / 255 - 0.5
    part = mixture(1, 256, scale)
    total = part.log_prob(x.expand(4, -1, -1, -1)).exp().sum(-1)
    assert (total - 1).abs().max().item() < 1e-12


def test_all_colours_of_a_small_cube_sum_to_one():
    """6 levels, 216 colours: channels are coupled, so the joint is summed."""
    level = torch.arange(6, dtype=torch.float64) / 5 - 0.5
    colours = torch.cartesian_prod(level, level, level).T[None, :, None]  # [1, 3, 1, 216]
    log_prob = mixture(3, 6, 2.0).log_prob(colours.expand(4, -1, -1, -1))
    assert (log_prob.exp().sum(-1) - 1).abs().max().item() < 1e-12


def test_it_is_the_difference_of_logistic_distribution_functions():
    """An independent spelling: loops over components and channels, sigmoids subtracted in float64."""
    part, x = mixture(3, 256, 1.0), torch.tensor([0, 100, 255]).double().view(1, 3, 1, 1) / 255 - 0.5
    value, half = 2 * x[0, :, 0, 0], 1 / 255
    for row in range(4):
        total = 0.0
        for k in range(3):
            p = part.logits[row, k, 0, 0].exp()
            coupling, mean, scale = (t[row, k, :, 0, 0] for t in (part.coupling, part.mean, part.log_scale.exp()))
            means = [
                mean[0],
                mean[1] + coupling[0] * value[0],
                mean[2] + coupling[1] * value[0] + coupling[2] * value[1],
            ]
            edges = [(-torch.inf, -1 + half), (value[1] - half, value[1] + half), (1 - half, torch.inf)]
            for (low, high), m, s in zip(edges, means, scale):
                upper, lower = (torch.sigmoid((torch.as_tensor(e) - m) / s) for e in (high, low))
                p = p * (upper - lower)
            total = total + p
        assert part.log_prob(x.expand(4, -1, -1, -1))[row].item() == pytest.approx(float(torch.as_tensor(total).log()))


def test_samples_follow_the_probabilities():
    level = torch.arange(4, dtype=torch.float64) / 3 - 0.5
    colours = torch.cartesian_prod(level, level)
    one = mixture(2, 4, 1.0, rows=1)
    expected = one.log_prob(colours.T[None, :, None]).exp().flatten()
    count = 40_000
    parts = (leaf.expand(count, *leaf.shape[1:]) for leaf in (one.logits, one.mean, one.log_scale, one.coupling))
    drawn = PixelMixture(*parts, levels=4).sample(PixelNoise.draw(torch.zeros(count).double(), 3, (2, 1, 1), gen(1)))
    index = ((drawn[:, :, 0, 0] + 0.5) * 3).round().long() @ torch.tensor([4, 1])
    found = torch.bincount(index, minlength=16) / count
    error = (expected * (1 - expected) / count).sqrt()
    assert ((found - expected).abs() < 4.5 * error + 1e-9).all()


def test_extreme_outputs_stay_finite():
    for scale in (30.0, 1e4):
        part = mixture(3, 256, scale)
        single = PixelMixture(*(t.float() for t in (part.logits, part.mean, part.log_scale, part.coupling)))
        assert torch.isfinite(single.log_prob(torch.rand(4, 3, 1, 1, generator=gen()) - 0.5)).all()
