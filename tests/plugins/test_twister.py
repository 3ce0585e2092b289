"""Contrastive predictions of the future around another dynamics: by enumeration, and on a world whose future is known."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from cpc_toys import gen, make_specs
from worldlab_cpc.configs import TwisterDynamicsConfig
from worldlab_cpc.future import FutureCritic
from worldlab_cpc.twister import TwisterDynamics

from worldlab.interfaces import Batch
from worldlab.model.noise import noise_batch
from worldlab.settings import ModelSettings
from worldlab.testing.reference import (
    ReferenceDecoder,
    ReferenceDecoderConfig,
    ReferenceEncoder,
    ReferenceEncoderConfig,
)
from worldlab.testing.sizes import complete
from worldlab.world_model import WorldModel


def build(member: str, horizon: int = 3) -> WorldModel:
    torch.manual_seed(0)
    config = complete(TwisterDynamicsConfig.sized("nano", member=member, horizon=horizon), "dynamics")
    encoder = ReferenceEncoderConfig(latent_dim=4)
    specs = make_specs(latent=4, memory=1)
    memory = TwisterDynamics.memory_size(config, specs.latent, specs.action)
    specs = replace(specs, memory_dim=memory, latent=ReferenceEncoder.latent_spec(encoder), use_memory=member == "vae")
    parts = (
        ReferenceEncoder(encoder, specs),
        TwisterDynamics(config, specs),
        ReferenceDecoder(ReferenceDecoderConfig(), specs),
    )
    return WorldModel(specs, *parts, ModelSettings(units=8))


@pytest.mark.parametrize("member", ["vae", "autoregressive"])
def test_the_loss_by_enumeration_and_all_else_is_the_members(member):
    """Rows of one time compete; pairs that a reset separates cost nothing; the weights fall by 3/4 and add up to 1."""
    model = build(member)
    dynamics = model.dynamics
    assert isinstance(dynamics, TwisterDynamics)
    batch = noise_batch(model.specs.obs, model.specs.action, 4, 6, gen())
    ctx, _ = model.observe(batch, gen())
    terms = dynamics.losses(ctx)
    critic, mask, z = dynamics.critic, ctx.batch.mask, ctx.latent.z
    expected = torch.zeros_like(mask)
    for k in range(3):
        weight = 0.75**k / (1 + 0.75 + 0.75**2)
        for t in range(6 - k):
            actions = batch.prev_action[:, t + 1 : t + k + 1].flatten(1)
            query = critic.queries[k](torch.cat([ctx.memory[:, t], actions], -1))
            scores = F.cosine_similarity(query[:, None], critic.key(z[:, t + k])[None], dim=-1) / 0.1
            for row in range(4):
                if batch.is_first[row, t + 1 : t + k + 1].any():
                    continue
                expected[row, t] += weight * (torch.logsumexp(scores[row], 0) - scores[row, row])
    torch.testing.assert_close(terms["contrast"], expected, rtol=1e-4, atol=1e-5)
    assert set(terms) - {"contrast"} == set(dynamics.member.losses(ctx))
    assert torch.equal(dynamics.predict(ctx.memory[:, 0]).mode, dynamics.member.predict(ctx.memory[:, 0]).mode)
    assert model.rule.dyn in ("kl", "nll") and sum(critic.weights.values()) == pytest.approx(1.0)
    found = torch.autograd.grad(terms["contrast"].sum(), list(dynamics.member.parameters()), allow_unused=True)
    assert any(grad is not None and bool(grad.any()) for grad in found), "the memory is trained"
    assert set(dynamics.metrics(ctx)) >= {"contrast_accuracy_first", "contrast_accuracy_last"}


def test_it_learns_what_follows_the_actions_and_no_more():
    """z_{t+k} is the sum of what the memory knows and of k actions: with them the future is found, with others it is not."""
    g = gen()
    rows, length, horizon = 32, 4, 3
    action = 0.5 * torch.randn(rows, length, 2, generator=g)
    first = torch.zeros(rows, length, dtype=torch.bool)
    first[:, 0] = True
    z = torch.randn(rows, 1, 2, generator=g) + torch.cat([torch.zeros(rows, 1, 2), action[:, 1:].cumsum(1)], 1)
    ones = torch.ones(rows, length)
    batch = Batch({}, action, 0 * ones, ones, first, ones)
    torch.manual_seed(0)
    critic = FutureCritic(2, 2, 2, dict.fromkeys(range(horizon), 1 / horizon), 32, 16, 0.1)
    optimizer = torch.optim.Adam(critic.parameters(), 1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        critic.loss(z, z, batch).mean().backward()
        optimizer.step()

    def accuracy(given: Batch) -> float:
        with torch.no_grad():
            return critic.contrast(2, 2, z, critic.key(z), given).correct.mean().item()

    assert accuracy(batch) > 0.7
    other = replace(batch, prev_action=action.roll(1, 0))
    assert accuracy(other) < 0.5 * accuracy(batch)
    blind = critic.loss(torch.zeros_like(z), torch.randn(z.shape, generator=g), batch)[:, 0].mean().item()
    assert blind > 0.9 * math.log(rows), "a memory that knows nothing pays log K"
