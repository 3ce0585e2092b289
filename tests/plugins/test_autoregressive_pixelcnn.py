from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from autoregressive_toys import gen, noisy
from torch import Tensor
from worldlab_autoregressive.logistic import PixelNoise
from worldlab_autoregressive.pixelcnn import PixelCNN, PixelDistribution

SIDE = 9
CENTRE = 40
"""Index of the middle of 9 x 9 pixels: 40 come before it."""


def network(shape=(3, SIDE, SIDE), layers: int = 5) -> PixelCNN:
    torch.manual_seed(0)
    net = PixelCNN(shape, 6, layers, 3, 4)
    noisy(net)
    return net.double()


def reads(run: Callable[[Tensor], Tensor], pixel: int, shape: tuple[int, ...]) -> Tensor:
    """Which pixels [H * W] the output [1, P, H, W] at `pixel` depends on, by Jacobian at a random picture."""
    x = (torch.rand(1, *shape, generator=gen(), dtype=torch.float64) - 0.5).requires_grad_()
    out = run(x).flatten(2)[0, :, pixel]
    weight = torch.randn(out.shape, generator=gen(9), dtype=torch.float64)
    return torch.autograd.grad((out * weight).sum(), x)[0].abs().sum((0, 1)).flatten() != 0


def trunk(net: PixelCNN) -> Callable[[Tensor], Tensor]:
    condition = torch.randn(1, 3, *net.shape[1:], generator=gen(4), dtype=torch.float64)

    def run(x: Tensor) -> Tensor:
        mixture = net(x, condition)
        return torch.cat([mixture.logits, mixture.mean.flatten(1, 2), mixture.coupling.flatten(1, 2)], 1)

    return run


def test_every_pixel_before_and_none_after():
    """Leak 0 at every pixel; blind spot 0 of 40 at the centre."""
    net = network()
    for pixel in range(SIDE * SIDE):
        assert not reads(trunk(net), pixel, net.shape)[pixel:].any(), pixel
    assert int((~reads(trunk(net), CENTRE, net.shape)[:CENTRE]).sum()) == 0


def test_a_plain_masked_stack_has_the_blind_spot_that_the_two_stacks_avoid():
    """The control: five masked 3 x 3 convolutions (A, then B) never see 6 of the 40."""
    g = gen(1)

    def plain(x: Tensor) -> Tensor:
        for i in range(5):
            mask = torch.tensor([[1.0, 1, 1], [1, float(i > 0), 0], [0, 0, 0]], dtype=torch.float64)
            weight = torch.randn(4, x.shape[1], 3, 3, generator=g, dtype=torch.float64) / 4
            x = torch.tanh(F.conv2d(x, weight * mask, padding=1))
        return x

    seen = reads(plain, CENTRE, (3, SIDE, SIDE))
    assert not seen[CENTRE:].any()
    assert int((~seen[:CENTRE]).sum()) == 6


def test_the_view_is_small_so_that_features_must_carry_the_rest():
    net = network((1, 21, 21))
    view = reads(trunk(net), 10 * 21 + 10, net.shape).view(21, 21)
    rows, columns = view.any(1).nonzero(), view.any(0).nonzero()
    assert 10 - int(rows.min()) == 6  # layers + 1 rows above
    assert int(columns.max() - columns.min()) + 1 <= 15


def test_the_condition_reaches_every_pixel_at_its_place():
    net = network((1, 21, 21))
    x = torch.rand(1, 1, 21, 21, generator=gen(), dtype=torch.float64) - 0.5
    condition = torch.randn(1, 3, 21, 21, generator=gen(4), dtype=torch.float64).requires_grad_()
    out = net(x, condition).mean.flatten(3)[0, :, :, 10 * 21 + 10]
    felt = torch.autograd.grad(out.sum(), condition)[0].abs().sum((0, 1)) > 0
    assert felt[10, 10] and not felt[11:].any() and not felt[10, 11:].any() and not felt[0].any()


@pytest.mark.parametrize("shape", [(3, 5, 6), (1, 6, 4)])
def test_the_cached_sampler_is_the_naive_one_pixel_for_pixel(shape: tuple[int, ...]):
    net = network(shape, layers=3)
    condition = torch.randn(2, 3, *shape[1:], generator=gen(4), dtype=torch.float64)
    noise = PixelNoise.draw(condition, net.mixtures, shape, gen(5))
    x = torch.zeros(2, *shape, dtype=torch.float64)
    with torch.no_grad():
        for i in range(shape[1]):
            for j in range(shape[2]):  # a whole pass for each pixel, and only that pixel is kept
                x[:, :, i, j] = net(x, condition).sample(noise)[:, :, i, j]
        found = net.sample(condition, noise)
    assert torch.equal(((found + 0.5) * 255).round(), ((x + 0.5) * 255).round())
    assert found.unique().numel() > 10


def test_probabilities_of_all_pictures_of_two_pixels_sum_to_one():
    """3 levels, 2 grey pixels: 9 pictures, each scored by the network in one pass."""
    net = network((1, 1, 2), layers=2)
    level = torch.arange(3, dtype=torch.float64) / 2 - 0.5
    x = torch.cartesian_prod(level, level).view(9, 1, 1, 2)
    condition = torch.randn(1, 3, 1, 2, generator=gen(4), dtype=torch.float64).expand(9, -1, -1, -1)
    mixture = net(x, condition)
    coarse = type(mixture)(mixture.logits, mixture.mean, mixture.log_scale, mixture.coupling, levels=3)
    assert coarse.log_prob(x).flatten(1).sum(1).exp().sum().item() == pytest.approx(1, abs=1e-12)


def test_a_sample_is_on_the_levels_repeats_and_is_better_explained_than_noise():
    net = network((3, 6, 6), layers=3).float()
    condition = torch.randn(4, 3, 6, 6, generator=gen(4))
    dist = PixelDistribution(condition, torch.zeros(4, 3, 6, 6), net)
    x = dist.sample(gen(1))
    assert torch.equal(x, dist.sample(gen(1)))
    torch.testing.assert_close(((x + 0.5) * 255).round() / 255 - 0.5, x)
    noise = torch.rand(x.shape, generator=gen(2)) - 0.5
    assert (dist.log_prob(x) > dist.log_prob(noise)).all()
