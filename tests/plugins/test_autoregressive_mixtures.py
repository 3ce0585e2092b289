import math

import pytest
import torch
from autoregressive_toys import gen
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal
from worldlab_autoregressive.mixtures import GaussianMixture, MixtureHead, straight_through


def mixture(rows: int = 7, k: int = 5, d: int = 3) -> GaussianMixture:
    logits = torch.log_softmax(torch.randn(rows, k, generator=gen(1), dtype=torch.float64), -1)
    mean = 2 * torch.randn(rows, k, d, generator=gen(2), dtype=torch.float64)
    std = torch.rand(rows, k, d, generator=gen(3), dtype=torch.float64) + 0.1
    return GaussianMixture(logits, mean, std)


def test_log_prob_is_that_of_torch():
    ours = mixture()
    theirs = MixtureSameFamily(Categorical(logits=ours.logits), Independent(Normal(ours.mean, ours.std), 1))
    x = 3 * torch.randn(7, 3, generator=gen(4), dtype=torch.float64)
    torch.testing.assert_close(ours.log_prob(x), theirs.log_prob(x), rtol=0, atol=1e-12)
    single = GaussianMixture(ours.logits.float(), ours.mean.float(), ours.std.float()).log_prob(x.float())
    assert ((single - theirs.log_prob(x)) / theirs.log_prob(x)).abs().max().item() <= 1e-6


def test_samples_have_the_moments_of_the_mixture():
    one = mixture(1)
    many = GaussianMixture(*(leaf.expand(200_000, *leaf.shape[1:]) for leaf in (one.logits, one.mean, one.std)))
    drawn = many.sample(gen())
    theirs = MixtureSameFamily(Categorical(logits=one.logits), Independent(Normal(one.mean, one.std), 1))
    error = (theirs.variance[0] / len(drawn)).sqrt()
    assert ((drawn.mean(0) - theirs.mean[0]).abs() < 5 * error).all()
    torch.testing.assert_close(drawn.var(0), theirs.variance[0], rtol=0.03, atol=0)


def test_the_mode_is_the_heaviest_components_mean():
    ours = mixture()
    best = ours.logits.argmax(-1)
    assert torch.equal(ours.mode, torch.stack([mean[k] for mean, k in zip(ours.mean, best)]))


def test_a_choice_is_one_hot_and_carries_the_gradient_of_the_probabilities():
    logits = torch.randn(3, 4, generator=gen(), requires_grad=True)
    log_probs = torch.log_softmax(logits, -1)
    weight = torch.randn(3, 4, generator=gen(1))
    chosen = straight_through(log_probs, gen(2))
    assert torch.equal(chosen.detach().round(), torch.eye(4)[chosen.argmax(-1)])
    found = torch.autograd.grad((chosen * weight).sum(), logits, retain_graph=True)[0]
    expected = torch.autograd.grad((log_probs.exp() * weight).sum(), logits)[0]
    torch.testing.assert_close(found, expected)


@pytest.mark.slow
def test_four_modes_are_found_with_their_weights():
    """The next latent is one of four places in the plane, with probabilities .4, .3, .2, .1."""
    torch.manual_seed(0)
    weights = torch.tensor([0.4, 0.3, 0.2, 0.1])
    places = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]])
    head = MixtureHead(1, 32, 2, 5, 0.05)
    optimizer, g = torch.optim.Adam(head.parameters(), 5e-3), gen()
    for _ in range(600):
        which = torch.multinomial(weights, 256, replacement=True, generator=g)
        z = places[which] + 0.1 * torch.randn(256, 2, generator=g)
        optimizer.zero_grad()
        (-head(torch.ones(256, 1)).log_prob(z).mean()).backward()
        optimizer.step()
    drawn = head(torch.ones(20_000, 1)).sample(g).detach()
    distance = torch.cdist(drawn, places)
    found = torch.bincount(distance.argmin(1), minlength=4) / len(drawn)
    print(f"weights {[round(w, 3) for w in found.tolist()]}, off every mode {(distance.amin(1) > 0.5).float().mean():.4f}")
    assert (found - weights).abs().max().item() < 0.05
    assert (distance.amin(1) > 0.5).float().mean().item() < 0.02
    true = (weights.log() - math.log(2 * math.pi * 0.01) - ((z[:, None] - places) / 0.1).square().sum(-1) / 2).logsumexp(1)
    assert (true - head(torch.ones(256, 1)).log_prob(z)).mean().item() < 0.1  # nats, KL to the truth
