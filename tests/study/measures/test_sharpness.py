"""Images that are real, blurred or noise; the kernel distance against its double loop."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from measures_kit import TINY, GivenDecoder, GivenDynamics, GivenEncoder, build_given_model, make_subject
from model_kit import gen

from worldlab.distributions import Normal
from worldlab.specs import ActionSpec, ArraySpec, ObsSpec
from worldlab.study.measures import sharpness
from worldlab.study.measures.kid import kid, random_features
from worldlab.study.measures.recording import Recording
from worldlab.study.measures.rendered import FeatureSpace
from worldlab.study.measures.undefined import Undefined

SIDE = 16
PICTURE = ObsSpec((("image", ArraySpec("image", (3, SIDE, SIDE))),))


def recording(length=24, episodes=20):
    """Random squares that jump about."""
    rng = np.random.default_rng(0)
    image = np.full((episodes, length, SIDE, SIDE, 3), 60, np.uint8)
    for row, column in np.ndindex(episodes, length):
        x, y = rng.integers(0, SIDE - 5, 2)
        image[row, column, y : y + 5, x : x + 5] = rng.integers(0, 256, 3)
    zeros = np.zeros((episodes, length), np.float32)
    first = np.arange(length)[None].repeat(episodes, 0) == 0
    data = {"image": image, "prev_action": zeros[..., None], "reward": zeros, "cont": zeros + 1, "is_first": first}
    return Recording(data, np.full(episodes, length))


def drawing(change, dream=lambda h: h, length=24):
    """z is the picture itself; it is drawn as `change` makes it; a dream's next z is dream(h), h being the last z."""
    size = 3 * SIDE * SIDE
    dynamics = GivenDynamics(size, lambda z, a: z, lambda h: Normal(dream(h), torch.full_like(h, 1e-6)))

    def draw(features):
        picture = change(features[:, -size:].unflatten(1, (3, SIDE, SIDE)))
        return {"image": Normal(picture, torch.ones_like(picture))}

    encoder = GivenEncoder(lambda obs: obs["image"].flatten(1))
    model = build_given_model(PICTURE, ActionSpec("continuous", 1), size, encoder, dynamics, GivenDecoder(draw))
    return sharpness.measure(make_subject(model, recording(length), replace(TINY, images=96)))


def blurred(picture):
    return F.avg_pool2d(picture, 3, 1, 1, count_include_pad=False)


def test_real_pictures_are_as_sharp_as_real_ones_and_a_blurred_dream_is_not():
    found = drawing(lambda picture: picture, dream=lambda h: blurred(h.unflatten(1, (3, SIDE, SIDE))).flatten(1))
    assert (
        found["sharpness/ratio_posterior"].value == pytest.approx(1) and found["sharpness/ratio_posterior"].error < 1e-6
    )
    assert found["sharpness/kid_posterior"].value == pytest.approx(0, abs=1e-9)
    assert found["sharpness/ratio_dream"].value < 0.1
    assert found["sharpness/kid_dream"].value > 5 * found["sharpness/kid_dream"].error


def test_half_way_between_two_frames_is_a_frame_only_where_nothing_is_averaged():
    """Averaged pictures show two half squares; a decoder that draws one of the two ends shows a whole one."""
    blended = drawing(lambda picture: picture, length=48)["sharpness/kid_middle"]
    assert blended.value > 2 * blended.error
    found = drawing(lambda picture: picture, length=48)
    posterior, between = found["sharpness/kid_posterior"], found["sharpness/kid_between"]
    assert between.value == pytest.approx(blended.value - posterior.value)
    calm = drawing(lambda picture: torch.full_like(picture, 0.25), length=48)["sharpness/kid_middle"]
    assert calm.value > blended.value


def test_noise_is_detail_but_not_the_right_one():
    noise = 0.1 * torch.randn(1, 3, SIDE, SIDE, generator=gen())
    blur, loud = drawing(blurred), drawing(lambda picture: picture + noise)
    assert blur["sharpness/ratio_posterior"].value < 0.5 and loud["sharpness/ratio_posterior"].value > 1.2
    for found in (blur, loud):
        assert found["sharpness/kid_posterior"].value > 3 * found["sharpness/kid_posterior"].error


def test_what_is_drawn_by_sampling_is_judged_by_samples():
    """A decoder whose mode is a grey square and whose samples are the picture: judged by its mode it would be blind."""

    class Sampler:
        def __init__(self, picture):
            self.picture, self.mode = picture, torch.zeros_like(picture)

        def sample(self, generator):
            return self.picture

    size = 3 * SIDE * SIDE
    decoder = GivenDecoder(lambda features: {"image": Sampler(features[:, -size:].unflatten(1, (3, SIDE, SIDE)))})
    dynamics = GivenDynamics(size, lambda z, a: z, lambda h: Normal(h, torch.full_like(h, 1e-6)))
    encoder = GivenEncoder(lambda obs: obs["image"].flatten(1))
    model = build_given_model(PICTURE, ActionSpec("continuous", 1), size, encoder, dynamics, decoder)
    for draws, ratio in (("mode", 0.0), ("sample", 1.0)):
        decoder.draws = draws
        found = sharpness.measure(make_subject(model, recording(), replace(TINY, images=96)))
        assert found["sharpness/ratio_posterior"].value == pytest.approx(ratio)


def test_without_two_long_episodes_only_what_lies_between_is_undefined(monkeypatch):
    monkeypatch.setattr("worldlab.study.measures.rendered._compute_midpoints", lambda subject, dreamt: None)
    found = drawing(lambda picture: picture)
    assert "as long as" in found["sharpness/kid_middle"].why and "as long as" in found["sharpness/kid_between"].why
    assert found["sharpness/ratio_posterior"].value == pytest.approx(1)


def test_pictures_too_small_to_compare_are_said_to_be():
    with pytest.raises(Undefined, match="images of 7 pixels"):
        FeatureSpace.fit({"image": torch.rand(4, 3, 7, 9)})
    FeatureSpace.fit({"image": torch.rand(4, 3, 8, 9)})


def test_without_room_for_a_dream_the_posterior_is_judged_alone():
    found = drawing(lambda picture: picture, length=10)
    assert found["sharpness/ratio_posterior"].value == pytest.approx(1)
    assert found["sharpness/ratio_dream"].value is None and "15 decisions" in found["sharpness/kid_dream"].why
    assert found["sharpness/kid_middle"].value is not None


def test_a_decoder_that_does_not_draw_has_no_sharpness():
    size = 3 * SIDE * SIDE
    decoder = GivenDecoder(lambda features: {})
    decoder.renders = False
    dynamics = GivenDynamics(1, lambda z, a: a, lambda h: Normal(h, h))
    model = build_given_model(
        PICTURE, ActionSpec("continuous", 1), size, GivenEncoder(lambda obs: 0), dynamics, decoder
    )
    with pytest.raises(Undefined, match="does not draw"):
        sharpness.measure(make_subject(model, recording()))
    blind = build_given_model(
        ObsSpec((("vector", ArraySpec("vector", (2,))),)), ActionSpec("continuous", 1), 2, decoder=decoder,
        encoder=GivenEncoder(lambda obs: 0), dynamics=dynamics,
    )  # fmt: skip
    with pytest.raises(Undefined, match="no images"):
        sharpness.measure(make_subject(blind, recording()))


def test_the_laplacian_of_a_dot_by_hand():
    """Inside 5 x 5: -4 at the dot, 1 at its four neighbours: (16 + 4) / 9."""
    picture = torch.zeros(2, 1, 5, 5)
    picture[0, 0, 2, 2] = 1
    assert sharpness.laplacian_energy(picture).tolist() == pytest.approx([20 / 9, 0])


# ---- the kernel distance ----


def test_kid_is_its_double_loop_over_frames_of_different_episodes():
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


def test_kid_is_zero_on_average_for_the_same_distribution_and_knows_another():
    rng, n = torch.Generator().manual_seed(0), 12
    own, other = torch.arange(n), torch.arange(n) + n
    same, apart = [], []
    for _ in range(100):
        x, y = (torch.randn(n, 3, generator=rng).double() for _ in range(2))
        same.append(kid(x, own, y, other)[0])
        apart.append(kid(x, own, y + 1, other)[0])
    assert abs(np.mean(same)) < 3 * np.std(same) / 100**0.5
    assert np.mean(apart) > 10 * np.std(apart) / 100**0.5


def test_frames_that_resemble_their_episode_leave_it_unbiased():
    """4 frames an episode around a centre of its own: pairs within an episode would add 0.5 and more."""
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
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.5)  # the jackknife errs on the large side


def test_the_features_are_fixed():
    picture = torch.rand(2, 3, 16, 16, generator=gen())
    first = random_features(picture)
    torch.manual_seed(5)
    torch.testing.assert_close(random_features(picture), first, rtol=0, atol=0)
    assert first.shape == (2, 512) and first.dtype == torch.float64
    assert random_features(torch.full((1, 3, 16, 16), 0.5)).abs().sum() == 0  # grey is 0, and nothing has a bias
    assert random_features(torch.rand(1, 1, 8, 8)).shape == (1, 512)
