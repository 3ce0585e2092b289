"""The decoder `parallel-pixelcnn`: what a group sees, how many passes an image takes, and that sampling matches scoring."""

from __future__ import annotations

import pytest
import torch
from autoregressive_toys import gen
from config_kit import configured
from worldlab_autoregressive.configs import ParallelPixelCNNDecoderConfig
from worldlab_autoregressive.logistics import LogisticMixture, to_levels
from worldlab_autoregressive.parallel_pixelcnn import GROUPS, ParallelPixelCNN, draw_in_groups

SHAPES = [(3, 16, 16), (1, 13, 18)]


def build(shape=(3, 16, 16)) -> ParallelPixelCNN:
    torch.manual_seed(0)
    config = configured(ParallelPixelCNNDecoderConfig, channels=6, layers=1, components=2, width=4)
    net = ParallelPixelCNN(5, shape, config).double()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=gen(p.numel())).double())
    return net


def features(n: int) -> torch.Tensor:
    return torch.randn(n, 5, generator=gen(), dtype=torch.float64)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_groups_are_a_partition_of_the_pixels(shape):
    net = build(shape)
    count = torch.zeros(1, *shape)
    net.corner(count, 2 * net.strides[0], GROUPS[0]).add_(1)
    for stride in net.strides:
        for group in GROUPS[1:]:
            net.corner(count, 2 * stride, group).add_(1)
    assert torch.equal(count, torch.ones_like(count))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_group_sees_pixels_of_the_groups_before_it_only(shape):
    """The Jacobian with respect to its own pixels, and to later ones, is 0; to every group before it, it is not."""
    net = build(shape)
    condition = net.condition(features(1)).detach()
    order = torch.zeros(1, *shape, dtype=torch.long)  # in which step each pixel is drawn; 0: the base
    for level, stride in enumerate(net.strides):
        for group in (1, 2, 3):
            net.corner(order, 2 * stride, GROUPS[group]).fill_(1 + 3 * level + group - 1)
    for level in range(len(net.strides)):
        for group in (1, 2, 3):
            step = 1 + 3 * level + group - 1
            x = torch.rand(1, *shape, generator=gen(step), dtype=torch.float64).requires_grad_()
            out = net.outputs(level, group, x, condition)
            weight = torch.randn(out.shape, generator=gen(9), dtype=torch.float64)
            (grad,) = torch.autograd.grad((out * weight).sum(), x)
            moved = order[grad != 0]
            assert moved.max() < step
            stride = 2 * net.strides[level]
            seen = {int(net.corner(order, stride, corner)[0, 0, 0, 0]) for corner in GROUPS[:group]}
            assert seen <= set(moved.tolist())


def test_an_image_of_64_takes_twelve_passes_after_the_smallest(monkeypatch):
    """Three for each of four doublings from 4 x 4, whatever the number of images."""
    net, calls = build((3, 64, 64)), []
    for level in net.nets:
        for group in level:
            group.register_forward_hook(lambda *_: calls.append(1))
    draw_in_groups(net, features(2), gen())
    assert len(calls) == 3 * 4 and net.base.shape == (3, 4, 4)


@pytest.mark.parametrize("shape", SHAPES)
def test_drawn_pixels_are_those_of_the_scored_conditionals(shape):
    """Without noise, every pixel is the greedy one of the conditional that the likelihood uses, given the whole image."""
    net = build(shape)
    picture = draw_in_groups(net, features(2), None)
    condition = net.condition(features(2))
    for level, stride in enumerate(net.strides):
        for group in (1, 2, 3):
            out = net.outputs(level, group, picture, condition).permute(0, 2, 3, 1)
            greedy = LogisticMixture.from_outputs(out, shape[0]).draw(None, None).permute(0, 3, 1, 2)
            assert torch.equal(greedy, to_levels(net.corner(picture, 2 * stride, GROUPS[group])))


def test_the_likelihood_is_the_sum_over_groups_of_its_conditionals():
    """log P of an image changes by exactly the conditionals that see a changed pixel: those of its own and later steps."""
    net = build()
    condition = net.condition(features(1))
    picture = (torch.randint(256, (1, 3, 16, 16), generator=gen()) / 255 - 0.5).double()
    last = net.strides.index(1)
    changed = picture.clone()
    net.corner(changed, 2, GROUPS[3]).neg_()
    out = net.outputs(last, 3, picture, condition).permute(0, 2, 3, 1)
    mixture = LogisticMixture.from_outputs(out, 3)
    own = [
        mixture.log_prob(to_levels(net.corner(x, 2, GROUPS[3])).permute(0, 2, 3, 1)).sum() for x in (picture, changed)
    ]
    difference = net.log_prob(features(1), changed) - net.log_prob(features(1), picture)
    torch.testing.assert_close(difference[0], own[1] - own[0])
