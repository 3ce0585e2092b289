"""The dynamics `maskgit`: what a masked code sees, what the loss reads, and how many passes a sample takes."""

from __future__ import annotations

import math

import pytest
import torch
from autoregressive_toys import codes_spec, gen, make_specs
from config_kit import configured
from worldlab_autoregressive.configs import MaskGITDynamicsConfig
from worldlab_autoregressive.maskgit import MaskGITDynamics, cosine_schedule

from worldlab.specs import LatentSpec

KINDS = {"real": LatentSpec(4), "codes": codes_spec(4, 3)}


def build(latent: LatentSpec, dtype=torch.float64, **settings) -> MaskGITDynamics:
    torch.manual_seed(0)
    config = configured(MaskGITDynamicsConfig, **{"memory": 6, "units": 16, "layers": 1, **settings})
    return MaskGITDynamics(config, make_specs(latent=latent)).to(dtype)


@pytest.mark.parametrize("kind", KINDS)
def test_a_prediction_sees_all_known_blocks_and_no_masked_one(kind):
    """The support of the Jacobian with respect to the blocks is the mask, whatever block is predicted: also its own."""
    net = build(KINDS[kind]).net
    memory = torch.randn(1, 6, generator=gen(), dtype=torch.float64)
    known = torch.tensor([[True, False, True, False]])
    x = torch.randn(1, 4, net.block_width, generator=gen(1), dtype=torch.float64).requires_grad_()
    dist = net(memory, x, known)
    for block in range(4):
        target = torch.randn(1, 4, net.block_width, generator=gen(2), dtype=torch.float64)
        (grad,) = torch.autograd.grad(dist.log_prob(target)[0, block], x, retain_graph=True)
        seen = (grad[0] != 0).any(-1)
        assert not seen[[1, 3]].any() and (seen[0] or seen[2])


@pytest.mark.parametrize(("blocks", "passes"), [(16, 3), (4, 4), (2, 2), (5, 9), (32, 1)])
def test_the_schedule_follows_the_cosine_and_ends_with_every_block(blocks, passes):
    left = cosine_schedule(blocks, passes)
    assert len(left) == min(passes, blocks) and left[-1] == 0
    assert all(a > b for a, b in zip([blocks, *left], left, strict=False))
    if (blocks, passes) == (16, 3):
        assert left == [math.floor(16 * math.cos(math.pi / 6)), math.floor(16 * math.cos(math.pi / 3)), 0]


@pytest.mark.parametrize("passes", [1, 2, 4])
def test_a_sample_takes_as_many_passes_as_set(passes):
    dynamics, calls = build(KINDS["codes"], passes=passes), []
    dynamics.net.register_forward_hook(lambda *_: calls.append(1))
    z = dynamics.predict(torch.zeros(5, 6).double()).sample(gen())
    assert len(calls) == passes
    assert torch.equal(z.detach().unflatten(1, (4, 3)).sum(-1), torch.ones(5, 4).double())


def test_the_share_of_masked_blocks_is_that_of_the_cosine():
    """E ceil(16 cos(pi u / 2)) / 16 over uniform u, by quadrature."""
    dynamics = build(codes_spec(16, 2))
    masked = (~dynamics.draw_mask(20_000, gen())).double().mean(0)
    u = (torch.arange(100_000).double() + 0.5) / 100_000
    expected = (16 * torch.cos(math.pi / 2 * u)).ceil().mean() / 16
    torch.testing.assert_close(masked, expected.expand(16), rtol=0, atol=0.015)


def test_two_passes_learn_what_one_pass_cannot():
    """Two codes that are always equal: drawn one after the other they agree, drawn at once half of them do."""
    dynamics = build(codes_spec(2, 2), torch.float32, passes=2)
    optimizer = torch.optim.Adam(dynamics.net.parameters(), 1e-2)
    g, memory = gen(), torch.zeros(128, 6)
    for _ in range(60):
        code = torch.randint(2, (128, 1), generator=g).expand(-1, 2)
        blocks = torch.nn.functional.one_hot(code, 2).float()
        known = dynamics.draw_mask(128, g)
        loss = -(dynamics.net(memory, blocks, known).log_prob(blocks) * ~known).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def agree() -> float:
        with torch.no_grad():
            z = dynamics.predict(torch.zeros(2000, 6)).sample(gen(1)).unflatten(1, (2, 2))
        return float((z[:, 0] == z[:, 1]).all(-1).float().mean())

    assert agree() > 0.95
    dynamics.net.config = dynamics.net.config.model_copy(update={"passes": 1})
    assert 0.4 < agree() < 0.6
