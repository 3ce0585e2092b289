import math

import torch
from gan_toys import gen
from worldlab_gan.energy import distance, energy_score, spread


def test_score_and_spread_by_enumeration():
    samples, target = torch.randn(5, 3, 2, generator=gen()), torch.randn(3, 2, generator=gen(1))
    for n in range(3):
        near = sum(math.dist(samples[s, n].tolist(), target[n].tolist()) for s in range(5)) / 5
        pairs = [
            math.dist(samples[s, n].tolist(), samples[r, n].tolist()) for s in range(5) for r in range(5) if s != r
        ]
        apart = sum(pairs) / len(pairs)
        torch.testing.assert_close(spread(samples)[n], torch.tensor(apart))
        torch.testing.assert_close(energy_score(samples, target)[n], torch.tensor(near - apart / 2))


def test_mean_score_of_a_gaussian_is_its_closed_form():
    """One dimension, y, z ~ N(0, 1): E|z - y| - E|z - z'| / 2 = 2 / sqrt(pi) / 2, whatever the number of samples."""
    for count in (2, 8):
        samples, target = torch.randn(count, 200_000, 1, generator=gen()), torch.randn(200_000, 1, generator=gen(1))
        score = energy_score(samples, target)
        error = score.std().item() / math.sqrt(len(score))
        assert abs(score.mean().item() - 1 / math.sqrt(math.pi)) < 4 * error


def test_it_is_proper_for_vectors_and_for_codes():
    """Biased, narrowed, widened and mode-dropping forecasts all score worse than the truth."""
    g, n = gen(), 40_000
    truth, target = torch.randn(4, n, 2, generator=g), torch.randn(n, 2, generator=g)
    best = energy_score(truth, target).mean()
    for wrong in (truth + 0.5, 0.6 * truth, 1.5 * truth, truth * torch.tensor([1.0, 0.0])):
        assert energy_score(wrong, target).mean() > best + 0.01
    chances = torch.tensor([0.5, 0.3, 0.2])

    def codes(chances, *shape):
        return torch.eye(3)[torch.multinomial(chances, math.prod(shape), True, generator=g).view(shape)]

    target = codes(chances, n)
    best = energy_score(codes(chances, 4, n), target).mean()
    for wrong in (torch.tensor([0.8, 0.1, 0.1]), torch.tensor([0.6, 0.4, 0.0]), torch.ones(3) / 3):
        assert energy_score(codes(wrong, 4, n), target).mean() > best + 0.003


def test_gradient_is_finite_where_samples_meet():
    samples = torch.zeros(3, 2, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(energy_score(samples, torch.zeros(2, 4)).sum(), [samples])
    assert torch.isfinite(gradient).all()
    assert distance(torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])).item() == 5
