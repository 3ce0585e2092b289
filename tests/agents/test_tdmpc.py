"""Q-functions against a chain whose values are known, the policy against its best action, targets against the equation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from config_kit import configured
from torch import Tensor
from true_worlds import Lock, TrueLinear
from worldlab_agents.configs import TDMPCConfig
from worldlab_agents.tdmpc import TDMPCAgent, transition_mask
from worldlab_envs.linear_gaussian import LinearGaussian

from worldlab.agent import Experience
from worldlab.interfaces import Batch, Context, Latent
from worldlab.nn import fixed_shapes
from worldlab.rollout import Carry

SIZES: dict[str, Any] = {"units": 32, "layers": 1, "ensemble": 2, "critic_rate": 3e-3, "actor_rate": 3e-3}
CODE = (2, 0, 1)


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def walk(rows: int, length: int, generator: torch.Generator) -> Batch:
    """Random actions on the lock, recorded arrival-aligned; row 0 starts anew midway."""
    world, size = Lock(CODE, 3), len(CODE) + 1
    state = torch.randint(size, (rows,), generator=generator)
    obs, actions, rewards = [torch.eye(size)[state]], [torch.zeros(rows, 3)], [torch.zeros(rows)]
    for _ in range(length - 1):
        action = torch.eye(3)[torch.randint(3, (rows,), generator=generator)]
        step = world.imagine(Carry({}, obs[-1]), action[:, None], 1, None)
        obs.append(step.features[:, 1])
        actions.append(action)
        rewards.append(step.reward[:, 0])
    is_first = torch.zeros(rows, length, dtype=torch.bool)
    is_first[:, 0] = True
    is_first[0, length // 2] = True
    ones = torch.ones(rows, length)
    return Batch(
        {"x": torch.stack(obs, 1)}, torch.stack(actions, 1), torch.stack(rewards, 1), ones, is_first, ones.clone()
    )


def experience(batch: Batch) -> Experience:
    z = batch.obs["x"]
    index = torch.arange(z.shape[1]).expand(z.shape[:2])
    ctx = Context(batch, z, z[..., :0], Latent(z), z, None, index, index, gen())
    return Experience(Carry({}, z.flatten(0, 1)), batch.reward.flatten(), batch.cont.flatten(), ctx)


def optimal_values(gamma: float) -> Tensor:
    """Q*(state, action) of the lock by value iteration, [S, A]."""
    world, size = Lock(CODE, 3), len(CODE) + 1
    q = torch.zeros(size, 3)
    for _ in range(200):
        value = q.amax(1)
        for action in range(3):
            plan = torch.eye(3)[action].expand(size, 1, 3)
            step = world.imagine(Carry({}, torch.eye(size)), plan, 1, None)
            q[:, action] = step.reward[:, 0] + gamma * value[step.features[:, 1].argmax(-1)]
    return q


@pytest.mark.slow
@pytest.mark.parametrize(("dreams", "updates"), [(0, 650), (4, 500)])
def test_values_and_policy_are_those_of_value_iteration(dreams, updates):
    gamma, world = 0.8, Lock(CODE, 3)
    torch.manual_seed(0)
    quick: Any = SIZES | {"critic_rate": 5e-3, "actor_rate": 5e-3, "slow_rate": 0.1}
    agent = TDMPCAgent(configured(TDMPCConfig, gamma=gamma, entropy=0.02, dreams=dreams, **quick), world.specs)
    optimizers = [torch.optim.Adam(player.parameters, player.rate, fused=True) for player in agent.players().values()]
    noise = gen()
    for _ in range(updates):
        losses, _ = agent.losses(world, experience(walk(16, 8, noise)), noise)  # type: ignore[arg-type]
        for optimizer in optimizers:
            optimizer.zero_grad()
        sum(losses.values()).backward()  # type: ignore[union-attr]
        for optimizer in optimizers:
            optimizer.step()
        agent.after_step()
    states, expected = torch.eye(len(CODE) + 1), optimal_values(gamma)
    found = torch.stack([agent.critic.q(states, torch.eye(3)[a].expand(4, -1)).mean(0) for a in range(3)], 1)
    torch.testing.assert_close(found, expected, atol=0.25, rtol=0.1)
    assert agent.actor(states).mode.argmax(-1)[:3].tolist() == list(CODE)
    short: Any = world  # two steps see one or two of the three rewards; the value must tell the rest
    action, _ = agent.act(short, Carry({}, states[:1]), states[:1], agent.initial(1), gen(), False)
    assert action.argmax(-1).item() == CODE[0]


def test_targets_are_those_of_the_equation_and_no_transition_crosses_a_reset():
    torch.manual_seed(0)
    agent = TDMPCAgent(configured(TDMPCConfig, gamma=0.5, **SIZES), Lock(CODE, 3).specs)
    for p in agent.slow_critic.parameters():
        torch.nn.init.normal_(p, std=0.1)
    batch = walk(3, 6, gen())
    batch.cont[1, 2] = 0
    seen = experience(batch)
    assert seen.sequence is not None
    features = seen.sequence.features
    target = agent._targets(features, batch, gen(4))
    noise = gen(4)
    action = agent.actor(features[:, 1:].flatten(0, 1)).sample(noise).unflatten(0, (3, 5))
    value = agent.slow_critic.q(features[:, 1:], action).amin(0)  # an ensemble of two: the two are all
    torch.testing.assert_close(target, batch.reward[:, 1:] + 0.5 * batch.cont[:, 1:] * value)
    assert target[1, 1] == batch.reward[1, 2]
    assert transition_mask(batch).tolist() == [[1, 1, 0, 1, 1], [1] * 5, [1] * 5]


def test_the_policy_climbs_q_and_the_critic_gets_nothing_of_it():
    torch.manual_seed(0)
    specs = TrueLinear(LinearGaussian(2)).specs
    agent = TDMPCAgent(configured(TDMPCConfig, **SIZES), specs)
    agent.critic.q = lambda f, a: -(a - 0.5).square().sum(-1)[None]  # type: ignore[method-assign]
    optimizer = torch.optim.Adam(agent.actor.parameters(), 1e-2)
    noise = gen()
    for _ in range(300):
        loss, _, _ = agent._actor_loss(torch.randn(64, 2, generator=noise), noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(agent.actor(torch.randn(9, 2)).mode, torch.full((9, 1), 0.5), atol=0.1, rtol=0)
    assert all(p.grad is None for p in agent.critic.parameters())


def test_two_members_are_the_same_two_without_reading_which_on_the_host():
    agent = TDMPCAgent(configured(TDMPCConfig, **{**SIZES, "ensemble": 5}), Lock(CODE, 3).specs)
    for member in agent.critic.members:
        torch.nn.init.normal_(member.net[-1].bias)
    features, action = torch.randn(7, 4, generator=gen()), torch.eye(3)[torch.zeros(7, dtype=torch.long)]
    read, seen = agent.critic.min_of_two(features, action, gen(3)), gen(3)
    with fixed_shapes():
        assert torch.equal(agent.critic.min_of_two(features, action, seen), read)
    assert torch.equal(torch.rand(2, generator=seen), torch.rand(2, generator=_after_a_draw()))


def _after_a_draw() -> torch.Generator:
    generator = gen(3)
    torch.randperm(5, generator=generator)
    return generator
