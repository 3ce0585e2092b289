"""One masked stack: what a pixel sees and misses, and that slanted lines are drawn as pixel after pixel would be."""

from __future__ import annotations

import pytest
import torch
from autoregressive_toys import gen
from torch import Tensor
from worldlab_autoregressive import masked_pixelcnn
from worldlab_autoregressive.logistics import LogisticMixture, from_levels
from worldlab_autoregressive.masked_pixelcnn import MaskedPixelCNN, draw_masked
from worldlab_autoregressive.sampling import pixel_noise


def network(shape=(1, 9, 9), layers: int = 4) -> MaskedPixelCNN:
    """A float64 network with every weight well away from 0."""
    torch.manual_seed(0)
    net = MaskedPixelCNN(5, shape, 6, layers, 3, width=4).double()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=gen(p.numel())).double())
    return net


def features_of(n: int) -> Tensor:
    return torch.randn(n, 5, generator=gen(), dtype=torch.float64)


def support(net: MaskedPixelCNN, at: tuple[int, int]) -> Tensor:
    """Which pixels move the outputs at a pixel, by Jacobian: bool [H, W]."""
    x = torch.rand(1, *net.shape, generator=gen(), dtype=torch.float64).requires_grad_()
    out = net.outputs(x, net.condition(features_of(1)).detach())[0, :, at[0], at[1]]
    weight = torch.randn(len(out), generator=gen(1), dtype=torch.float64)
    return (torch.autograd.grad((out * weight).sum(), x)[0][0] != 0).any(0)


def before(net: MaskedPixelCNN, at: tuple[int, int]) -> Tensor:
    place = torch.arange(net.shape[1] * net.shape[2]).view(net.shape[1:])
    return place < at[0] * net.shape[2] + at[1]


@pytest.mark.parametrize("at", [(4, 4), (0, 0), (0, 5), (8, 8), (5, 0)])
def test_no_pixel_sees_itself_or_what_comes_later(at):
    net = network((3, 9, 9))
    assert not (support(net, at) & ~before(net, at)).any()


def test_four_layers_miss_six_of_the_forty_pixels_before():
    """The blind spot: k rows above, nothing beyond k columns to the right (arXiv:1606.05328, figure 1)."""
    net, at = network(), (4, 4)
    seen, window = support(net, at), before(net, at)
    rows, columns = torch.meshgrid(torch.arange(9), torch.arange(9), indexing="ij")
    blind = window & (columns - 4 > 4 - rows)
    assert window.sum() == 40 and blind.sum() == 6
    assert torch.equal(seen, window & ~blind)


@pytest.mark.parametrize("shape", [(3, 6, 7), (1, 5, 4)])
def test_slanted_lines_are_what_pixel_after_pixel_gives(shape):
    net, features = network(shape, layers=3), features_of(2)
    noise = pixel_noise(net, 2, features, gen(7))  # type: ignore[arg-type]
    expected, condition = torch.zeros(2, *shape, dtype=torch.float64), net.condition(features)
    with torch.no_grad():
        for place in range(shape[1] * shape[2]):
            i, j = divmod(place, shape[2])
            out = net.outputs(expected, condition)[:, :, i, j]
            levels = LogisticMixture.from_outputs(out, shape[0]).draw(noise.gumbel[:, place], noise.logistic[:, place])
            expected[:, :, i, j] = from_levels(levels).double()
    assert torch.equal(draw_masked(net, features, gen(7)), expected)
    assert not torch.equal(draw_masked(net, features, gen(8)), expected)


def test_an_image_takes_w_plus_two_h_passes(monkeypatch):
    net, calls = network((1, 16, 16), layers=2), []
    inner = net.outputs
    monkeypatch.setattr(net, "outputs", lambda *pieces: calls.append(len(pieces[0])) or inner(*pieces))
    draw_masked(net, features_of(1), None)
    assert len(calls) == 16 + masked_pixelcnn.SKEW * 15 and sum(calls) == 256, "each pixel once"


def test_log_prob_depends_on_the_features():
    net, features = network((3, 8, 8)), features_of(2).requires_grad_()
    picture = torch.rand(2, 3, 8, 8, generator=gen(1), dtype=torch.float64) - 0.5
    grad = torch.autograd.grad(net.log_prob(features, picture).sum(), features)[0]
    assert (grad.abs().sum(1) > 0).all()
