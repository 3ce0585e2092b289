import copy

import pytest
import torch
from gan_toys import gen
from torch import nn
from worldlab_gan.averages import RunningAverage
from worldlab_gan.generators import Generated, LatentGenerator, NoisyMLP

from worldlab import tree
from worldlab.specs import LatentSpec

CODES = LatentSpec(6, "categorical", 2, 3)


def test_noise_enters_every_level():
    torch.manual_seed(0)
    net = NoisyMLP(3, 2, 16, 3, 4).double()
    x, noise = torch.randn(1, 3, generator=gen()).double(), net.draw(torch.zeros(1, 3).double(), gen(1))
    jacobian = torch.autograd.functional.jacobian(lambda e: net(x, e)[0], noise)[:, 0]
    assert jacobian.shape == (4, 6)
    assert torch.linalg.matrix_rank(jacobian).item() == 4
    assert (jacobian.abs().sum(0) > 0).all()


def test_no_noise_is_noise_zero():
    torch.manual_seed(0)
    for generator in (NoisyMLP(3, 2, 8, 2, 4), LatentGenerator(3, 2, 8, 2, CODES, 0.01)):
        x = torch.randn(5, 3, generator=gen())
        zero = torch.zeros_like(generator.draw(x, gen()))
        assert torch.equal(generator(x, None), generator(x, zero))


def test_leading_dimensions_are_rows():
    torch.manual_seed(0)
    for latent in (LatentSpec(4), CODES):
        net = LatentGenerator(3, 2, 8, 2, latent, 0.01)
        x = torch.randn(4, 5, 3, generator=gen())
        noise = net.draw(x, gen(1))
        torch.testing.assert_close(net(x, noise).flatten(0, 1), net(x.flatten(0, 1), noise.flatten(0, 1)))


def test_samples_repeat_with_their_seed_and_are_cut_with_their_condition():
    torch.manual_seed(0)
    net = NoisyMLP(3, 2, 8, 2, 4).requires_grad_(False)
    condition = torch.randn(5, 3, generator=gen(), requires_grad=True)
    dist = Generated(condition, net)
    assert torch.equal(dist.sample(gen(1)), dist.sample(gen(1)))
    assert not torch.equal(dist.sample(gen(1)), dist.sample(gen(2)))
    assert torch.equal(dist.mode, net(condition, None))
    assert dist.sample(gen(1)).requires_grad and not tree.detach(dist).sample(gen(1)).requires_grad


def test_temperature_is_the_variance_of_the_noise():
    torch.manual_seed(0)
    net = NoisyMLP(3, 2, 8, 2, 4).requires_grad_(False)
    dist = Generated(torch.randn(5, 3, generator=gen()), net)
    noise = net.draw(dist.condition, gen(1))
    torch.testing.assert_close(dist.tempered(4.0).sample(gen(1)), net(dist.condition, 2 * noise))
    assert torch.equal(dist.tempered(4.0).mode, dist.mode) and dist.tempered(4.0).tempered(0.25).temperature == 1.0


def test_temperature_of_codes_is_that_of_their_logits():
    torch.manual_seed(0)
    net = LatentGenerator(3, 2, 16, 1, CODES, 0.0)
    with torch.no_grad():
        net.net.last.bias.copy_(torch.tensor([2.0, 0.0, -1.0, 0.0, 1.0, 3.0]))
        net.net.last.weight.zero_()
        z = Generated(torch.zeros(40_000, 3), net).tempered(2.0).sample(gen())
    expected = torch.softmax(net.net.last.bias.detach().view(2, 3) / 2, -1)
    torch.testing.assert_close(z.view(-1, 2, 3).mean(0), expected, rtol=0, atol=0.01)


def test_codes_are_one_hot_with_the_probabilities_of_their_logits():
    """With the network's own noise switched off, Gumbel noise draws from the softmax of the logits (mixed with 1 %)."""
    torch.manual_seed(0)
    net = LatentGenerator(3, 2, 16, 1, CODES, 0.01)
    with torch.no_grad():
        net.net.last.bias.copy_(torch.tensor([2.0, 0.0, -1.0, 0.0, 1.0, 3.0]))
        net.net.last.weight.zero_()
        z = net(torch.zeros(40_000, 3), net.draw(torch.zeros(40_000, 3), gen()))
    codes = z.view(-1, 2, 3)
    assert set(codes.unique().tolist()) == {0.0, 1.0} and (codes.sum(-1) == 1).all()
    expected = 0.99 * torch.softmax(net.net.last.bias.detach().view(2, 3), -1) + 0.01 / 3
    torch.testing.assert_close(codes.mean(0), expected, rtol=0, atol=0.01)


def test_groups_of_codes_depend_on_each_other_through_the_noise():
    """Two groups whose logits share one noise entry agree far more often than independent ones could."""
    torch.manual_seed(0)
    net = LatentGenerator(1, 1, 2, 1, LatentSpec(4, "categorical", 2, 2), 0.0)
    with torch.no_grad():
        net.net.linears[0].weight.zero_()  # type: ignore[operator, union-attr]
        net.net.inject[0].weight.copy_(torch.tensor([[1.0], [-1.0]]))  # type: ignore[operator, union-attr]
        net.net.last.weight.copy_(20 * torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(2, 1))
        net.net.last.bias.zero_()
        z = net(torch.zeros(2000, 1), net.draw(torch.zeros(2000, 1), gen())).view(-1, 2, 2)
    agree = (z[:, 0].argmax(-1) == z[:, 1].argmax(-1)).float().mean().item()
    assert agree > 0.95 and 0.4 < z[:, 0, 0].mean().item() < 0.6


def test_code_gradient_is_that_of_the_relaxation():
    torch.manual_seed(0)
    net = LatentGenerator(3, 2, 8, 1, CODES, 0.0).double()
    x = torch.randn(1, 3, generator=gen()).double().requires_grad_()
    noise = net.draw(x, gen(1))
    weight = torch.randn(6, generator=gen(2)).double()
    (found,) = torch.autograd.grad(net(x, noise)[0] @ weight, [x])
    logits = torch.log_softmax(net.net(x, noise[..., :2]).view(2, 3), -1) + noise[0, 2:].view(2, 3)
    (expected,) = torch.autograd.grad(torch.softmax(logits, -1).flatten() @ weight, [x])
    torch.testing.assert_close(found, expected)
    assert found.abs().sum() > 0


@pytest.mark.parametrize("rate", [0.01, 0.3])
def test_the_average_is_the_running_mean_of_the_weights(rate: float):
    torch.manual_seed(0)
    source = nn.Linear(3, 2)
    average = RunningAverage(source, rate)
    expected = copy.deepcopy(source.weight.detach())
    assert not any(p.requires_grad for p in average.parameters())
    for n in range(1, 60):
        with torch.no_grad():
            source.weight.add_(torch.randn(2, 3, generator=gen(n)))
        average.update(source)
        share = max(rate, 9 / (10 + n))
        expected = (1 - share) * expected + share * source.weight.detach()
        torch.testing.assert_close(average.mean.weight, expected, rtol=1e-5, atol=1e-5)  # type: ignore[arg-type]
    assert int(average.count) == 59
    again = RunningAverage(source, rate)
    again.load_state_dict(average.state_dict())
    average.update(source)
    again.update(source)
    assert torch.equal(average.mean.weight, again.mean.weight)  # type: ignore[arg-type]
