"""The decoder: what its numbers mean (nats of grey levels), what it draws, and when it looks at its first batch."""

import math

import pytest
import torch
from flow_toys import IMAGE, VECTOR, decoder, fit, frames_context, gen, grey, image_specs, make_specs, stirred
from model_kit import weighted_losses
from torch import Tensor
from worldlab_flow.dequantise import UniformNoise, VariationalNoise, from_unit, grey_levels, to_unit
from worldlab_flow.layers import ActNorm, ShiftScaleNet

from worldlab.distributions import Normal
from worldlab.errors import ConfigError
from worldlab.interfaces import HasLogMass

SHAPE = (1, 8, 8)
D = 64


def frames(n: int, seed: int = 0, shape=SHAPE) -> tuple[Tensor, Tensor]:
    """Features [n, 6] and random pictures of whole levels."""
    levels = torch.randint(256, (n, *shape), generator=gen(seed)).float()
    return torch.randn(n, 6, generator=gen(seed + 1)), grey(levels)


def conditional_frames(n: int, seed: int, std: float = 12.0) -> tuple[Tensor, Tensor]:
    """Pictures of rounded Gaussian noise around a level that the first feature tells, features [n, 6]."""
    g = gen(seed)
    features = torch.randn(n, 6, generator=g)
    mean = 128 + 30 * torch.tanh(features[:, 0])
    levels = (mean[:, None, None, None] + std * torch.randn(n, *SHAPE, generator=g)).round().clamp(0, 255)
    return features, grey(levels)


def rounded_gaussian_bits(std: float) -> float:
    """Entropy of round(N(0, std^2)), by enumeration."""
    edges = torch.arange(-200, 202, dtype=torch.float64) - 0.5
    mass = torch.distributions.Normal(0.0, std).cdf(edges).diff().clamp(min=1e-300)
    return -(mass * mass.log2()).sum().item()


# ---- units ----


def test_levels_and_units_are_inverse():
    levels = torch.arange(256.0)
    assert torch.equal(grey_levels(grey(levels)), levels)
    torch.testing.assert_close(from_unit(to_unit(levels, 0.5)), grey(levels), rtol=0, atol=1e-6)
    low, high = to_unit(levels, 0.0), to_unit(levels, 1.0)
    assert low[0].item() == -0.5 and high[-1].item() == 0.5 and torch.equal(high[:-1], low[1:])


def test_score_is_the_density_at_the_centres_times_the_volume_of_a_bin():
    """A fresh flow is a rotation of standard normals, so log P = sum log N(y; 0, 1) - D log 256: nothing hidden."""
    part = decoder(image_specs(SHAPE))
    features, image = frames(5)
    y = to_unit(grey_levels(image), 0.5).flatten(1)
    expected = Normal(torch.zeros(D), torch.ones(D)).log_prob(y) - D * math.log(256)
    torch.testing.assert_close(part.score(features, {"image": image}), expected, rtol=1e-5, atol=1e-3)
    assert torch.equal(part.score(features, {"image": image}), part.decode(features)["image"].log_prob(image))


def test_a_density_of_one_on_the_unit_cube_is_eight_bits():
    """The same constant seen from the other side: with log p(y) = 0 the bound is exactly 8 bits a dimension."""
    part = decoder(image_specs(SHAPE))
    part.picture("image").flow.log_prob = lambda y, maps: y.new_zeros(len(y))
    features, image = frames(3)
    torch.testing.assert_close(part.bits_per_dim(features, {"image": image}, gen(), 4), torch.full((3,), 8.0))


def test_score_repeats_and_the_bound_draws_from_the_generator():
    part = stirred(decoder(image_specs(SHAPE)), 0.05)
    features, image = frames(4)
    obs = {"image": image}
    assert torch.equal(part.score(features, obs), part.score(features, obs))
    assert torch.equal(part.bits_per_dim(features, obs, gen(1)), part.bits_per_dim(features, obs, gen(1)))
    assert not torch.equal(part.bits_per_dim(features, obs, gen(1)), part.bits_per_dim(features, obs, gen(2)))


def test_bits_per_dim_is_the_loss_in_other_units():
    features, image = frames(4)
    obs = {"image": image}
    for config, factor in (({"weight": "frame", "scale": 0.25}, 0.25), ({"scale": 3.0}, 3 / D)):
        part = stirred(decoder(image_specs(SHAPE), **config), 0.05).eval()
        bits = part.bits_per_dim(features, obs, gen(7))
        loss = weighted_losses(part, frames_context(features, obs, seed=7))["image"][:, 0]
        torch.testing.assert_close(loss, factor * bits * D * math.log(2))
        torch.testing.assert_close(part.log_mass(features, obs, gen(7)), -bits * D * math.log(2))


def test_log_mass_is_offered_for_pictures_alone():
    assert decoder(image_specs(SHAPE)).likelihood == "bound" and isinstance(decoder(image_specs(SHAPE)), HasLogMass)
    both = decoder(make_specs(obs=(IMAGE, VECTOR)))
    assert both.likelihood == decoder(make_specs()).likelihood == "undefined"
    with pytest.raises(ConfigError, match="images only"):
        both.log_mass(torch.zeros(1, 16), {}, gen())


def test_the_guide_is_a_sketch_that_only_features_explain():
    """Its gradient reaches the features but no layer of the flow; with weight 0 it and its weights are gone."""
    part = stirred(decoder(make_specs(obs=(IMAGE, VECTOR)), guide=2.0), 0.05)
    features = torch.randn(3, 16, generator=gen()).requires_grad_()
    obs = {"image": frames(3, shape=(3, 16, 16))[1], "state": torch.randn(3, 5, generator=gen(1))}
    losses = weighted_losses(part, frames_context(features, obs))
    model, density = part.picture("image"), part.decode(features)["state"]
    sketch = model.sketch(model.maps(features)[0])
    torch.testing.assert_close(losses["image_guide"][:, 0], (sketch - obs["image"]).square().flatten(1).sum(1))
    torch.testing.assert_close(losses["state_guide"][:, 0], (density.mean - obs["state"]).square().sum(1))
    guides = losses["image_guide"].sum() + losses["state_guide"].sum()
    assert torch.autograd.grad(guides, features, retain_graph=True)[0].abs().sum() > 0
    layers = [*model.flow.parameters(), *part.vectors["state"].flow.parameters()]
    assert all(g is None for g in torch.autograd.grad(guides, layers, allow_unused=True))
    bare = decoder(make_specs(obs=(IMAGE, VECTOR)), guide=0.0)
    assert (
        set(bare.losses(frames_context(features, obs))) == {"image", "state"} and bare.picture("image").sketch is None
    )


# ---- dequantisation ----


def test_variational_noise_starts_uniform():
    torch.manual_seed(0)
    q = VariationalNoise(1, 8, 2)
    levels = grey_levels(frames(6)[1])
    u, log_q = q(levels, gen(1))
    torch.testing.assert_close(log_q, torch.zeros(6), rtol=0, atol=1e-3)
    assert u.min() > 0 and u.max() < 1 and u.mean().item() == pytest.approx(0.5, abs=0.05)
    assert torch.equal(UniformNoise()(levels, gen(1))[1], torch.zeros(6))


def test_variational_noise_is_in_the_unit_interval_and_its_log_q_is_honest():
    """E_q[1 / q(u)] over the unit cube is 1 (3 x 2 x 2 picture); values stay in [0, 1) whatever the weights."""
    torch.manual_seed(0)
    q = stirred(VariationalNoise(1, 8, 2), 0.3)
    levels = torch.randint(256, (1, 1, 2, 2), generator=gen()).float().expand(40_000, -1, -1, -1)
    with torch.no_grad():
        log_q = q(levels, gen(1))[1]
        ratio = torch.exp(-log_q.double())
    assert log_q.std() > 0.05
    assert ratio.mean().item() == pytest.approx(1, abs=5 * ratio.std().item() / 200)
    with torch.no_grad():
        wild, log_q = stirred(q, 100.0)(levels[:100], gen(1))
    assert wild.min() >= 0 and wild.max() < 1 and torch.isfinite(log_q).all()


@pytest.mark.slow
def test_variational_dequantisation_closes_most_of_the_gap_that_uniform_noise_leaves():
    """For a fixed density, a Gaussian of 0.6 levels a pixel, the mass of each bin is known: no bound may exceed it."""
    density = torch.distributions.Normal(100.7, 0.6)

    def pictures(seed: int) -> Tensor:
        return (density.mean + density.stddev * torch.randn(64, *SHAPE, generator=gen(seed))).floor()

    def bound(q, levels: Tensor, seed: int) -> Tensor:
        u, log_q = q(levels, gen(10**6 + seed))
        return density.log_prob(levels + u).flatten(1).sum(1) - log_q

    torch.manual_seed(0)
    q = VariationalNoise(1, 16, 2)
    fit(q.parameters(), lambda step: -bound(q, pictures(step), step).mean(), 200, 1e-2)
    levels = pictures(10**7)
    exact = (density.cdf(levels + 1) - density.cdf(levels)).log().flatten(1).sum(1)
    with torch.no_grad():
        gaps = {
            name: torch.stack([exact - bound(noise, levels, s) for s in range(20)]).mean(0) / D / math.log(2)
            for name, noise in (("uniform", UniformNoise()), ("variational", q))
        }
    print({name: round(gap.mean().item(), 3) for name, gap in gaps.items()}, "bits above the truth")
    assert gaps["uniform"].mean().item() > 0.15
    assert (
        -4 * gaps["variational"].std().item() / 8
        <= gaps["variational"].mean().item()
        < gaps["uniform"].mean().item() / 4
    )


def test_importance_weights_tighten_the_bound():
    """Bits fall with k = 1, 8, 64 samples, within standard errors."""
    part = decoder(image_specs(SHAPE), levels=1)
    features, image = frames(24)
    obs = {"image": grey(100 + (grey_levels(image) % 3))}  # few levels: the density changes within a bin
    part.losses(frames_context(features, obs))
    with torch.no_grad():
        runs = {
            k: torch.stack([part.bits_per_dim(features, obs, gen(100 * k + r), k) for r in range(4)])
            for k in (1, 8, 64)
        }
    mean = {k: v.mean().item() for k, v in runs.items()}
    error = {k: v.mean(1).std().item() / 2 for k, v in runs.items()}
    print(mean, error)
    assert mean[8] <= mean[1] + 3 * (error[8] + error[1])
    assert mean[64] <= mean[8] + 3 * (error[64] + error[8])
    assert mean[64] < mean[1] - 3 * (error[64] + error[1])


# ---- against a known entropy ----


@pytest.mark.slow
def test_bits_per_dim_approach_the_conditional_entropy_and_never_beat_it():
    """Rounded Gaussian noise around a level that a feature tells: the entropy is known, and only listening gets there."""
    part = decoder(image_specs(SHAPE), levels=2, channels=8, width=8, weight="frame", guide=0.0)

    def loss(step: int) -> Tensor:
        features, image = conditional_frames(48, step)
        return part.losses(frames_context(features, {"image": image}, step))["image"].mean()

    fit(part.parameters(), loss, 400, 1e-2)  # of 200, what another processor rounds otherwise decides about the mode
    features, image = conditional_frames(256, 10**7)
    truth = rounded_gaussian_bits(12.0)
    with torch.no_grad():
        bits = part.bits_per_dim(features, {"image": image}, gen(1))
        deaf = part.bits_per_dim(features.roll(1, 0), {"image": image}, gen(1))
        centre = -part.score(features, {"image": image}) / (D * math.log(2))
        drawn = part.decode(features)["image"]
        mode, sample = drawn.mode, drawn.sample(gen(2))
    error = bits.std().item() / math.sqrt(len(bits))
    print(
        f"entropy {truth:.3f}, bound {bits.mean():.3f} +- {error:.3f}, centre {centre.mean():.3f}, deaf {deaf.mean():.2f}"
    )
    assert truth - 4 * error <= bits.mean().item() <= truth + 0.1
    assert centre.mean().item() == pytest.approx(bits.mean().item(), abs=0.02)
    assert deaf.mean().item() > truth + 0.5
    # What it draws: the mode is the told level, samples scatter around it as the data do.
    told = grey(128 + 30 * torch.tanh(features[:, 0]))[:, None, None, None].expand_as(mode)
    assert (mode - told).square().mean().sqrt().item() < 4 / 255
    assert (sample - told).std().item() * 255 == pytest.approx(12, rel=0.1)


# ---- drawing ----


def test_temperature_scales_the_noise():
    """Latents of a sample are those of the same seed times the temperature; 0 is the mode."""
    part = stirred(decoder(image_specs(SHAPE)), 0.05)
    features, _ = frames(3)
    dist, model = part.decode(features)["image"], part.picture("image")
    maps = model.maps(features)

    def latents(temperature: float) -> Tensor:
        noise = [temperature * torch.randn(3, *s, generator=g) for s, g in zip(model.flow.noise_shapes, [gen()] * 9)]
        y = model.flow.decode(noise, maps)
        return torch.cat([level.flatten(1) for level in model.flow.encode(y, maps)[0]], 1)

    torch.testing.assert_close(latents(0.5), 0.5 * latents(1.0), rtol=1e-3, atol=1e-3)
    cold = dist.sample(gen(1), temperature=0.0)
    torch.testing.assert_close(cold, grey(grey_levels(dist.mode).clamp(0, 255)))
    spread = [(dist.sample(gen(1), t) - dist.mode).abs().mean().item() for t in (0.1, 0.4)]
    assert spread[0] < spread[1]


def test_samples_are_whole_levels_with_gradients_to_the_features():
    part = stirred(decoder(image_specs(SHAPE)), 0.05)
    features = frames(3)[0].requires_grad_()
    sample = part.decode(features)["image"].sample(gen(1))
    levels = (sample + 0.5) * 255
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-3)
    assert levels.min() >= -1e-3 and levels.max() <= 255 + 1e-3
    assert torch.autograd.grad(sample.square().sum(), features)[0].abs().sum() > 0
    assert torch.autograd.grad(part.decode(features)["image"].mode.sum(), features)[0].abs().sum() > 0


# ---- the first batch ----


def test_actnorms_look_at_the_first_training_losses_and_at_nothing_else():
    part = decoder(image_specs(SHAPE))
    features, image = frames(16)
    obs = {"image": image}

    def state() -> list[Tensor]:
        return [p.detach().clone() for m in part.modules() if isinstance(m, ActNorm) for p in m.parameters()]

    before = state()
    part.score(features, obs), part.decode(features)["image"].mode, part.bits_per_dim(features, obs, gen())
    part.eval().losses(frames_context(features, obs))
    with torch.no_grad():
        part.train().losses(frames_context(features, obs))
        part.metrics(frames_context(features, obs))
    assert not part.picture("image").fitted and all(torch.equal(a, b) for a, b in zip(before, state()))
    first = part.losses(frames_context(features, obs))
    assert part.picture("image").fitted and not all(torch.equal(a, b) for a, b in zip(before, state()))
    torch.testing.assert_close(part.losses(frames_context(features, obs)), first)  # the fit took no noise of its own
    after = state()
    part.losses(frames_context(*_louder(features, image)))
    assert all(torch.equal(a, b) for a, b in zip(after, state()))
    fresh = decoder(image_specs(SHAPE))
    fresh.load_state_dict(part.state_dict())
    assert fresh.picture("image").fitted


def test_a_plain_beginning_sets_nothing_from_data_and_zeroes_nothing():
    careful, plain = decoder(image_specs(SHAPE)), decoder(image_specs(SHAPE), init="plain")
    features, image = frames(16)
    assert plain.picture("image").fitted
    plain.losses(frames_context(features, {"image": image}))
    norms = [p for m in plain.modules() if isinstance(m, ActNorm) for p in m.parameters()]
    assert norms and all(bool((p == 0).all()) for p in norms)
    for part, zero in ((careful, True), (plain, False)):
        lasts = [m.last.weight for m in part.picture("image").flow.modules() if isinstance(m, ShiftScaleNet)]
        assert lasts and all(bool((weight == 0).all()) == zero for weight in lasts)


def _louder(features: Tensor, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    return 3 * features, {"image": 3 * image}


# ---- vectors and mixtures ----


def test_pictures_and_vectors_are_scored_together():
    part = stirred(decoder(make_specs(obs=(IMAGE, VECTOR))), 0.05)
    features = torch.randn(3, 16, generator=gen())
    obs = {"image": frames(3, shape=(3, 16, 16))[1], "state": torch.randn(3, 5, generator=gen(1))}
    parts = part.decode(features)
    assert set(parts) == {"image", "state"} and parts["state"].mode.shape == (3, 5)
    each = sum(parts[key].log_prob(obs[key]) for key in obs)
    torch.testing.assert_close(part.score(features, obs), each)
    losses = part.losses(frames_context(features, obs))
    assert set(losses) == {"image", "state", "image_guide", "state_guide"} and losses["image"].shape == (3, 1)
    assert part.losses(frames_context(features, obs), "critic") == {}
    metrics = part.metrics(frames_context(features, obs))
    assert set(metrics) == {"bits_per_dim", "log_det_mean", "log_scale_max"}


def test_vectors_alone_are_taken_whole_and_have_no_bits():
    part = decoder(make_specs())
    assert part.frames == 0
    features, obs = torch.randn(3, 16, generator=gen()), {"state": torch.randn(3, 5, generator=gen(1))}
    with pytest.raises(ConfigError, match="images only"):
        part.bits_per_dim(features, obs, gen())
    assert part.metrics(frames_context(features, obs)) == {}


def test_vector_noise_smooths_training_but_not_the_score():
    specs = make_specs()
    features, obs = torch.randn(40, 16, generator=gen()), {"state": torch.randn(40, 5, generator=gen(1))}
    quiet, noisy = (stirred(decoder(specs, vector_noise=n, weight="frame")) for n in (0.0, 0.5))
    torch.testing.assert_close(quiet.score(features, obs), noisy.score(features, obs))
    exact = -quiet.losses(frames_context(features, obs))["state"][:, 0]
    torch.testing.assert_close(exact, quiet.score(features, obs))
    given = obs["state"] + 0.5 * torch.empty(40, 5).normal_(generator=gen(0))
    loss = -noisy.losses(frames_context(features, obs))["state"][:, 0]
    torch.testing.assert_close(loss, noisy.score(features, {"state": given}))


def test_alarms_name_an_exploding_flow():
    part = decoder(image_specs(SHAPE))
    assert part.alarms({"log_scale_max": 4.6}) == {} and set(part.alarms({"log_scale_max": 9.0})) == {"flow_explodes"}


def test_watching_does_not_move_the_random_stream():
    part = decoder(image_specs(SHAPE))
    features, image = frames(40)
    ctx = frames_context(features, {"image": image})
    before = ctx.generator.get_state()
    first, second = part.metrics(ctx), part.metrics(ctx)
    assert torch.equal(ctx.generator.get_state(), before) and first == second
