"""The dynamics learns, through its memory, what follows from which action, and its metrics say how much that is."""

from __future__ import annotations

import math

import pytest
import torch
from flow_truths import context, gen, make_specs, train
from worldlab.interfaces import Context, LatentSpec

from worldlab_diffusion.configs import RectifiedFlowDynamicsConfig
from worldlab_diffusion.dynamics import RectifiedFlowDynamics

SMALL = {"memory": 16, "units": 32, "layers": 1}


def build(latent: LatentSpec, **settings) -> RectifiedFlowDynamics:
    torch.manual_seed(0)
    config = RectifiedFlowDynamicsConfig.model_validate(SMALL | settings)
    return RectifiedFlowDynamics(config, make_specs(latent=latent, memory=16))


def switched(dynamics: RectifiedFlowDynamics, g: torch.Generator, rows: int = 32) -> Context:
    """z is -1 or 1 as the last action says, plus noise of 0.1; nothing else is known of it beforehand."""
    action = 2.0 * torch.randint(2, (rows, 4, 2), generator=g) - 1
    action[:, 0] = 0
    z = action[..., :1] + 0.1 * torch.randn(rows, 4, 1, generator=g)
    state, memories, before = dynamics.initial(rows), [], torch.zeros(rows, 1)
    for t in range(4):
        state = dynamics.advance(state, before, action[:, t])
        memories.append(dynamics.memory(state))
        before = z[:, t]
    return context({}, z, torch.stack(memories, 1), action, g)


@pytest.mark.slow
def test_it_follows_the_action_and_says_how_much_that_tells():
    dynamics, g = build(LatentSpec(1), units=64, layers=2), gen()

    def loss(step: int) -> torch.Tensor:
        dynamics.after_step("main")
        return dynamics.losses(switched(dynamics, g))["flow"].mean()

    train(dynamics, loss, 400)
    with torch.no_grad():
        state = dynamics.advance(
            dynamics.initial(1000), torch.zeros(1000, 1), torch.tensor([[1.0, -1.0]]).expand(1000, 2)
        )
        drawn = dynamics.predict(dynamics.memory(state)).sample(g)
        values = dynamics.metrics(switched(dynamics, g, rows=128).detach())
    assert float(drawn.mean()) == pytest.approx(1.0, abs=0.1) and float(drawn.std()) < 0.25
    # Where the action is known, z carries one fair choice less: log 2 nats.
    assert float(values["information"]) == pytest.approx(math.log(2), abs=0.25)
    # Half of the other rows took the other action, under which z is all but impossible.
    assert float(values["action_gap"]) > 1


@pytest.mark.parametrize("latent", [LatentSpec(3), LatentSpec(3, "point"), LatentSpec(6, "categorical", 2, 3)])
def test_samples_are_of_the_latents_kind_and_differentiable(latent):
    dynamics = build(latent)
    memory = torch.randn(5, 16, generator=gen(), requires_grad=True)
    for parameter in dynamics.parameters():  # the last layer starts at 0 and would hide the memory
        parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=gen(1)))
    prior = dynamics.predict(memory)
    for z in (prior.sample(gen()), prior.mode):
        assert z.shape == (5, latent.dim) and torch.isfinite(z).all()
        if latent.kind == "categorical":
            assert set(z.detach().round(decimals=4).unique().tolist()) == {0.0, 1.0}
            assert (z.detach().unflatten(1, (2, 3)).sum(-1) - 1).abs().max() < 1e-4
    assert torch.autograd.grad(prior.sample(gen()).square().sum(), memory)[0].abs().sum() > 0


def test_the_score_trains_an_encoder_but_not_the_latents_units():
    """score_latent gives z a gradient; looking never moves the running moments, learning does, and only at after_step."""
    dynamics, g = build(LatentSpec(3)), gen()
    units = dynamics.flow.denoiser.units
    z = (2 + torch.randn(4, 4, 3, generator=g)).requires_grad_()
    memory = torch.randn(4, 4, 16, generator=g)
    ctx = context({}, z, memory, torch.zeros(4, 4, 2), g)
    for parameter in dynamics.parameters():
        parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=gen(1)))
    score = dynamics.score_latent(memory.flatten(0, 1), z.flatten(0, 1))
    assert torch.autograd.grad(score.sum(), z)[0].abs().sum() > 0
    with torch.no_grad():
        dynamics.losses(ctx)
    dynamics.after_step("main")
    assert torch.equal(units.mean, torch.zeros(3))
    dynamics.losses(ctx)
    assert torch.equal(units.mean, torch.zeros(3))
    dynamics.after_step("critic")
    assert torch.equal(units.mean, torch.zeros(3))
    dynamics.after_step("main")
    torch.testing.assert_close(units.mean, z.detach().mean((0, 1)))
