"""Sharpness of real, blurred and noisy images; the kernel distance against a double loop."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from measures_kit import TINY, GivenDecoder, GivenDynamics, GivenEncoder, build_given_model, make_subject
from model_kit import gen
from squares_kit import IMAGE, SIDE, recording

from worldlab.distributions import Normal
from worldlab.specs import ActionSpec, ArraySpec, ObsSpec
from worldlab.study.measures import sharpness
from worldlab.study.measures.kid import kid, random_features
from worldlab.study.measures.rendered import FeatureSpace
from worldlab.study.measures.undefined import Undefined


def drawing(change, dream=lambda h: h, length=24):
    """Measure a model whose z is the image: it renders change(z), and a dream's next z is dream(last z)."""
    size = 3 * SIDE * SIDE
    dynamics = GivenDynamics(size, lambda z, a: z, lambda h: Normal(dream(h), torch.full_like(h, 1e-6)))

    def draw(features):
        picture = change(features[:, -size:].unflatten(1, (3, SIDE, SIDE)))
        return {"image": Normal(picture, torch.ones_like(picture))}

    encoder = GivenEncoder(lambda obs: obs["image"].flatten(1))
    model = build_given_model(IMAGE, ActionSpec("continuous", 1), size, encoder, dynamics, GivenDecoder(draw))
    return sharpness.measure(make_subject(model, recording(length), replace(TINY, images=96)))


def blurred(picture):
    return F.avg_pool2d(picture, 3, 1, 1, count_include_pad=False)


def test_real_images_have_ratio_one_and_a_blurred_dream_less():
    found = drawing(lambda picture: picture, dream=lambda h: blurred(h.unflatten(1, (3, SIDE, SIDE))).flatten(1))
    assert (
        found["sharpness/ratio_posterior"].value == pytest.approx(1) and found["sharpness/ratio_posterior"].error < 1e-6
    )
    assert found["sharpness/kid_posterior"].value == pytest.approx(0, abs=1e-9)
    assert found["sharpness/ratio_dream"].value < 0.1
    assert found["sharpness/kid_dream"].value > 5 * found["sharpness/kid_dream"].error


def test_averaged_images_are_far_from_real_ones():
    """Averaged images show two faint squares, as no real image does; a uniform image is further away still."""
    blended = drawing(lambda picture: picture, length=48)["sharpness/kid_middle"]
    assert blended.value > 2 * blended.error
    found = drawing(lambda picture: picture, length=48)
    posterior, between = found["sharpness/kid_posterior"], found["sharpness/kid_between"]
    assert between.value == pytest.approx(blended.value - posterior.value)
    calm = drawing(lambda picture: torch.full_like(picture, 0.25), length=48)["sharpness/kid_middle"]
    assert calm.value > blended.value


def test_noise_raises_the_ratio_and_the_distance():
    noise = 0.1 * torch.randn(1, 3, SIDE, SIDE, generator=gen())
    blur, loud = drawing(blurred), drawing(lambda picture: picture + noise)
    assert blur["sharpness/ratio_posterior"].value < 0.5 and loud["sharpness/ratio_posterior"].value > 1.2
    for found in (blur, loud):
        assert found["sharpness/kid_posterior"].value > 3 * found["sharpness/kid_posterior"].error


def test_decoders_that_draw_samples_are_measured_by_samples():
    """The decoder's mode is a grey square and its samples are the image: only samples have detail."""

    class Sampler:
        def __init__(self, picture):
            self.picture, self.mode = picture, torch.zeros_like(picture)

        def sample(self, generator):
            return self.picture

    size = 3 * SIDE * SIDE
    decoder = GivenDecoder(lambda features: {"image": Sampler(features[:, -size:].unflatten(1, (3, SIDE, SIDE)))})
    dynamics = GivenDynamics(size, lambda z, a: z, lambda h: Normal(h, torch.full_like(h, 1e-6)))
    encoder = GivenEncoder(lambda obs: obs["image"].flatten(1))
    model = build_given_model(IMAGE, ActionSpec("continuous", 1), size, encoder, dynamics, decoder)
    for draws, ratio in (("mode", 0.0), ("sample", 1.0)):
        decoder.draws = draws
        found = sharpness.measure(make_subject(model, recording(), replace(TINY, images=96)))
        assert found["sharpness/ratio_posterior"].value == pytest.approx(ratio)


def test_only_midpoints_are_undefined_without_two_long_episodes(monkeypatch):
    monkeypatch.setattr("worldlab.study.measures.rendered._compute_midpoints", lambda subject, dreamt: None)
    found = drawing(lambda picture: picture)
    assert "as long as" in found["sharpness/kid_middle"].why and "as long as" in found["sharpness/kid_between"].why
    assert found["sharpness/ratio_posterior"].value == pytest.approx(1)


def test_reports_images_that_are_too_small():
    with pytest.raises(Undefined, match="images of 7 pixels"):
        FeatureSpace.fit({"image": torch.rand(4, 3, 7, 9)})
    FeatureSpace.fit({"image": torch.rand(4, 3, 8, 9)})


def test_only_dreams_are_undefined_if_episodes_are_short():
    found = drawing(lambda picture: picture, length=10)
    assert found["sharpness/ratio_posterior"].value == pytest.approx(1)
    assert found["sharpness/ratio_dream"].value is None and "15 decisions" in found["sharpness/kid_dream"].why
    assert found["sharpness/kid_middle"].value is not None


def test_is_undefined_for_a_decoder_that_draws_no_images():
    size = 3 * SIDE * SIDE
    decoder = GivenDecoder(lambda features: {})
    decoder.renders = False
    dynamics = GivenDynamics(1, lambda z, a: a, lambda h: Normal(h, h))
    model = build_given_model(IMAGE, ActionSpec("continuous", 1), size, GivenEncoder(lambda obs: 0), dynamics, decoder)
    with pytest.raises(Undefined, match="does not draw"):
        sharpness.measure(make_subject(model, recording()))
    blind = build_given_model(
        ObsSpec((("vector", ArraySpec("vector", (2,))),)), ActionSpec("continuous", 1), 2, decoder=decoder,
        encoder=GivenEncoder(lambda obs: 0), dynamics=dynamics,
    )  # fmt: skip
    with pytest.raises(Undefined, match="no images"):
        sharpness.measure(make_subject(blind, recording()))


def test_laplacian_of_a_dot_matches_the_formula():
    """In the 3 x 3 interior the response is -4 at the dot and 1 at its four neighbours: (16 + 4) / 9."""
    picture = torch.zeros(2, 1, 5, 5)
    picture[0, 0, 2, 2] = 1
    assert sharpness.laplacian_energy(picture).tolist() == pytest.approx([20 / 9, 0])


# ---- the kernel distance ----


def test_kid_matches_a_double_loop_over_different_episodes():
    x, y = torch.randn(6, 4, generator=gen()).double(), torch.randn(5, 4, generator=gen(1)).double()
    a, b = torch.tensor([0, 0, 1, 1, 2, 3]), torch.tensor([0, 1, 1, 2, 4])

    def average(x, y, a, b):
        pairs = [(i, j) for i in range(len(x)) for j in range(len(y)) if a[i] != b[j]]
        return sum(float((x[i] @ y[j] / 4 + 1) ** 3) for i, j in pairs) / len(pairs)

    def direct(keep):
        (u, p), (v, q) = ((z[e != keep], e[e != keep]) for z, e in ((x, a), (y, b)))
        return average(u, u, p, p) + average(v, v, q, q) - 2 * average(u, v, p, q)

    value, error = kid(x, a, y, b)
    assert value == pytest.approx(direct(-1))
    assert error == pytest.approx(np.sqrt(4 * np.var([direct(e) for e in range(5)])))


def test_kid_is_zero_on_average_for_the_same_distribution_only():
    rng, n = torch.Generator().manual_seed(0), 12
    own, other = torch.arange(n), torch.arange(n) + n
    same, apart = [], []
    for _ in range(100):
        x, y = (torch.randn(n, 3, generator=rng).double() for _ in range(2))
        same.append(kid(x, own, y, other)[0])
        apart.append(kid(x, own, y + 1, other)[0])
    assert abs(np.mean(same)) < 3 * np.std(same) / 100**0.5
    assert np.mean(apart) > 10 * np.std(apart) / 100**0.5


def test_kid_is_unbiased_for_correlated_frames():
    """Each episode has 4 frames around its own centre: pairs within an episode would add at least 0.5."""
    rng, episode = torch.Generator().manual_seed(0), torch.arange(32) // 4
    values, errors = [], []
    for _ in range(100):
        x, y = (
            torch.randn(8, 3, generator=rng).repeat_interleave(4, 0) + 0.2 * torch.randn(32, 3, generator=rng)
            for _ in range(2)
        )
        value, error = kid(x.double(), episode, y.double(), episode + 8)
        values.append(value)
        errors.append(error)
    assert abs(np.mean(values)) < 3 * np.std(values) / 100**0.5
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.5)  # the jackknife overestimates


def test_the_features_are_fixed():
    picture = torch.rand(2, 3, 16, 16, generator=gen())
    first = random_features(picture)
    torch.manual_seed(5)
    torch.testing.assert_close(random_features(picture), first, rtol=0, atol=0)
    assert first.shape == (2, 512) and first.dtype == torch.float64
    assert random_features(torch.full((1, 3, 16, 16), 0.5)).abs().sum() == 0  # grey maps to 0, without biases
    assert random_features(torch.rand(1, 1, 8, 8)).shape == (1, 512)
