import math

import pytest
import torch
from model_kit import gen

from worldlab import distributions, tree
from worldlab.distributions import Bernoulli, Normal, OneHot, TwoHot, kl_to_standard_normal, one_hot, symexp, symlog
from worldlab.heads import TwoHotHead


def bins() -> torch.Tensor:
    """Compute the bin values of the two-hot independently: symexp of 255 evenly spaced numbers in [-20, 20], float64."""
    ends = torch.linspace(-20, 20, 255, dtype=torch.float64)
    return torch.sign(ends) * (torch.exp(ends.abs()) - 1)


def target_weights(x: float) -> torch.Tensor:
    """Compute the two-hot weights of x by search over all neighbouring pairs."""
    values, weights = bins(), torch.zeros(255, dtype=torch.float64)
    x = min(max(x, values[0].item()), values[-1].item())
    for low in range(254):
        if values[low] <= x <= values[low + 1]:
            share = (x - values[low]) / (values[low + 1] - values[low])
            weights[low], weights[low + 1] = 1 - share, share
            return weights
    raise AssertionError(x)


VALUES = [0.0, 1e-3, -0.37, 1.0, -17.3, 123.4, -9e4, 2e8, 1e12, -1e12]


def test_symlog_and_symexp_are_inverse_and_match_their_definition():
    x = torch.tensor(VALUES[:-2], dtype=torch.float64)
    torch.testing.assert_close(symexp(symlog(x)), x)
    assert symlog(torch.tensor(math.e - 1)).item() == pytest.approx(1)
    assert symlog(torch.tensor(1 - math.e)).item() == pytest.approx(-1)


def test_normal_agrees_with_torch():
    mean, std, x = torch.randn(3, 4), torch.rand(3, 4) + 0.1, torch.randn(3, 4)
    other = Normal(torch.randn(3, 4), torch.rand(3, 4) + 0.1)
    ours, theirs = Normal(mean, std), torch.distributions.Normal(mean, std)
    torch.testing.assert_close(ours.log_prob(x), theirs.log_prob(x).sum(-1))
    torch.testing.assert_close(ours.entropy(), theirs.entropy().sum(-1))
    kl = torch.distributions.kl_divergence(theirs, torch.distributions.Normal(other.mean, other.std)).sum(-1)
    torch.testing.assert_close(ours.kl(other), kl)
    torch.testing.assert_close(
        kl_to_standard_normal(ours),
        torch.distributions.kl_divergence(theirs, torch.distributions.Normal(0.0, 1.0)).sum(-1),
    )


def test_one_hot_agrees_with_torch_and_enumeration():
    p, q = OneHot.with_unimix(torch.randn(2, 3, 4), 0.01), OneHot.with_unimix(torch.randn(2, 3, 4), 0.01)
    ours = torch.distributions.OneHotCategorical(logits=p.logits)
    theirs = torch.distributions.OneHotCategorical(logits=q.logits)
    torch.testing.assert_close(p.entropy(), ours.entropy().sum(-1))
    torch.testing.assert_close(p.kl(q), torch.distributions.kl_divergence(ours, theirs).sum(-1))
    codes = torch.cartesian_prod(*[torch.arange(4)] * 3)
    every = torch.eye(4)[codes].flatten(1)
    row = tree.select(p, slice(0, 1))
    assert row.log_prob(every).exp().sum().item() == pytest.approx(1, abs=1e-5)
    best = every[row.log_prob(every).argmax()]
    torch.testing.assert_close(row.mode[0], best)


@pytest.mark.parametrize("shape", [(1, 1, 2), (5, 32, 4), (3, 2, 8, 15), (4, 8, 16), (64, 32, 4)])
def test_log_softmax_is_torchs_within_rounding_and_has_its_gradient_and_layout(shape):
    logits, weight = torch.randn(2, *shape, generator=gen(0)).unbind()
    for values in (logits, logits * 50):
        ours, torchs = values.clone().requires_grad_(), values.clone().requires_grad_()
        found, expected = distributions.log_softmax(ours), torch.log_softmax(torchs, -1)
        assert found.is_contiguous()
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
        (found * weight).sum().backward()
        (expected * weight).sum().backward()
        torch.testing.assert_close(ours.grad, torchs.grad, rtol=1e-5, atol=1e-5)


def test_log_softmax_is_torchs_in_every_bit_in_exact_mode(monkeypatch):
    monkeypatch.setattr(distributions, "exact", lambda: True)
    logits = torch.randn(64, 32, 4, generator=gen(0))
    assert torch.equal(distributions.log_softmax(logits), torch.log_softmax(logits, -1))


def test_a_sample_without_gradients_is_the_one_with_them():
    logits = torch.randn(7, 3, 4, generator=gen(0), requires_grad=True)
    sample = OneHot.with_unimix(logits, 0.01).sample(gen(1))
    with torch.no_grad():
        assert torch.equal(OneHot.with_unimix(logits, 0.01).sample(gen(1)), sample)


def test_samples_depend_on_the_generator_only():
    for dist in (Normal(torch.zeros(2, 3), torch.ones(2, 3)), OneHot.with_unimix(torch.zeros(2, 3, 4), 0.0)):
        torch.manual_seed(0)
        first = dist.sample(gen(5))
        torch.manual_seed(1)
        assert torch.equal(first, dist.sample(gen(5)))
        assert not torch.equal(first, dist.sample(gen(6)))


def test_a_distribution_is_a_tree():
    dist = Normal(torch.randn(2, 3), torch.ones(2, 3))
    stacked = tree.stack([dist, dist])
    assert isinstance(stacked, Normal) and stacked.mean.shape == (2, 2, 3)
    torch.testing.assert_close(stacked.entropy(), torch.stack([dist.entropy()] * 2, 1))


@pytest.mark.parametrize("x", VALUES)
def test_two_hot_target_has_mean_x_and_at_most_two_bins(x):
    """The gradient of log_prob at uniform logits is weights - 1/255: it shows the target that the loss used."""
    logits = torch.zeros(255, dtype=torch.float64, requires_grad=True)
    TwoHot(logits).log_prob(torch.tensor(x, dtype=torch.float64)).backward()
    assert logits.grad is not None
    weights = logits.grad + 1 / 255
    torch.testing.assert_close(weights, target_weights(x), atol=1e-9, rtol=0)
    clipped = min(max(x, bins()[0].item()), bins()[-1].item())
    assert (weights * bins()).sum().item() == pytest.approx(clipped, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("x", VALUES)
def test_two_hot_log_prob_is_the_enumerated_cross_entropy(x):
    logits = torch.randn(255, generator=gen(), dtype=torch.float64)
    enumerated = (target_weights(x) * torch.log_softmax(logits, -1)).sum()
    torch.testing.assert_close(TwoHot(logits).log_prob(torch.tensor(x, dtype=torch.float64)), enumerated)


@pytest.mark.parametrize("x", [0.0, 1.0, -0.37, -17.3, 123.4, -9e4])
def test_two_hot_mean_of_a_certain_target_is_the_target_in_float32(x):
    logits = target_weights(x).clamp(min=1e-45).log().clamp(min=-200).float()
    assert TwoHot(logits).mean.item() == pytest.approx(x, rel=1e-4, abs=1e-4)


def test_first_mean_of_a_head_is_zero_for_any_features(monkeypatch):
    """Exactly in a strict run, within rounding otherwise."""
    out = TwoHotHead(5, 8, 1)(100 * torch.randn(50, 5, generator=gen()))
    assert out.mean.abs().max() < 1e-6
    monkeypatch.setattr(distributions, "exact", lambda: True)
    assert torch.equal(out.mean, torch.zeros(50))


def test_both_forms_of_the_two_hot_mean_and_their_gradients_are_equal_within_rounding(monkeypatch):
    logits = (-(torch.randn(40, 1, generator=gen()) * 3 - TwoHot.log_bins(torch.zeros(()))).square()).requires_grad_()
    found = []
    for strict in (True, False):
        monkeypatch.setattr(distributions, "exact", lambda strict=strict: strict)
        mean = TwoHot(logits).mean
        found.append((mean.detach(), *torch.autograd.grad(mean.sum(), logits)))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)


def test_minimising_the_two_hot_loss_finds_the_mean_of_random_targets():
    """The mean is computed in raw units, so a gamble of -1 or 9 has the value 4, not a mean of log units."""
    weights = (target_weights(-1.0) + target_weights(9.0)) / 2
    best = TwoHot(weights.clamp(min=1e-300).log())
    assert best.mean.item() == pytest.approx(4)


def test_bernoulli_is_the_cross_entropy():
    logits, x = torch.tensor([-3.0, 0.5, 40.0]), torch.tensor([0.0, 1.0, 1.0])
    dist = Bernoulli(logits)
    torch.testing.assert_close(dist.log_prob(x), torch.distributions.Bernoulli(logits=logits).log_prob(x))
    torch.testing.assert_close(dist.mean, torch.sigmoid(logits))
    assert dist.mode.tolist() == [0, 1, 1]


def test_distributions_of_half_precision_are_float32_and_of_double_precision_double():
    half, double = torch.full((2, 3), 0.3, dtype=torch.bfloat16), torch.full((2, 3), 0.3, dtype=torch.float64)
    for x, dtype in ((half, torch.float32), (double, torch.float64)):
        normal, codes = Normal(x, x), OneHot.with_unimix(x[:, None], 0.01)
        assert {normal.mean.dtype, normal.std.dtype, normal.sample(gen()).dtype, codes.sample(gen()).dtype} == {dtype}
        assert TwoHot(x).logits.dtype == Bernoulli(x).logits.dtype == dtype
    assert normal.mean is double  # nothing is copied without need
    assert tree.tree_map(lambda leaf: leaf > 0, normal).mean.dtype == torch.bool


def test_the_two_hot_mean_is_exact_under_autocast():
    """A product of bfloat16 with bins of up to e^20 would be wrong by hundreds."""
    logits = 3 * torch.randn(64, TwoHot.BINS, generator=gen())
    expected = TwoHot(logits).mean
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(TwoHot(logits).mean, expected)


def test_one_hots_are_torchs():
    index = torch.tensor([[0, 2], [1, 1]])
    assert torch.equal(one_hot(index, 3, torch.float32), torch.nn.functional.one_hot(index, 3).float())
