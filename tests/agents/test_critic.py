"""Twin critics against two critics computed one by one."""

from __future__ import annotations

import torch
from worldlab_agents.critic import Critics


def raised(index: int, bias: float) -> Critics:
    """Return critics of which one has a value that differs from 0."""
    critic = Critics(3, 8, 1)
    with torch.no_grad():
        critic.each[index].net[-1].bias[130 if bias > 0 else 124] += abs(bias)
    return critic


def test_the_smaller_value_counts_whichever_critic_has_it():
    features = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0))
    for index in (0, 1):
        high, low = raised(index, 9.0), raised(index, -9.0)
        values = [twin(features).mean for twin in high.each]
        assert (values[index] > 1e-3).all() and torch.equal(high(features), values[1 - index])
        assert torch.equal(low(features), low.each[index](features).mean) and (low(features) < -1e-3).all()


def test_one_critic_is_its_own_value():
    one, features = Critics(3, 8, 1, count=1), torch.randn(4, 3)
    assert torch.equal(one(features), one.each[0](features).mean)
    target = torch.ones(4)
    assert torch.equal(one.loss(features, target[:, None])[:, 0], -one.each[0](features).log_prob(target))


def test_the_loss_is_the_mean_cross_entropy_of_the_two():
    g = torch.Generator().manual_seed(0)
    critic, features = raised(0, 5.0), torch.randn(4, 3, generator=g)
    returns, values = torch.randn(2, 4, generator=g) * 10
    losses = critic.loss(features, torch.stack([returns, values], -1))
    for loss, target in zip(losses.unbind(-1), (returns, values), strict=True):
        each = [-twin(features).log_prob(target) for twin in critic.each]
        torch.testing.assert_close(loss, (each[0] + each[1]) / 2)
    critic.loss(features, returns[:, None]).sum().backward()
    assert all(parameter.grad is not None for parameter in critic.parameters())


def test_values_start_at_the_first_finite_number_and_learn_from_there():
    g = torch.Generator().manual_seed(0)
    critic, features = Critics(3, 32, 1), torch.randn(256, 3, generator=g)
    critic.start_at(torch.tensor(float("nan")))
    assert critic(features).abs().max() < 1e-6
    critic.start_at(torch.tensor(-50.0))
    critic.start_at(torch.tensor(7.0))
    torch.testing.assert_close(critic(features), torch.full((256,), -50.0))
    copied = Critics(3, 32, 1)
    copied.load_state_dict(critic.state_dict())
    torch.testing.assert_close(copied(features), torch.full((256,), -50.0))
    target = -50 + 3 * features[:, 0]
    optimiser = torch.optim.Adam(critic.parameters(), 1e-2)
    for _ in range(300):
        optimiser.zero_grad()
        critic.loss(features, target[:, None]).mean().backward()
        optimiser.step()
    assert (critic(features) - target).square().mean() < 0.1 * target.var()


def test_the_two_start_with_different_weights_and_the_same_value():
    critic, features = Critics(3, 8, 1), torch.randn(4, 3)
    first, second = critic.each
    assert not torch.equal(first.net[0].weight, second.net[0].weight)
    assert torch.equal(critic(features), torch.zeros(4)) or critic(features).abs().max() < 1e-6
