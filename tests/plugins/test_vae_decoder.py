"""The factorised decoder."""

import math

import pytest
import torch
import torch.nn.functional as F
from config_kit import configured
from vae_toys import IMAGE, VECTOR, build_model, gen, make_specs, mean_and_error
from worldlab_vae.configs import VAEDecoderConfig
from worldlab_vae.decoder import VAEDecoder
from worldlab_vae.likelihoods import DiscretizedLogistic, FixedNormal

from worldlab.distributions import Normal
from worldlab.errors import ConfigError
from worldlab.interfaces import HasLogMass
from worldlab.model.health import HealthMonitor
from worldlab.model.noise import noise_batch
from worldlab.tree import flatten_time

LEVELS = torch.arange(256) / 255 - 0.5


def build(obs=(IMAGE,), **config) -> VAEDecoder:
    torch.manual_seed(0)
    return VAEDecoder(configured(VAEDecoderConfig, width=4, units=16, layers=1, **config), make_specs(obs))


def level_log_probs(mean: float, scale: float) -> torch.Tensor:
    """log P of each of the 256 levels: [256]."""
    dist = DiscretizedLogistic(torch.full((256, 1, 1, 1), mean), torch.full((1, 1, 1), scale))
    return dist.log_prob(LEVELS[:, None, None, None])


@pytest.mark.parametrize("mean", [-3.0, -0.5, -0.499, 0.0, 0.1234, 0.5, 3.0])
@pytest.mark.parametrize("scale", [1e-4, 1e-3, 0.05, 1.0, 30.0])
def test_the_256_levels_sum_to_one(mean, scale):
    assert level_log_probs(mean, scale).double().exp().sum().item() == pytest.approx(1, abs=1e-5)


def test_level_probabilities_are_differences_of_the_logistic_cdf():
    mean, scale = 0.07, 0.1
    edges = torch.cat([torch.tensor([-math.inf]), LEVELS[1:] - 0.5 / 255, torch.tensor([math.inf])]).double()
    cdf = torch.sigmoid((edges - mean) / scale)
    torch.testing.assert_close(level_log_probs(mean, scale).double(), cdf.diff().log(), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("mean", [-40.0, -0.5, 0.2, 40.0])
@pytest.mark.parametrize("scale", [1e-4, 0.1, 30.0])
def test_gradients_are_finite_at_extreme_means_and_scales(mean, scale):
    means = torch.full((256, 1, 1, 1), mean, requires_grad=True)
    scales = torch.full((1, 1, 1), scale, requires_grad=True)
    loss = DiscretizedLogistic(means, scales).log_prob(LEVELS[:, None, None, None]).sum()
    loss.backward()
    assert torch.isfinite(loss)
    assert means.grad is not None and torch.isfinite(means.grad).all()
    assert scales.grad is not None and torch.isfinite(scales.grad).all()


def test_sampled_levels_have_the_declared_probabilities():
    dist = DiscretizedLogistic(torch.full((50_000, 1, 1, 1), 0.48), torch.full((1, 1, 1), 0.02))
    top = (dist.sample(gen()) == 0.5).float().flatten()
    share, error = mean_and_error(top)
    assert abs(share - level_log_probs(0.48, 0.02)[-1].exp()) < 3 * error


@pytest.mark.parametrize("likelihood", ["mse", "learned"])
def test_no_teacher_forcing_the_term_of_a_pixel_depends_on_no_other_pixel(likelihood):
    """log p(x) - log p(x with pixel i changed) is the same whatever the other pixels are: exact factorisation."""
    decoder = build(likelihood=likelihood).double()
    features = torch.randn(1, 12, generator=gen()).double().expand(3, -1)
    worlds = LEVELS[torch.randint(256, (3, 3, 16, 16), generator=gen(1))].double()  # three sets of other pixels
    for i in (0, 100, 767):
        before, after = worlds.clone(), worlds.clone()
        before.flatten(1)[:, i], after.flatten(1)[:, i] = LEVELS[30].double(), LEVELS[200].double()
        change = decoder.score(features, {"image": after}) - decoder.score(features, {"image": before})
        assert change[0] != 0
        torch.testing.assert_close(change, change[:1].expand(3), rtol=0, atol=1e-9)


def test_pixels_are_explained_by_features_alone_and_independently():
    """Jacobian of decode with respect to the observation is 0 by signature; with respect to features it is not."""
    decoder = build(obs=(IMAGE, VECTOR), likelihood="learned")
    features = torch.randn(2, 12, generator=gen()).requires_grad_()
    obs = {"image": LEVELS[torch.randint(256, (2, 3, 16, 16), generator=gen())], "vector": torch.randn(2, 4)}
    parts = decoder.decode(features)
    total = parts["image"].pixel_log_prob(obs["image"]).sum((1, 2, 3)) + parts["vector"].log_prob(obs["vector"])
    torch.testing.assert_close(decoder.score(features, obs), total)
    assert torch.autograd.grad(total.sum(), features)[0].abs().sum() > 0


def test_the_fixed_normal_is_the_gaussian_density():
    mean, x = torch.randn(3, 4, generator=gen()), torch.randn(3, 4, generator=gen(1))
    scalar = torch.tensor(0.3)
    torch.testing.assert_close(FixedNormal(mean, scalar).log_prob(x), Normal(mean, scalar.expand(3, 4)).log_prob(x))


def test_optimal_learned_scale_squared_is_the_mean_squared_error():
    decoder = build(obs=(VECTOR,), likelihood="learned")
    features = torch.randn(500, 12, generator=gen())
    x = torch.randn(500, 4, generator=gen(1)) * torch.tensor([0.1, 0.5, 1.0, 3.0])
    optimizer = torch.optim.LBFGS(decoder.raw_scale.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = -decoder.score(features, {"vector": x}).mean()
        value.backward()
        return value

    optimizer.step(loss)
    with torch.no_grad():
        mse = (decoder.decode(features)["vector"].mode - x).square().mean(0)
        scale = F.softplus(decoder.raw_scale["vector"]) + 1e-4
    torch.testing.assert_close(scale.square(), mse, rtol=1e-3, atol=1e-5)


def test_mse_loss_is_half_the_squared_error_and_differs_from_the_score_by_a_constant():
    decoder = build(obs=(VECTOR,), std=0.5)
    features, x = torch.randn(6, 12, generator=gen()), torch.randn(6, 4, generator=gen(1))
    dist = decoder.decode(features)["vector"]
    distortion = 0.5 * ((x - dist.mode) / 0.5).square().sum(1)
    torch.testing.assert_close(dist.distortion(x), distortion)
    constant = -4 * (math.log(0.5) + 0.5 * math.log(2 * math.pi))
    torch.testing.assert_close(decoder.score(features, {"vector": x}), constant - distortion)


def test_learned_scales_give_pictures_a_probability_and_nothing_else_does():
    decoder = build(likelihood="learned")
    features, obs = torch.randn(3, 12, generator=gen()), {"image": LEVELS[torch.randint(256, (3, 3, 16, 16))]}
    assert decoder.likelihood == "exact" and isinstance(decoder, HasLogMass)
    dist = decoder.decode(features)["image"]
    torch.testing.assert_close(
        decoder.log_mass(features, obs, gen()), dist.pixel_log_prob(obs["image"]).flatten(1).sum(1)
    )
    for other in (build(), build((IMAGE, VECTOR), likelihood="learned")):
        assert other.likelihood == "undefined"
        with pytest.raises(ConfigError, match="no probability"):
            other.log_mass(features, obs, gen())


def test_the_models_bits_per_dimension_are_those_of_its_evidence_bound():
    model = build_model(obs=(IMAGE,), likelihood="learned")
    batch = noise_batch(model.specs.obs, model.specs.action, 3, 8, gen())
    ctx, _ = model.observe(batch, gen())
    bits = HealthMonitor(model).metrics(ctx)["bits_per_dim"]
    elbo = model.decoder.score(ctx.features.flatten(0, 1), {"image": batch.obs["image"].flatten(0, 1)})
    elbo = elbo - flatten_time(ctx.latent.dist).kl(ctx.prior)
    torch.testing.assert_close(bits, -elbo.mean() / (3 * 16 * 16 * math.log(2)))
    assert "bits_per_dim" not in HealthMonitor(build_model(obs=(IMAGE,))).metrics(ctx)
