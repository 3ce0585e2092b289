"""The dynamics `made`: each entry or code given the entries before it, with an exact density."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from autoregressive_toys import all_codes, codes_spec, flat_hot, gen, make_specs
from config_kit import configured
from worldlab_autoregressive.configs import MADEDynamicsConfig
from worldlab_autoregressive.made import MADEDynamics

from worldlab.specs import LatentSpec

KINDS = {"real": LatentSpec(4), "codes": codes_spec(3, 4)}


def build(latent: LatentSpec, dtype=torch.float64, **settings) -> MADEDynamics:
    torch.manual_seed(0)
    config = configured(MADEDynamicsConfig, **{"memory": 6, "units": 16, "layers": 2, **settings})
    return MADEDynamics(config, make_specs(latent=latent)).to(dtype)


@pytest.mark.parametrize("kind", KINDS)
def test_a_conditional_depends_on_exactly_the_entries_before_it(kind):
    """The support of the Jacobian of the parameters of block i with respect to block j is j < i."""
    dynamics = build(KINDS[kind])
    net, memory = dynamics.net, torch.randn(1, 6, generator=gen(), dtype=torch.float64)
    context = net.context(memory)
    shape = (net.blocks, net.width)

    def parameters(x):
        dist: Any = net.conditionals(context, x[None], 1.0)
        parts = [dist.logits] if kind == "codes" else [dist.logits, dist.mean, dist.std]
        return torch.cat([part[0].flatten(1) for part in parts], 1)

    x = torch.randn(net.blocks * net.width, generator=gen(1), dtype=torch.float64)
    jacobian: Any = torch.autograd.functional.jacobian(parameters, x)
    support = jacobian.unflatten(-1, shape).abs().amax((1, 3)) > 0
    assert torch.equal(support, torch.ones(net.blocks, net.blocks, dtype=torch.bool).tril(-1))


def test_the_probabilities_of_all_codes_sum_to_1():
    dynamics = build(KINDS["codes"])
    codes = flat_hot(all_codes(3, 4), 4)
    prior = dynamics.predict(torch.randn(1, 6, generator=gen(), dtype=torch.float64).expand(len(codes), -1))
    torch.testing.assert_close(prior.log_prob(codes).exp().sum(), torch.ones(()).double(), rtol=0, atol=1e-9)


def test_the_density_integrates_to_1_over_a_plane():
    dynamics = build(LatentSpec(2))
    line = torch.linspace(-9, 9, 181, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line)
    prior = dynamics.predict(torch.randn(1, 6, generator=gen(), dtype=torch.float64).expand(len(grid), -1))
    total = prior.log_prob(grid).exp().sum() * (line[1] - line[0]) ** 2
    assert abs(float(total.detach()) - 1) < 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_of_a_sample_reaches_the_memory_through_every_entry(kind):
    dynamics = build(KINDS[kind])
    memory = torch.randn(8, 6, generator=gen(), dtype=torch.float64).requires_grad_()
    z = dynamics.predict(memory).sample(gen(1)).unflatten(1, (dynamics.net.blocks, -1))
    weight = torch.randn(z.shape[-1], generator=gen(2), dtype=torch.float64)
    for i in range(dynamics.net.blocks):
        (grad,) = torch.autograd.grad((z[:, i] @ weight).sum(), memory, retain_graph=True)
        assert (grad != 0).any(1).all()


def test_dependent_entries_cost_the_entropy_of_the_joint_density():
    """z2 = z1 + noise of std 0.1: the fit approaches the closed-form entropy, which no factorised prior can."""
    dynamics = build(LatentSpec(2), torch.float32, min_std=0.02)
    optimizer = torch.optim.Adam(dynamics.net.parameters(), 2e-2)
    g, memory = gen(), torch.zeros(256, 6)

    def draw():
        first = torch.randn(256, generator=g)
        return torch.stack([first, first + 0.1 * torch.randn(256, generator=g)], 1)

    for _ in range(150):
        optimizer.zero_grad()
        loss = -dynamics.predict(memory).log_prob(draw()).mean()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        cost = torch.stack([-dynamics.predict(memory).log_prob(draw()).mean() for _ in range(20)]).mean()
    entropy = 2 * 1.41894 + torch.log(torch.tensor(0.1))
    factorised = 2 * 1.41894 + 0.5 * torch.log(torch.tensor(1.01))
    assert entropy - 0.05 < cost < entropy + 0.25 < factorised
