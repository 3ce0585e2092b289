"""The mixture density head, against torch.distributions."""

import math

import pytest
import torch
from autoregressive_toys import gen
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal
from worldlab_autoregressive.mixtures import GaussianMixture

from worldlab.distributions import tempered


def mixture(n: int, blocks: int, components: int, width: int, dtype=torch.float64, min_std: float = 0.05):
    g = gen()
    shape = (n, blocks, components)
    logits = torch.randn(shape, generator=g, dtype=dtype)
    mean, raw = (torch.randn(*shape, width, generator=g, dtype=dtype) for _ in range(2))
    return GaussianMixture.from_outputs(logits, mean, raw, min_std)


def reference(m: GaussianMixture) -> MixtureSameFamily:
    """torch's mixture of each block: batch [N, blocks], event [width]."""
    return MixtureSameFamily(Categorical(logits=m.logits), Independent(Normal(m.mean, m.std), 1))


@pytest.mark.parametrize(("blocks", "width"), [(1, 6), (6, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_prob_is_that_of_mixture_same_family(blocks, width, dtype):
    m = mixture(50, blocks, 5, width, dtype)
    x = 2 * torch.randn(50, 6, generator=gen(1), dtype=dtype)
    expected = reference(m).log_prob(x.view(50, blocks, width)).sum(-1)
    error = ((m.log_prob(x) - expected) / (1 + expected.abs())).abs().max().item()
    assert error <= (1e-6 if dtype == torch.float32 else 1e-12)


def test_gradients_are_finite_at_the_smallest_std_and_far_away():
    logits = torch.tensor([[[0.0, -80.0, 60.0]]], requires_grad=True)
    mean = torch.zeros(1, 1, 3, 2, requires_grad=True)
    raw = torch.full((1, 1, 3, 2), -1e4, requires_grad=True)
    for far in (0.0, 1e3, -1e4):
        x = torch.full((1, 2), far, requires_grad=True)
        m = GaussianMixture.from_outputs(logits, mean, raw, 0.05)
        assert m.std.min().item() == pytest.approx(0.05)
        value = m.log_prob(x).sum()
        grads = torch.autograd.grad(value, [logits, mean, raw, x])
        assert torch.isfinite(value) and all(torch.isfinite(g).all() for g in grads)


@pytest.mark.parametrize("temperature", [1.0, 0.3, 1.7])
def test_samples_follow_the_tempered_mixture(temperature):
    """Against the closed form of its distribution function (one entry), by the Kolmogorov-Smirnov distance."""
    one, n = mixture(1, 1, 4, 1), 20_000
    logits = (one.logits / temperature).log_softmax(-1)
    std = one.std * math.sqrt(temperature)
    wide = GaussianMixture(one.logits.expand(n, 1, 4), one.mean.expand(n, 1, 4, 1), one.std.expand(n, 1, 4, 1))
    drawn = tempered(wide, temperature).sample(gen(2))[:, 0].sort().values
    cdf = (logits.exp() * Normal(one.mean[..., 0], std[..., 0]).cdf(drawn[:, None, None])).sum(-1)[:, 0]
    assert (cdf - torch.linspace(0, 1, n).double()).abs().max() < 1.95 / math.sqrt(n)  # p = 0.001


def test_a_temperature_divides_logits_and_multiplies_variances():
    m = mixture(5, 2, 4, 3)
    hot = tempered(m, 1.7)
    assert isinstance(hot, GaussianMixture) and tempered(m, 1.0) is m
    torch.testing.assert_close(hot.logits, (m.logits / 1.7).log_softmax(-1))
    torch.testing.assert_close(hot.std.square(), 1.7 * m.std.square())
    assert torch.equal(hot.mean, m.mean)


@pytest.mark.parametrize(("blocks", "width"), [(1, 3), (3, 1)])
def test_mode_is_the_mean_of_the_heaviest_component(blocks, width):
    m = mixture(7, blocks, 4, width)
    for n in range(7):
        expected = torch.cat([m.mean[n, b, m.logits[n, b].argmax()] for b in range(blocks)])
        assert torch.equal(m.mode[n], expected)


def test_a_joint_mixture_moves_all_entries_together_and_a_factorised_one_does_not():
    """Two components at (-1, -1) and (1, 1): the correlation of the entries is 1 or 0."""
    n = 4000
    mean = torch.tensor([[-1.0, -1.0], [1.0, 1.0]])
    joint = GaussianMixture(
        torch.full((n, 1, 2), math.log(0.5)), mean.expand(n, 1, 2, 2), torch.full((n, 1, 2, 2), 1e-3)
    )
    apart = GaussianMixture(
        torch.full((n, 2, 2), math.log(0.5)), mean.T[..., None].expand(n, 2, 2, 1), torch.full((n, 2, 2, 1), 1e-3)
    )
    correlations = [torch.corrcoef(m.sample(gen()).T)[0, 1].item() for m in (joint, apart)]
    assert correlations[0] > 0.999 and abs(correlations[1]) < 0.06


def test_sample_gradients_are_right_for_what_is_linear_in_z():
    """Straight-through on the choice: E[d (w z) / d logits] = d (w E z) / d logits, within 4 standard errors."""
    m, n = mixture(1, 1, 3, 2), 20_000
    logits = m.logits.clone().requires_grad_()
    weight = torch.tensor([1.0, -2.0], dtype=torch.float64)
    exact = torch.autograd.grad(((logits.softmax(-1)[..., None] * m.mean).sum(-2) @ weight).sum(), logits)[0][0, 0]
    rows = logits.expand(n, 1, 3).detach().clone().requires_grad_()
    wide = GaussianMixture(rows.log_softmax(-1), m.mean.expand(n, 1, 3, 2), m.std.expand(n, 1, 3, 2))
    found = torch.autograd.grad((wide.sample(gen()) @ weight).sum(), rows)[0][:, 0]
    error = found.std(0) / math.sqrt(n)
    assert ((found.mean(0) - exact).abs() < 4 * error).all()


def test_gradients_of_mean_and_std_are_pathwise_through_the_chosen_component_only():
    m = mixture(6, 1, 3, 2)
    mean, std = m.mean.clone().requires_grad_(), m.std.clone().requires_grad_()
    z = GaussianMixture(m.logits, mean, std).sample(gen())
    to_mean: Tensor
    to_mean, to_std = torch.autograd.grad(z.sum(), [mean, std])
    assert torch.equal(to_mean.sum(2), torch.ones(6, 1, 2, dtype=torch.float64))
    assert ((to_mean == 1).sum(2) == 1).all() and ((to_std != 0) == (to_mean != 0)).all()
