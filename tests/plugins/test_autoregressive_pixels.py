"""The PixelCNN and its likelihood: what a pixel sees, that all levels sum to one, that sampling cuts no corner."""

import math

import pytest
import torch
import torch.nn.functional as F
from autoregressive_toys import gen
from torch import Tensor
from worldlab_autoregressive import sampling
from worldlab_autoregressive.logistics import (
    LogisticMixture,
    from_levels,
    parameters_per_pixel,
    to_levels,
)
from worldlab_autoregressive.pixelcnn import PixelCNN
from worldlab_autoregressive.sampling import PixelNoise, draw_pictures, pixel_noise


def pixelcnn(shape=(3, 20, 20), layers: int = 5, channels: int = 6, components: int = 3, features: int = 5) -> PixelCNN:
    """A float64 network with every weight well away from 0."""
    torch.manual_seed(0)
    net = PixelCNN(features, shape, channels, layers, components, width=4).double()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=gen(p.numel())).double())
    return net


def some_features(n: int, width: int = 5) -> Tensor:
    return torch.randn(n, width, generator=gen(), dtype=torch.float64)


def pixel_support(net: PixelCNN, at: tuple[int, int], seeds: int = 3) -> Tensor:
    """Which pixels of which channel move the outputs at a pixel: bool [C, H, W], by Jacobian."""
    found = torch.zeros(net.shape, dtype=torch.bool)
    condition = net.condition(some_features(1)).detach()
    for seed in range(seeds):
        x = torch.rand(1, *net.shape, generator=gen(seed), dtype=torch.float64).requires_grad_()
        out = net.outputs(x, condition)[0, :, at[0], at[1]]
        weight = torch.randn(len(out), generator=gen(seed + 10), dtype=torch.float64)
        found |= torch.autograd.grad((out * weight).sum(), x)[0][0] != 0
    return found


def before(shape, at: tuple[int, int]) -> Tensor:
    """Pixels of raster order before `at`: bool [H, W]."""
    place = torch.arange(shape[1] * shape[2]).view(shape[1:])
    return place < at[0] * shape[2] + at[1]


# ---- what a pixel sees ----


@pytest.mark.parametrize("at", [(10, 10), (0, 0), (0, 7), (19, 0), (19, 19), (5, 18)])
def test_no_pixel_sees_itself_or_what_comes_later(at):
    net = pixelcnn()
    assert not (pixel_support(net, at) & ~before(net.shape, at)).any()


def test_a_pixel_sees_every_pixel_of_its_window_and_the_window_is_small():
    """No blind spot: of the 71 previous pixels in 6 rows above by 11 columns (and 5 to the left) none is missing, in no
    channel. The window is 11 pixels wide and 7 high: at most 15, so that what is global must come from z."""
    net, at = pixelcnn(), (10, 10)
    support = pixel_support(net, at)
    rows, columns = torch.meshgrid(torch.arange(20), torch.arange(20), indexing="ij")
    window = before(net.shape, at) & (rows >= 10 - 6) & ((columns - 10).abs() <= 5)
    assert window.sum() == 6 * 11 + 5
    assert torch.equal(support, window.expand(3, 20, 20))
    seen = support.any(0).nonzero()
    size = seen.max(0).values - seen.min(0).values + 1
    print(f"receptive field {size.tolist()} pixels, blind spot {int((window & ~support.any(0)).sum())} of 71")
    assert size.max() <= 15


def test_a_plain_masked_stack_has_a_blind_spot():
    """The reference: 3 x 3 masked convolutions, four deep, miss 6 of the 40 previous pixels in their window; gated
    stacks of the same reach miss none."""
    mask = torch.tensor([[1.0, 1, 1], [1, 0, 0], [0, 0, 0]])
    later = mask.clone()
    later[1, 1] = 1
    x = torch.rand(1, 1, 9, 9, generator=gen(), dtype=torch.float64).requires_grad_()
    out = x
    for depth in range(4):
        out = F.conv2d(out, (mask if depth == 0 else later).double()[None, None], padding=1)
    seen = torch.autograd.grad(out[0, 0, 4, 4], x)[0][0, 0] != 0
    window = before((1, 9, 9), (4, 4))
    assert window.sum() == 40 and not (seen & ~window).any()
    assert (window & ~seen).sum() == 6
    gated = pixelcnn((1, 9, 9), layers=4)
    assert (window & ~pixel_support(gated, (4, 4))[0]).sum() == 0


def test_the_features_bias_reaches_every_layer_and_every_pixel():
    net = pixelcnn((1, 16, 16))
    condition = net.condition(some_features(1)).detach()
    biases = [m.weight for layer in net.layers for m in (layer.vertical_bias, layer.horizontal_bias)]
    out = net.outputs(torch.zeros(1, 1, 16, 16, dtype=torch.float64), condition)
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad(out.square().sum(), biases))
    features = some_features(1).requires_grad_()
    net.condition(features).square().sum((0, 1)).min().backward()
    assert features.grad is not None and features.grad.abs().sum() > 0


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 21, 34), (4, 12, 30)])
def test_log_prob_depends_on_features(shape):
    net = pixelcnn(shape)
    features = some_features(2).requires_grad_()
    picture = torch.rand(2, *shape, generator=gen(1), dtype=torch.float64) - 0.5
    grad = torch.autograd.grad(net.log_prob(features, picture).sum(), features)[0]
    assert (grad.abs().sum(1) > 0).all()


# ---- the mixture of discretised logistics ----


def mixture(
    n: int, channels: int, levels: int, scale: float, mean: float = 0.0, components: int = 4, dtype=torch.float64
):
    """Random weights, means around `mean`, log scales around log `scale`."""
    per = parameters_per_pixel(channels, components)
    out = torch.randn(per, generator=gen(), dtype=dtype)
    k = components
    out[k : k + k * channels] = mean + 0.3 * out[k : k + k * channels]
    out[k + k * channels : k + 2 * k * channels] += math.log(scale)
    return LogisticMixture.from_outputs(out.expand(n, per), channels, levels)


@pytest.mark.parametrize("mean", [-3.0, -0.5, 0.0, 0.1234, 0.5, 3.0])
@pytest.mark.parametrize("scale", [1e-4, 1e-3, 3e-3, 0.05, 1.0, 30.0])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_256_levels_sum_to_one(mean, scale, dtype, tolerance):
    levels = torch.arange(256, dtype=dtype)[:, None]
    total = mixture(256, 1, 256, scale, mean, dtype=dtype).log_prob(levels).double().exp().sum().item()
    assert total == pytest.approx(1, abs=tolerance)


@pytest.mark.parametrize(("channels", "levels"), [(3, 6), (4, 4), (2, 16)])
def test_all_tuples_of_coupled_channels_sum_to_one(channels, levels):
    """RGB with 6 levels: 216 triples."""
    every = torch.cartesian_prod(*[torch.arange(levels, dtype=torch.float64)] * channels)
    total = mixture(len(every), channels, levels, 0.2).log_prob(every).exp().sum().item()
    assert total == pytest.approx(1, abs=1e-12)


def test_level_probabilities_are_differences_of_the_logistic_distribution_function():
    """One component, written out with sigmoids, edges to infinity, red moving the mean of green."""
    m = mixture(1, 2, 8, 0.2, components=1)
    edges = torch.cat([torch.tensor([-math.inf]), torch.arange(7).double() + 0.5, torch.tensor([math.inf])]) / 7 - 0.5
    scale = m.log_scale[0, 0].exp()
    for red in range(8):
        x = red / 7 - 0.5
        red_mean, green_mean = m.mean[0, 0, 0], m.mean[0, 0, 1] + m.coupling[0, 0, 0] * x
        p_red = torch.sigmoid((edges - red_mean) / scale[0]).diff()[red]
        p_green = torch.sigmoid((edges - green_mean) / scale[1]).diff()
        levels = torch.stack([torch.full((8,), red), torch.arange(8)], 1).double()
        expected = p_red * p_green
        wide = LogisticMixture(
            *(t.expand(8, *t.shape[1:]) for t in (m.log_weights, m.mean, m.log_scale, m.coupling)), 8
        )
        torch.testing.assert_close(wide.log_prob(levels).exp(), expected, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_at_extreme_means_and_scales(dtype):
    levels = torch.tensor([[0.0, 255.0, 100.0]], dtype=dtype)
    for size in (1.0, 40.0, 1e4):
        out = (size * torch.randn(1, parameters_per_pixel(3, 5), generator=gen())).to(dtype).requires_grad_()
        value = LogisticMixture.from_outputs(out, 3).log_prob(levels).sum()
        (grad,) = torch.autograd.grad(value, out)
        assert torch.isfinite(value) and torch.isfinite(grad).all()


def test_drawn_levels_have_their_probabilities():
    """Two coupled channels of 4 levels: frequencies of all 16 pairs within 4 standard errors."""
    n, every = 40_000, torch.cartesian_prod(*[torch.arange(4, dtype=torch.float64)] * 2)
    expected = mixture(16, 2, 4, 0.2).log_prob(every).exp()
    uniform = torch.rand(n, 6, generator=gen(), dtype=torch.float64)
    m = mixture(n, 2, 4, 0.2)
    noise = -torch.log(-torch.log(uniform[:, :4])), torch.logit(uniform[:, 4:])
    drawn = m.draw(*noise)
    found = torch.bincount((drawn[:, 0] * 4 + drawn[:, 1]).long(), minlength=16) / n
    assert ((found - expected).abs() < 4 * (expected * (1 - expected) / n).sqrt() + 1e-9).all()


def test_levels_and_pictures():
    levels = torch.arange(256.0)
    assert torch.equal(to_levels(from_levels(levels)), levels)
    assert torch.equal(from_levels(levels), levels / 255 - 0.5)
    assert to_levels(torch.tensor([-7.0, 7.0])).tolist() == [0, 255]


def test_a_pictures_probability_is_the_product_of_its_pixels_and_sums_to_one():
    """By the chain rule, pixel after pixel, what is later hidden; each conditional sums to 1 over its 256 levels."""
    net = pixelcnn((1, 4, 4), layers=2)
    features = some_features(1)
    picture = from_levels(torch.randint(256, (1, 1, 4, 4), generator=gen(), dtype=torch.long).double())
    total = 0.0
    condition = net.condition(features)
    for place in range(16):
        i, j = divmod(place, 4)
        known = picture * before((1, 4, 4), (i, j))  # what comes later is hidden
        out = net.outputs(known, condition)[0, :, i, j]
        pixel = LogisticMixture.from_outputs(out.expand(256, -1), 1).log_prob(torch.arange(256).double()[:, None])
        assert pixel.exp().sum().item() == pytest.approx(1, abs=1e-12)
        total += pixel[int(to_levels(picture[0, 0, i, j]))].item()
    assert net.log_prob(features, picture).item() == pytest.approx(total, abs=1e-9)


# ---- sampling ----


@torch.no_grad()
def naive(net: PixelCNN, features: Tensor, noise: PixelNoise | None) -> Tensor:
    """The definition: the whole network for each pixel, in raster order."""
    channels, height, side = net.shape
    picture = features.new_zeros(len(features), *net.shape)
    for place in range(height * side):
        i, j = divmod(place, side)
        mixture = LogisticMixture.from_outputs(net.outputs(picture, net.condition(features))[:, :, i, j], channels)
        drawn = (None, None) if noise is None else (noise.gumbel[:, place], noise.logistic[:, place])
        picture[:, :, i, j] = from_levels(mixture.draw(*drawn))
    return picture


@pytest.mark.parametrize(("shape", "layers"), [((3, 12, 14), 5), ((1, 9, 13), 1), ((1, 7, 4), 7), ((4, 5, 12), 3)])
def test_the_cached_sampler_is_the_naive_one_pixel_for_pixel(shape, layers):
    net, features = pixelcnn(shape, layers), some_features(2)
    noise = pixel_noise(net, 2, features, gen(1))
    assert torch.equal(draw_pictures(net, features, noise), naive(net, features, noise))
    assert torch.equal(draw_pictures(net, features, None), naive(net, features, None))


def test_rows_are_drawn_alone_and_in_chunks_alike(monkeypatch):
    net, features = pixelcnn((1, 8, 8), 2), some_features(5)
    noise = pixel_noise(net, 5, features, gen(1))
    together = draw_pictures(net, features, noise)
    monkeypatch.setattr(sampling, "CHUNK", 2)
    assert torch.equal(draw_pictures(net, features, noise), together)


def test_the_sampler_takes_a_step_a_slanted_line(monkeypatch):
    """W + (reach + 1)(H - 1) + reach - 1 steps: 446, not 4096, for 64 x 64 pixels and 5 layers."""
    net, steps = pixelcnn((1, 12, 10), 3), []
    draw = sampling._PictureBuffer._draw_line
    monkeypatch.setattr(sampling._PictureBuffer, "_draw_line", lambda self, *a: (steps.append(1), draw(self, *a))[1])
    draw_pictures(net, some_features(1), None)
    assert len(steps) == 10 + 4 * 11 + 2
    assert 64 + 6 * 63 + 4 == 446


def test_samples_are_levels_and_follow_the_generator():
    net, features = pixelcnn((3, 8, 8), 2).float(), some_features(3).float()
    one, same, other = (draw_pictures(net, features, pixel_noise(net, 3, features, gen(s))) for s in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)
    levels = (one + 0.5) * 255
    assert (levels - levels.round()).abs().max() < 1e-3 and one.abs().max() <= 0.5


def test_samples_under_bfloat16_are_pictures():
    net, features = pixelcnn((3, 8, 8), 2).float(), some_features(3).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        drawn = draw_pictures(net, features, pixel_noise(net, 3, features, gen(1)))
    assert drawn.dtype == torch.float32 and torch.isfinite(drawn).all() and drawn.abs().max() <= 0.5


def test_samples_follow_the_likelihood(monkeypatch):
    """The second pixel of a sample, given the first: its probability integral transform is uniform."""
    monkeypatch.setattr(sampling, "CHUNK", 10_000)
    net, n = pixelcnn((1, 4, 4), layers=2), 3000
    features = some_features(1).expand(n, -1)
    drawn = to_levels(draw_pictures(net, features, pixel_noise(net, n, features, gen(3))))
    with torch.no_grad():
        out = net.outputs(from_levels(drawn), net.condition(features))[:, :, 0, 1]
        every = torch.arange(256).double()[:, None].expand(n, 256, 1)
        probs = LogisticMixture.from_outputs(out[:, None], 1).log_prob(every).exp()
    level = drawn[:, 0, 0, 1].long()[:, None]
    spread = torch.rand(n, 1, generator=gen(4), dtype=torch.float64)
    below = probs.cumsum(1).gather(1, level) - probs.gather(1, level) * spread
    uniform = below[:, 0].sort().values
    assert (uniform - torch.linspace(0, 1, n).double()).abs().max() < 1.95 / math.sqrt(n)
