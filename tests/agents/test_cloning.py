"""Behaviour cloning against a behaviour that is known, and the penalty that keeps a policy near it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from config_kit import configured
from worldlab_agents.bc import BCAgent
from worldlab_agents.cloning import cloning_loss, transition_mask
from worldlab_agents.configs import BCConfig, DreamerConfig
from worldlab_agents.dreamer import DreamerAgent

from worldlab import tree
from worldlab.agent import Experience
from worldlab.distributions import Normal
from worldlab.interfaces import Batch
from worldlab.rollout import Carry
from worldlab.specs import ActionSpec, LatentSpec, ObsSpec, Specs
from worldlab.world_model import Dream


def specs(kind: str, dim: int) -> Specs:
    return Specs(ObsSpec(()), ActionSpec(kind, dim), LatentSpec(1), 1, False)  # type: ignore[arg-type]


def sequence(features: torch.Tensor, action: torch.Tensor) -> Any:
    """Recorded transitions [B, T]: `action` [B, T - 1, A] was taken at features[:, :-1]."""
    rows, length = features.shape[:2]
    before = torch.cat([torch.zeros_like(action[:, :1]), action], 1)
    zeros = torch.zeros(rows, length)
    first = torch.zeros(rows, length, dtype=torch.bool)
    batch = Batch({}, before, zeros, zeros + 1, first, zeros + 1)
    return SimpleNamespace(features=features, batch=batch)


def experience(seen: Any) -> Experience:
    start = torch.linspace(-1, 1, 16)
    return Experience(Carry({}, start[:, None]), torch.zeros(16), torch.ones(16), seen)


def train(agent: Any, world: Any, seen: Any, steps: int, rate: float) -> None:
    optimizers = [torch.optim.Adam(player.parameters, rate) for player in agent.players().values()]
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        losses, _ = agent.losses(world, experience(seen), generator)
        for optimizer in optimizers:
            optimizer.zero_grad()
        sum(losses.values()).backward()
        for optimizer in optimizers:
            optimizer.step()
        agent.after_step()


def test_a_reset_is_no_transition_and_the_loss_is_the_mean_log_likelihood():
    features, action = torch.zeros(1, 3, 2), torch.tensor([[[0.5], [-0.5]]])
    seen = sequence(features, action)
    policy = lambda f: Normal(torch.zeros(*f.shape[:-1], 1), torch.ones(*f.shape[:-1], 1))  # noqa: E731
    both = -torch.distributions.Normal(0.0, 1.0).log_prob(torch.tensor(0.5))
    assert cloning_loss(policy, seen).item() == pytest.approx(both.item())  # type: ignore[arg-type]
    seen.batch.is_first[0, 2] = True
    seen.batch.prev_action[0, 2] = 100.0  # would weigh, if it counted
    assert transition_mask(seen.batch).tolist() == [[1.0, 0.0]]
    assert cloning_loss(policy, seen).item() == pytest.approx(both.item())  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_the_clone_does_what_the_behaviour_does(kind):
    """The behaviour is a = x / 2, or the second choice where x > 0."""
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(8, 9, 2, generator=generator) * 2 - 1
    x = features[:, :-1, :1]
    action = x / 2 if kind == "continuous" else torch.cat([(x <= 0).float(), (x > 0).float()], -1)
    torch.manual_seed(0)
    agent = BCAgent(configured(BCConfig, units=32, layers=1), specs(kind, action.shape[-1]))
    train(agent, None, sequence(features, action), 80, 3e-2)
    tried = torch.tensor([[-0.8, 0.0], [0.6, 0.0]])
    chosen, _ = agent.act(None, {}, tried, {}, generator, explore=False)  # type: ignore[arg-type]
    if kind == "continuous":
        torch.testing.assert_close(chosen, tried[:, :1] / 2, rtol=0, atol=0.1)
    else:
        assert chosen.tolist() == [[1.0, 0.0], [0.0, 1.0]]


class World:
    """Dreams in which an action of 0.5 is best, and the state never moves."""

    dynamics = SimpleNamespace(reparameterised=True)

    def fork(self, carry: Carry, count: int) -> Carry:
        return tree.repeat(carry, count)

    def imagine(self, carry: Carry, policy: Any, horizon: int, generator: Any) -> Dream:
        features = torch.cat([carry.z, torch.zeros_like(carry.z)], -1)
        actions = [policy(features) for _ in range(horizon)]
        reward = torch.stack([-(action[:, 0] - 0.5).square() for action in actions], 1)
        return Dream(torch.stack([features] * (horizon + 1), 1), torch.stack(actions, 1), reward, reward * 0 + 0.9)


@pytest.mark.parametrize(("penalty", "expected"), [(0.0, 0.5), (30.0, -0.5)])
def test_the_penalty_draws_the_policy_to_the_recorded_actions(penalty, expected):
    """The data act with -0.5, dreams reward 0.5: without a penalty the dream wins, with a large one the data."""
    features = torch.rand(8, 9, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    seen = sequence(features, torch.full((8, 8, 1), -0.5))
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"units": 16, "layers": 1, "horizon": 2, "gamma": 0.5, "entropy": 1e-4, "average_rate": 0.2}
    agent = DreamerAgent(configured(DreamerConfig, penalty=penalty, **sizes), specs("continuous", 1))
    assert agent.reads_sequences is (penalty > 0) and ("behaviour" in agent.players()) is (penalty > 0)
    train(agent, World(), seen, 80, 3e-2)
    action, _ = agent.act(None, {}, torch.tensor([[0.3, 0.0]]), {}, torch.Generator(), explore=False)  # type: ignore[arg-type]
    assert action.item() == pytest.approx(expected, abs=0.15)
