"""The encoder `mae`: what a masked token sees, and what the loss reads."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from config_kit import configured
from family_kit import gen
from torch import Tensor
from worldlab_cpc.configs import MAEEncoderConfig
from worldlab_cpc.mae import MAEEncoder

from worldlab.specs import ActionSpec, ArraySpec, ObsSpec, Specs

OBS = ObsSpec((("image", ArraySpec("image", (3, 18, 16))), ("vector", ArraySpec("vector", (3,)))))
ROWS, COLUMNS = 9, 8  # patches of 2 x 2 pixels


def build(mask: float = 0.75) -> MAEEncoder:
    torch.manual_seed(0)
    config = configured(MAEEncoderConfig, latent_dim=4, units=8, layers=1, mask=mask)
    specs = Specs(OBS, ActionSpec("continuous", 2), MAEEncoder.latent_spec(config), 8, False)
    return MAEEncoder(config, specs).double()


def frames(n: int) -> dict[str, Tensor]:
    return {key: torch.rand(n, *spec.shape, generator=gen(), dtype=torch.float64) - 0.5 for key, spec in OBS.entries}


def token_of(grad: dict[str, Tensor]) -> Tensor:
    """Which tokens of the first frame have a gradient: bool [P]."""
    image = (grad["image"][0] != 0).any(0).view(ROWS, 2, COLUMNS, 2).any(3).any(1).flatten()
    return torch.cat([image, grad["vector"][0] != 0])


def test_a_masked_token_is_predicted_from_the_seen_ones_only():
    """The Jacobian of its prediction is 0 with respect to itself and every other masked token, and not 0 elsewhere."""
    encoder, obs = build(), frames(1)
    count = encoder.patches.count
    assert count == ROWS * COLUMNS + 3 and encoder.hidden == round(0.75 * count)
    order = torch.rand(1, count, generator=gen(1)).argsort(1)
    obs = {key: leaf.requires_grad_() for key, leaf in obs.items()}
    tokens = encoder.reconstruct(obs, order)
    for masked in (int(order[0, 0]), int(order[0, 5])):
        weight = torch.randn(8, generator=gen(2), dtype=torch.float64)
        grads: Any = torch.autograd.grad((tokens[0, masked] * weight).sum(), list(obs.values()), retain_graph=True)
        seen = torch.zeros(count, dtype=torch.bool)
        seen[order[0, encoder.hidden :]] = True
        assert torch.equal(token_of(dict(zip(obs, grads, strict=True))), seen)


def test_targets_are_the_pixels_of_the_patches_and_the_entries_of_the_vector():
    encoder, obs = build(), frames(2)
    image, vector = encoder.patches.targets(obs)
    assert torch.equal(image[1, 10].view(3, 2, 2), obs["image"][1, :, 2:4, 4:6])
    assert torch.equal(vector[1, :, 0], obs["vector"][1])


@pytest.mark.parametrize("mask", [0.3, 0.75])
def test_the_error_of_seen_tokens_is_no_part_of_the_loss(mask):
    """The loss is the mean over hidden tokens, times all tokens: computed by hand from the parts."""
    encoder, obs = build(mask), frames(4)
    order = torch.rand(4, encoder.patches.count, generator=gen(1)).argsort(1)
    error = encoder.patches.error(encoder.reconstruct(obs, order), obs)
    hidden = torch.zeros_like(error).scatter(1, order[:, : encoder.hidden], 1.0)
    expected = (error * hidden).sum(1) / hidden.sum(1) * encoder.patches.count
    torch.testing.assert_close(expected, _loss(encoder, obs, order))


def _loss(encoder: MAEEncoder, obs: dict[str, Tensor], order: Tensor) -> Tensor:
    """The loss term of frames [N] with a given order of the tokens."""

    ctx: Any = SimpleNamespace(
        row=torch.zeros(len(order), 1),
        batch=SimpleNamespace(obs={key: leaf[:, None] for key, leaf in obs.items()}),
        generator=None,
        embed=torch.zeros(len(order), 1, 4),
    )
    with (
        patch("torch.randperm", lambda *_, **__: torch.arange(len(order))),
        patch("torch.rand", lambda *_, **__: order.argsort(1).double()),
    ):
        return encoder.losses(ctx)["masked"][:, 0]
