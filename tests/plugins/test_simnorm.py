"""The latent of TD-MPC2: points of simplices, in closed form."""

from __future__ import annotations

import torch
from config_kit import configured
from cpc_toys import gen, make_specs
from torch import nn
from worldlab_cpc.configs import SimNormEncoderConfig
from worldlab_cpc.simnorm import SimNormEncoder


def build(**config) -> SimNormEncoder:
    torch.manual_seed(0)
    settings = configured(SimNormEncoderConfig, **{"groups": 3, "width": 4, "units": 16} | config)
    return SimNormEncoder(settings, make_specs(latent=settings.groups * settings.corners))


def test_each_group_is_the_softmax_of_its_own_entries():
    """With the networks replaced by the identity: closed form, and a Jacobian of diagonal blocks p_i (1[i = j] - p_j) / tau."""
    encoder = build(corners=4, temperature=0.5)
    encoder.trunk, encoder.linear = nn.Identity(), nn.Identity()  # type: ignore[assignment]
    y = torch.randn(1, 12, generator=gen(), dtype=torch.float64)
    z = encoder.embed(y)  # type: ignore[arg-type]
    expected = torch.stack([(2 * part).exp() / (2 * part).exp().sum() for part in y.view(3, 4)]).view(1, 12)
    torch.testing.assert_close(z, expected)
    jacobian = torch.autograd.functional.jacobian(lambda x: encoder.embed(x[None])[0], y[0])  # type: ignore[arg-type]
    p = expected.view(3, 4)
    blocks = [2 * (torch.diag(row) - torch.outer(row, row)) for row in p]
    torch.testing.assert_close(jacobian, torch.block_diag(*blocks))


def test_frames_of_any_scale_lie_on_the_simplices_and_have_no_noise():
    encoder = build()
    spec = encoder.latent_spec(configured(SimNormEncoderConfig, groups=3))
    assert (spec.dim, spec.kind) == (24, "point")
    specs = make_specs(latent=24)
    obs = {key: 1e3 * torch.randn(5, *specs.obs[key].shape, generator=gen()) for key in specs.obs.keys}
    embed = encoder.embed(obs)
    z = encoder.infer(embed, None, gen()).z
    torch.testing.assert_close(z.view(5, 3, 8).sum(-1), torch.ones(5, 3))
    assert (z >= 0).all() and torch.equal(z, encoder.infer(embed, None, None).z)
