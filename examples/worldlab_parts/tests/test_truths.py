"""What each part computes, against an answer that is known."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
import torch
from worldlab.study.compare.tasks import Event, Task
from worldlab.testing import build

from worldlab_parts.agent import ShootingAgent
from worldlab_parts.configs import NiceConfig
from worldlab_parts.decoder import Laplace
from worldlab_parts.dynamics import MinGRUDynamics
from worldlab_parts.encoder import FSQEncoder
from worldlab_parts.env import CatchWorld
from worldlab_parts.launcher import NiceLauncher


def test_codes_are_the_nearest_levels_and_their_mean_is_the_number():
    bench = build(FSQEncoder, obs="vector", codes=4, levels=3)
    encoder, embed = bench.encoder, bench.encoder.embed(bench.obs(20))
    place = encoder.place(embed).detach()
    assert torch.equal(encoder.infer(embed, None, None).tokens, place.round().long())
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([encoder.infer(embed, None, generator).tokens.double() for _ in range(2000)])
    assert torch.allclose(drawn.mean(0), place.double(), atol=0.06)  # five standard errors


@pytest.mark.parametrize("latent", ["gaussian", "categorical", "point"])
@pytest.mark.parametrize("length", [1, 2, 7, 64])
def test_one_pass_equals_the_recurrence(latent, length):
    bench = build(MinGRUDynamics, latent=latent)
    dynamics = bench.dynamics.double()
    z, action = bench.latents(3, length).double(), bench.actions(3, length).double()
    is_first = torch.zeros(3, length, dtype=torch.bool)
    is_first[0, length // 2] = is_first[1, 0] = True
    start = {"h": torch.randn(3, bench.specs.memory_dim, generator=torch.Generator().manual_seed(0)).double()}
    state, steps = start, []
    for t in range(length):
        state = {"h": torch.where(is_first[:, t, None], 0.0, state["h"])}
        state = {"h": dynamics.gates(z[:, t], action[:, t])[0] * state["h"] + dynamics.gates(z[:, t], action[:, t])[1]}
        steps.append(state["h"])
    run = dynamics.advance_sequence(start, z, action, is_first)
    assert torch.allclose(run.memory, torch.stack(steps, 1), atol=1e-12)
    assert torch.equal(run.final["h"], run.memory[:, -1])


@pytest.mark.parametrize("scale", [1e-3, 0.05, 2.0])
def test_the_masses_of_all_grey_levels_sum_to_one(scale):
    levels = torch.linspace(-0.5, 0.5, 256, dtype=torch.float64)[:, None]
    for mean in (-0.5, -0.123, 0.2, 0.7):
        dist = Laplace(torch.full_like(levels, mean), torch.full_like(levels, scale))
        assert float(dist.log_mass(levels).exp().sum()) == pytest.approx(1, abs=1e-9)
    assert torch.isfinite(Laplace(torch.full_like(levels, -0.5), torch.full_like(levels, 1e-3)).log_mass(levels)).all()


def test_the_density_is_that_of_torch():
    mean, scale, x = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0)).unbind()[0:3]
    scale = scale.exp()
    expected = torch.distributions.Laplace(mean, scale).log_prob(x).sum(1)
    assert torch.allclose(Laplace(mean, scale).log_prob(x), expected, atol=1e-5)


def test_the_value_is_that_of_random_play():
    """Random actions earn 0 in the known world of the bench, whatever x is, so their value is 0; it starts at 1 here."""
    bench = build(ShootingAgent, rate=1e-2, slow_rate=0.2, gamma=0.5)
    agent, trainer = bench.agent, bench.trainer()
    for net in (agent.value, agent.slow_value):
        torch.nn.init.ones_(net[-1].bias)
    for _ in bench.updates(trainer, 60):
        pass
    with torch.no_grad():
        value = agent.value(bench.model.features(bench.carry(64)))
    assert float(value.abs().mean()) < 0.4


def test_the_ball_is_caught_by_a_paddle_below_it():
    env = CatchWorld()
    for seed in range(8):
        env.reset(seed=seed)
        reward, ended, steps = 0.0, False, 0
        while not ended:
            _, reward, ended, _, _ = env.step(1 + int(math.copysign(env.column != env.paddle, env.column - env.paddle)))
            steps += 1
        assert (reward, steps) == (1.0, 7)


def test_a_task_has_a_low_priority(tmp_path: Path):
    place = tmp_path / "priority"
    task = Task("a", ("sh", "-c", f"nice > {place}"), tmp_path)
    events: list[Event] = []
    NiceLauncher(NiceConfig(niceness=7)).run([task], 1, events.append)
    assert [event.what for event in events] == ["started", "ended"]
    assert int(place.read_text()) == min(os.nice(0) + 7, 19)
