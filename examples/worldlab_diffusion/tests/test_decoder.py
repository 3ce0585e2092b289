"""The decoder draws one of several possible observations, sharply, and knows how much the features tell."""

from __future__ import annotations

import math

import pytest
import torch
from flow_truths import SIDE, context, gen, make_specs, striped_sprites, train
from torch import Tensor
from worldlab.interfaces import Context
from worldlab.specs import ArraySpec

from worldlab_diffusion.configs import RectifiedFlowDecoderConfig
from worldlab_diffusion.decoder import RectifiedFlowDecoder

PICTURE = ArraySpec("image", (1, SIDE, SIDE))


def build(entry: ArraySpec, **settings) -> RectifiedFlowDecoder:
    """Features are two numbers: a memory and a latent of width 1 each."""
    torch.manual_seed(0)
    return RectifiedFlowDecoder(RectifiedFlowDecoderConfig.model_validate(settings), make_specs(entry))


def frames(features: Tensor, seen: Tensor, g: torch.Generator) -> Context:
    """Chosen frames [M, 1]. features [M, 2]."""
    memory, z = features[:, None].chunk(2, -1)
    return context({"seen": seen[:, None]}, z, memory, torch.zeros(len(z), 1, 2), g)


def fit(decoder: RectifiedFlowDecoder, draw, steps: int) -> None:
    g = gen(1)

    def loss(step: int) -> Tensor:
        decoder.after_step("main")
        return torch.stack([term.mean() for term in decoder.losses(frames(*draw(), g)).values()]).sum()

    train(decoder, loss, steps)


@pytest.mark.slow
def test_a_picture_whose_features_leave_it_open_is_drawn_one_way_or_the_other():
    """The features say where a sprite is, not which of its stripes are bright. A mean would show no stripes at all."""
    g = gen()
    decoder = build(PICTURE, width=16, units=64)

    def draw(count: int = 32) -> tuple[Tensor, Tensor]:
        where = 2 * torch.rand(count, 2, generator=g) - 1
        return where, striped_sprites(where, torch.randint(2, (count,), generator=g))

    fit(decoder, draw, 300)
    where, seen = draw(128)
    both = torch.stack([striped_sprites(where, torch.full((128,), phase)) for phase in (0, 1)], 1)
    with torch.no_grad():
        drawn = decoder.decode(where)["seen"].sample(g)
        own, other = (decoder.score(where, {"seen": picture}) for picture in (seen, seen.roll(1, 0)))
    error = (drawn[:, None] - both).square().mean((2, 3, 4))
    assert error.min(1).values.mean() < 0.25 * both.square().mean()  # the mean of both has an error of 1
    assert 0.3 < float(error.argmin(1).float().mean()) < 0.7
    assert float((own > other).float().mean()) > 0.95


@pytest.mark.slow
def test_a_vector_of_known_noise_is_drawn_and_scored_as_it_is():
    """o ~ N(s, 0.3^2) with s ~ N(0, 1): the spread of samples, and the log-ratio log p(o | s) / p(o) of observations."""
    g = gen()
    decoder = build(ArraySpec("vector", (1,)), units=32, layers=2, nodes=16)

    def draw(count: int = 64) -> tuple[Tensor, Tensor]:
        features = torch.randn(count, 2, generator=g)
        return features, features[:, :1] + 0.3 * torch.randn(count, 1, generator=g)

    fit(decoder, draw, 600)
    with torch.no_grad():
        drawn = decoder.decode(torch.tensor([[0.8, -1.0]]).expand(4000, 2))["seen"].sample(g)
        features, seen = draw(2000)
        found = decoder.score(features, {"seen": seen})
    assert float(drawn.mean()) == pytest.approx(0.8, abs=0.08) and float(drawn.std()) == pytest.approx(0.3, abs=0.06)
    residual = (seen - features[:, :1])[:, 0] / 0.3
    spread = math.sqrt(1.09)
    ratio = -0.5 * residual.square() - math.log(0.3) + 0.5 * (seen[:, 0] / spread).square() + math.log(spread)
    assert float(found.mean()) == pytest.approx(-math.log(0.3 / spread), rel=0.15)
    assert torch.corrcoef(torch.stack([found, ratio]))[0, 1] > 0.9


def test_the_loss_of_a_picture_at_pure_noise_is_that_of_a_unit_gaussian():
    """With all times at the noise (an infinite shift), an untrained decoder knows the mean only: half the squared
    deviation from it, in the picture's own units, plus what no decoder can foretell: nothing."""
    g = gen()
    decoder = build(PICTURE, width=4, units=8, shift=1e9, unconditional=0.5)
    seen = 0.2 * torch.randn(64, *PICTURE.shape, generator=g) - 0.1
    for _ in range(2):
        ctx = frames(torch.randn(64, 2, generator=g), seen, g)
        found, guide = decoder.losses(ctx).values()
        decoder.after_step("main")
    expected = 0.5 * (seen - seen.mean()).square().sum((1, 2, 3))
    torch.testing.assert_close(found[:, 0].detach(), expected, rtol=1e-3, atol=0)
    torch.testing.assert_close(guide[:, 0].detach(), expected, rtol=1e-3, atol=0)


def test_frames_are_few_for_pictures_and_all_for_vectors():
    assert build(PICTURE).frames == 32 and build(ArraySpec("vector", (3,))).frames == 0
