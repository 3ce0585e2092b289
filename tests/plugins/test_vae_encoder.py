"""Cell 1: the variational posterior."""

import math

import pytest
import torch
from config_kit import configured
from torch import Tensor
from vae_toys import VECTOR, gen, make_specs, mean_and_error
from worldlab_vae.configs import VAEDecoderConfig, VAEEncoderConfig
from worldlab_vae.decoder import VAEDecoder
from worldlab_vae.encoder import VAEEncoder

from worldlab import tree
from worldlab.distributions import Normal, OneHot, kl_to_standard_normal
from worldlab.specs import LatentSpec


def build(latent: str = "gaussian", use_memory: bool = False, **config) -> VAEEncoder:
    torch.manual_seed(0)
    config = configured(
        VAEEncoderConfig, latent=latent, units=16, layers=1, **({"latent_dim": 3, "groups": 2, "classes": 4} | config)
    )
    return VAEEncoder(config, make_specs(latent=VAEEncoder.latent_spec(config), use_memory=use_memory))


def posterior(latent: str, rows: int, seed: int):
    """q of an untrained encoder for random observations, with logits and means large enough to matter."""
    encoder = build(latent)
    with torch.no_grad():
        encoder.head.net[-1].weight.mul_(3)
    obs = {"vector": torch.randn(rows, 4, generator=gen(seed))}
    return encoder.infer(encoder.embed(obs), None, gen(seed)).dist


@pytest.mark.parametrize("latent", ["gaussian", "categorical"])
def test_closed_form_kl_is_the_monte_carlo_kl(latent):
    q, p = posterior(latent, 2, 0), posterior(latent, 2, 1)
    g, draws = gen(), 20_000
    z = tree.tree_map(lambda leaf: leaf.expand(draws, *leaf.shape), q).sample(g).detach()
    estimate, error = mean_and_error(q.log_prob(z) - p.log_prob(z))
    exact = q.kl(p)
    assert (exact > 0.05).all()
    assert ((estimate - exact).abs() < 3 * error).all()


@pytest.mark.parametrize("latent", ["gaussian", "categorical"])
def test_closed_form_entropy_is_the_monte_carlo_entropy(latent):
    q, g = posterior(latent, 2, 0), gen()
    z = tree.tree_map(lambda leaf: leaf.expand(20_000, *leaf.shape), q).sample(g).detach()
    estimate, error = mean_and_error(-q.log_prob(z))
    assert ((estimate - q.entropy()).abs() < 3 * error).all()


def test_gaussian_reparameterised_gradient_is_the_score_function_gradient():
    """d/d(mean, std) of E_q[f(z)], f(z) = sum sin(z) + z^2, whose expectation is also known in closed form."""

    def f(z: Tensor) -> Tensor:
        return (torch.sin(z) + z.square()).sum(-1)

    mean = torch.tensor([0.3, -0.7]).expand(200_000, 2).clone().requires_grad_()
    std = torch.tensor([0.5, 1.2]).expand(200_000, 2).clone().requires_grad_()
    q = Normal(mean, std)
    z = q.sample(gen())
    path = torch.stack(torch.autograd.grad(f(z).sum(), (mean, std)), 1)
    z = z.detach()
    score = torch.stack(torch.autograd.grad((q.log_prob(z) * f(z)).sum(), (mean, std)), 1)
    exact = torch.stack(
        [
            torch.cos(mean[0]) * torch.exp(-std[0].square() / 2) + 2 * mean[0],
            -std[0] * torch.sin(mean[0]) * torch.exp(-std[0].square() / 2) + 2 * std[0],
        ]
    ).detach()
    difference, error = mean_and_error(path - score)
    assert (difference.abs() < 3 * error).all()
    for estimate in (path, score):
        value, error = mean_and_error(estimate)
        assert ((value - exact).abs() < 3.5 * error).all()


def test_categorical_straight_through_gradient_is_that_of_the_probabilities():
    logits = torch.randn(5, 2, 4, generator=gen()).requires_grad_()
    weight = torch.randn(8, generator=gen(1))
    dist = OneHot.with_unimix(logits, 0.01)
    sampled = torch.autograd.grad((dist.sample(gen()) @ weight).sum(), logits)[0]
    expected = torch.autograd.grad((OneHot.with_unimix(logits, 0.01).probs.flatten(-2) @ weight).sum(), logits)[0]
    torch.testing.assert_close(sampled, expected)


def test_categorical_samples_are_one_hot_with_the_probabilities_as_frequencies():
    logits = torch.randn(2, 4, generator=gen())
    dist = OneHot.with_unimix(logits.expand(20_000, 2, 4), 0.01)
    z = dist.sample(gen()).unflatten(-1, (2, 4))
    torch.testing.assert_close(z.sum(-1), torch.ones(20_000, 2))
    frequency, error = mean_and_error(z)
    assert ((frequency - dist.probs[0]).abs() < 3.5 * error).all()


@pytest.mark.parametrize("unimix", [0.0, 0.01, 0.2])
def test_unimix_is_a_floor_under_every_class_and_leaves_a_distribution(unimix):
    encoder = build("categorical", unimix=unimix)
    with torch.no_grad():
        encoder.head.net[-1].weight.mul_(1e3)
    dist = encoder.infer(encoder.embed({"vector": torch.randn(50, 4, generator=gen())}), None, None).dist
    torch.testing.assert_close(dist.probs.sum(-1), torch.ones(50, 2))
    assert dist.probs.min() >= unimix / 4 - 1e-7
    if not unimix:
        assert dist.probs.min() < 1e-6


def test_posterior_std_never_falls_below_its_floor():
    encoder = build(min_std=0.2)
    with torch.no_grad():
        encoder.head.net[-1].weight.mul_(1e4)
    dist = encoder.infer(encoder.embed({"vector": torch.randn(50, 4, generator=gen())}), None, None).dist
    assert dist.std.min().item() == pytest.approx(0.2)


def test_without_noise_the_most_likely_latent_comes():
    encoder = build()
    embed = encoder.embed({"vector": torch.randn(6, 4, generator=gen())})
    latent = encoder.infer(embed, None, None)
    torch.testing.assert_close(latent.z, latent.dist.mean)
    noisy = encoder.infer(embed, None, gen())
    standardised = (noisy.z - noisy.dist.mean) / noisy.dist.std
    torch.testing.assert_close(standardised, torch.empty(6, 3).normal_(generator=gen()))


def test_latent_reads_the_memory_where_the_mix_says_so():
    encoder = build(use_memory=True)
    embed = encoder.embed({"vector": torch.randn(2, 4, generator=gen())})
    memory = torch.zeros(2, 8, requires_grad=True)
    encoder.infer(embed, memory, None).z.sum().backward()
    assert memory.grad is not None and (memory.grad.abs().sum(1) > 0).all()


class ProbabilisticPCA:
    """x = W z + b + sigma eps, z ~ N(0, I): marginal and posterior in closed form. Tipping & Bishop 1999."""

    def __init__(self, latent: int, sigma: float):
        self.W = torch.randn(4, latent, generator=gen(3), dtype=torch.float64) + 0.5
        self.b = torch.randn(4, generator=gen(4), dtype=torch.float64)
        self.sigma = sigma

    def sample(self, n: int) -> Tensor:
        z = torch.randn(n, self.W.shape[1], generator=gen(5), dtype=torch.float64)
        noise = torch.randn(n, 4, generator=gen(6), dtype=torch.float64)
        return z @ self.W.T + self.b + self.sigma * noise

    def log_marginal(self, x: Tensor) -> Tensor:
        cov = self.W @ self.W.T + self.sigma**2 * torch.eye(4, dtype=torch.float64)
        return torch.distributions.MultivariateNormal(self.b, cov).log_prob(x)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        M = self.W.T @ self.W + self.sigma**2 * torch.eye(self.W.shape[1], dtype=torch.float64)
        return (x - self.b) @ self.W @ M.inverse(), self.sigma**2 * M.inverse()


def pca_decoder(pca: ProbabilisticPCA) -> VAEDecoder:
    """A VAEDecoder that is exactly this pPCA's p(x | z)."""
    config = configured(VAEDecoderConfig, likelihood="learned", units=16, layers=1)
    decoder = VAEDecoder(config, make_specs(latent=LatentSpec(pca.W.shape[1]), memory=0)).double()
    linear = torch.nn.Linear(pca.W.shape[1], 4).double()
    with torch.no_grad():
        linear.weight.copy_(pca.W)
        linear.bias.copy_(pca.b)
        decoder.raw_scale["vector"].fill_(math.log(math.expm1(pca.sigma - 1e-4)))
    decoder.net.vectors = linear
    return decoder


def elbo_samples(decoder: VAEDecoder, q: Normal, x: Tensor, draws: int) -> Tensor:
    """[draws]: the mean over x of log p(x|z) - KL(q || N(0, I))."""
    g = gen(7)
    fit = torch.stack([decoder.score(q.sample(g), {"vector": x}) for _ in range(draws)])
    return (fit - kl_to_standard_normal(q)).mean(1).detach()


def test_elbo_stays_below_the_exact_likelihood_and_reaches_it_at_the_true_posterior():
    """One latent dimension: the true posterior is in the family, so the bound is tight there and slack elsewhere."""
    pca = ProbabilisticPCA(latent=1, sigma=0.5)
    x, decoder = pca.sample(200), pca_decoder(pca)
    exact = pca.log_marginal(x).mean()
    mean, cov = pca.posterior(x)
    tight, error = mean_and_error(elbo_samples(decoder, Normal(mean, cov[0, 0].sqrt().expand_as(mean)), x, 400))
    assert abs(tight - exact) < 3 * error
    shifted = Normal(mean + 0.3, cov[0, 0].sqrt().expand_as(mean))
    slack, error = mean_and_error(elbo_samples(decoder, shifted, x, 400))
    gap = 0.5 * 0.3**2 / cov[0, 0]  # KL(q || true posterior) of a shift
    assert abs(exact - slack - gap) < 3 * error


def test_elbo_of_a_trained_encoder_is_below_the_exact_likelihood_by_at_least_the_mean_field_gap():
    """Two correlated latent dimensions: the best diagonal q leaves 0.5 (sum log diag(P) - log det P), P the precision."""
    pca = ProbabilisticPCA(latent=2, sigma=0.7)
    x, decoder = pca.sample(256), pca_decoder(pca).requires_grad_(False)
    torch.manual_seed(0)
    config = configured(VAEEncoderConfig, latent_dim=2, units=32, layers=1, min_std=1e-3)
    encoder = VAEEncoder(config, make_specs(obs=(VECTOR,), latent=LatentSpec(2), use_memory=False)).double()
    optimizer = torch.optim.Adam(encoder.parameters(), 1e-2)
    g = gen(8)
    for _ in range(150):
        latent = encoder.infer(encoder.embed({"vector": x}), None, g)
        loss = (kl_to_standard_normal(latent.dist) - decoder.score(latent.z, {"vector": x})).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    q = encoder.infer(encoder.embed({"vector": x}), None, None).dist
    bound, error = mean_and_error(elbo_samples(decoder, q, x, 200))
    precision = pca.posterior(x)[1].inverse()
    mean_field_gap = 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision))
    gap = pca.log_marginal(x).mean() - bound
    assert mean_field_gap > 0.02
    assert mean_field_gap - 3 * error < gap < mean_field_gap + 0.3
