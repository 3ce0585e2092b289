"""The actor-critic against worlds whose values and best actions are known."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from config_kit import configured
from torch import Tensor
from worldlab_agents.actor import Actor, ReturnRange, clip_action, clipped_log_prob
from worldlab_agents.configs import DreamerConfig
from worldlab_agents.dreamer import DreamerAgent, lambda_returns

from worldlab import tree
from worldlab.agent import Experience
from worldlab.distributions import Normal
from worldlab.rollout import Carry
from worldlab.specs import ActionSpec, LatentSpec, ObsSpec, Specs
from worldlab.world_model import Dream

SIZES: dict[str, Any] = {"units": 16, "layers": 1, "horizon": 5}


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_specs(action: ActionSpec | None = None) -> Specs:
    return Specs(ObsSpec(()), action or ActionSpec("continuous", 1), LatentSpec(1), 1, False)


def make_agent(action: ActionSpec | None = None, **config) -> DreamerAgent:
    torch.manual_seed(0)
    return DreamerAgent(configured(DreamerConfig, **(SIZES | config)), make_specs(action))


class StubWorld:
    """Stands in for a world model: features are (x, last action), x never moves.

    reward on arrival: `reward` if it is a number, else -(a - 0.5)^2 of the action that led there, or 1 for the last
    choice of a discrete action. cont: a constant.
    """

    def __init__(self, reward: float | str = 1.0, cont: float = 0.9, reparameterised: bool = True, leak: bool = False):
        self.dynamics = SimpleNamespace(reparameterised=reparameterised)
        self.reward, self.cont = reward, cont
        self.grad_seen: list[bool] = []

    def fork(self, carry: Carry, count: int) -> Carry:
        return tree.repeat(carry, count)

    def imagine(self, carry: Carry, policy: Any, horizon: int, generator: Any) -> Dream:
        self.grad_seen.append(torch.is_grad_enabled())
        x = carry.z
        features, actions, rewards = [torch.cat([x, torch.zeros_like(x)], -1)], [], []
        for _ in range(horizon):
            action = policy(features[-1])
            value = action[:, -1:]
            rewards.append(-(value - 0.5).square()[:, 0] if self.reward == "near half" else value[:, 0])
            actions.append(action)
            features.append(torch.cat([x, value], -1))
        reward = torch.stack(rewards, 1)
        if isinstance(self.reward, float):
            reward = torch.full_like(reward, self.reward)
        return Dream(torch.stack(features, 1), torch.stack(actions, 1), reward, torch.full_like(reward, self.cont))


def experience(n: int = 8, cont: float = 1.0) -> Experience:
    return Experience(Carry({}, torch.linspace(-1, 1, n)[:, None]), torch.zeros(n), torch.full((n,), cont))


def train(agent: DreamerAgent, world: StubWorld, steps: int, rate: float = 1e-2, n: int = 8) -> None:
    """The trainer's part: one optimiser a player, both stepped on the same dream."""
    optimizers = [torch.optim.Adam(player.parameters, rate) for player in agent.players().values()]
    g = gen()
    for _ in range(steps):
        losses, _ = agent.losses(world, experience(n), g)  # type: ignore[arg-type]
        for optimizer in optimizers:
            optimizer.zero_grad()
        sum(losses.values()).backward()  # type: ignore[union-attr]
        for optimizer in optimizers:
            optimizer.step()
        agent.after_step()


def enumerated_return(reward, discount, value, lambda_: float, k: int, horizon: int) -> float:
    """The lambda-return by its definition: n-step returns weighed by (1 - lambda) lambda^(n - 1), the rest on the last."""
    total = 0.0
    for n in range(1, horizon - k + 1):
        n_step, scale = 0.0, 1.0
        for i in range(k, k + n):
            n_step += scale * reward[i]
            scale *= discount[i]
        n_step += scale * value[k + n]
        weight = lambda_ ** (n - 1) * ((1 - lambda_) if n < horizon - k else 1.0)
        total += weight * n_step
    return total


@pytest.mark.parametrize("first", [-2.0, 2.0])
def test_values_start_at_the_return_of_rewards_that_go_on_but_not_above_0(first):
    """The geometric series at a discount of 0.9 * 0.75, by its first terms; later batches do not move the start."""
    agent, features = make_agent(gamma=0.9), torch.randn(4, 2)
    for reward in (first, -9.0):
        seen = experience(cont=0.75)
        agent.losses(StubWorld(), replace(seen, reward=seen.reward + reward), gen())  # type: ignore[arg-type]
    expected = min(0.0, sum(first * (0.9 * 0.75) ** k for k in range(200)))
    assert agent.critic(features).tolist() == pytest.approx([expected] * 4, rel=1e-5, abs=1e-5)
    assert agent.value(features).tolist() == pytest.approx([expected] * 4, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("lambda_", [0.0, 0.3, 0.95, 1.0])
def test_lambda_returns_are_the_weighted_n_step_returns(lambda_):
    g = gen()
    reward, value = torch.randn(3, 6, generator=g), torch.randn(3, 7, generator=g)
    discount = torch.rand(3, 6, generator=g)
    out = lambda_returns(reward, discount, value, lambda_)
    for row in range(3):
        for k in range(6):
            args = (reward[row].tolist(), discount[row].tolist(), value[row].tolist())
            assert out[row, k].item() == pytest.approx(enumerated_return(*args, lambda_, k, 6), abs=1e-5)


def test_a_termination_cuts_what_follows():
    reward, value = torch.tensor([[1.0, 10.0, 100.0]]), torch.full((1, 4), 1000.0)
    discount = torch.tensor([[1.0, 0.0, 1.0]])
    assert lambda_returns(reward, discount, value, 0.95)[0, :2].tolist() == pytest.approx([0.05 * 1001 + 0.95 * 11, 10])


@pytest.mark.slow
@pytest.mark.parametrize("reward, cont", [(1.0, 0.9), (-0.5, 0.6)])
def test_the_critic_finds_the_closed_form_value(reward, cont):
    """Constant reward r and continuation c: v = r / (1 - gamma c) everywhere."""
    agent = make_agent(gamma=0.95, slow_rate=0.5)
    train(agent, StubWorld(reward, cont), 120, rate=3e-2, n=4)
    features = torch.cat([torch.linspace(-1, 1, 5)[:, None], torch.zeros(5, 1)], 1)
    value = agent.critic(features)
    expected = torch.full((5,), reward / (1 - 0.95 * cont))
    torch.testing.assert_close(value, expected, rtol=0.05, atol=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("gradient", ["pathwise", "reinforce"])
def test_both_gradients_find_the_best_continuous_action(gradient):
    agent = make_agent(gradient=gradient, entropy=1e-4, gamma=0.5, average_rate=0.2)
    train(agent, StubWorld("near half", 0.9), 100, rate=2e-2, n=32)
    features = torch.tensor([[-0.5, 0.2], [0.5, 0.5]])
    action, _ = agent.act(None, {}, features, {}, gen(), explore=False)  # type: ignore[arg-type]
    assert ((action - 0.5).abs() < 0.15).all()


@pytest.mark.slow
def test_reinforce_finds_the_best_discrete_action():
    agent = make_agent(ActionSpec("discrete", 3))
    train(agent, StubWorld("last choice", 0.9), 60)
    probs = agent.actor(torch.tensor([[0.0, 0.0], [1.0, 1.0]])).probs[:, 0]
    assert (probs[:, 2] > 0.9).all()


@pytest.mark.parametrize("gradient", ["pathwise", "reinforce"])
def test_the_actors_gradient_estimates_the_true_one(gradient):
    """One imagined step, no critic: d/d mean of E[-(a - 0.5)^2] = -2 (m - 0.5) for a ~ N(m, s), well inside the bounds."""
    agent = make_agent(gradient=gradient, entropy=0.0, horizon=1, gamma=1e-6, lambda_=1.0, min_std=0.1)
    samples = actor_gradients(agent, torch.tensor([0.2, -8.0]))[:, 0]  # near the smallest std
    exact = -2 * (torch.tensor(0.2) - 0.5)
    assert abs(samples.mean() - exact) < 4 * samples.std() / len(samples) ** 0.5 + 1e-4


def actor_gradients(agent: DreamerAgent, start: Tensor, draws: int = 30) -> Tensor:
    """Gradient of the expected return with respect to the actor's two outputs, [draws, 2], 500 dreams each."""
    raw = torch.nn.Parameter(start)
    agent.actor.net.forward = lambda f: raw.expand(*f.shape[:-1], 2)  # type: ignore[method-assign]
    found = []
    for seed in range(draws):
        losses, metrics = agent.losses(StubWorld("near half", 0.9), experience(500), gen(seed))  # type: ignore[arg-type]
        found.append(-torch.autograd.grad(losses["actor"], raw)[0] * metrics["agent/return_scale"])
    return torch.stack(found)


@pytest.mark.parametrize("gradient", ["pathwise", "reinforce"])
@pytest.mark.parametrize("mean", [0.8, 0.999])
def test_the_actors_gradient_is_unbiased_where_many_actions_are_clipped(gradient, mean):
    """A wide policy: the true gradient of E[-(clip(a) - 0.5)^2] by quadrature over the unclipped Gaussian."""
    agent = make_agent(gradient=gradient, entropy=0.0, horizon=1, gamma=1e-6, lambda_=1.0)
    start = torch.tensor([mean, 2.0])
    samples = actor_gradients(agent, start)
    raw = start.double().requires_grad_()
    centre, std = raw[0], 0.9 * torch.sigmoid(raw[1] + 2.0) + 0.1
    grid = torch.linspace(-8, 8, 20_001, dtype=torch.float64)
    density = torch.exp(-0.5 * ((grid - centre) / std).square()) / (std * (2 * torch.pi) ** 0.5)
    expected_return = (density * -(grid.clamp(-1, 1) - 0.5).square()).sum() * (grid[1] - grid[0])
    exact = torch.autograd.grad(expected_return, raw)[0].float()
    error = samples.std(0) / len(samples) ** 0.5
    assert ((samples.mean(0) - exact).abs() < 4 * error).all()


@pytest.mark.parametrize(
    "kind, reparameterised, gradient, expected",
    [
        ("continuous", True, "auto", True),
        ("continuous", False, "auto", False),
        ("discrete", True, "auto", False),
        ("continuous", True, "reinforce", False),
        ("continuous", False, "pathwise", True),
    ],
)
def test_the_gradient_is_chosen_by_ability(kind, reparameterised, gradient, expected):
    agent = make_agent(ActionSpec(kind, 2), gradient=gradient)
    world = StubWorld(reparameterised=reparameterised)
    losses, _ = agent.losses(world, experience(), gen())  # type: ignore[arg-type]
    assert world.grad_seen == [expected]
    assert set(losses) == set(agent.players()) == {"actor", "critic"}


@pytest.mark.parametrize("critic", ["twin", "single"])
def test_each_players_loss_reaches_its_own_parameters_only(critic):
    for action in (ActionSpec("continuous", 1), ActionSpec("discrete", 2)):
        agent = make_agent(action, critic=critic)
        losses, _ = agent.losses(StubWorld("near half"), experience(), gen())  # type: ignore[arg-type]
        for player, other in (("actor", "critic"), ("critic", "actor")):
            agent.zero_grad(set_to_none=True)
            losses[player].backward(retain_graph=True)
            assert any(p.grad is not None and p.grad.any() for p in agent.players()[player].parameters)
            assert all(p.grad is None for p in agent.players()[other].parameters)
            assert all(p.grad is None for p in agent.slow_critic.parameters())


@pytest.mark.parametrize("critic", ["twin", "single"])
def test_returns_end_in_the_slow_critics_value_or_the_critics(critic):
    agent, features = make_agent(critic=critic), torch.zeros(3, 2)
    with torch.no_grad():
        for twin in agent.critic.each:
            twin.net[-1].bias[0] += 5.0
    assert torch.equal(agent.value(features), (agent.slow_critic if critic == "twin" else agent.critic)(features))
    assert not torch.equal(agent.slow_critic(features), agent.critic(features))


@pytest.mark.parametrize("critic", ["twin", "single"])
def test_the_critic_is_held_near_its_slow_copy(critic):
    """The term of `slow_weight` is the cross-entropy to the slow critic's value, whichever value the returns end in."""
    held, free = (make_agent(critic=critic, slow_weight=weight) for weight in (1.0, 0.0))
    for agent in (held, free):
        with torch.no_grad():
            for one in agent.slow_critic.each:
                one.net[-1].bias[130] += 9.0
    losses = [agent.losses(StubWorld(), experience(), gen())[0]["critic"] for agent in (held, free)]  # type: ignore[arg-type]
    features, discount = torch.zeros(1, 2), 0.99 * 0.9
    slow = held.slow_critic(features)
    term = held.critic.loss(features, slow[:, None]).item() * sum(discount**k for k in range(5)) / 5
    assert slow.item() > 0.1 and losses[0].item() - losses[1].item() == pytest.approx(term, rel=1e-4)


def test_starts_that_had_ended_teach_nothing():
    agent = make_agent()
    losses, _ = agent.losses(StubWorld(), experience(cont=0.0), gen())  # type: ignore[arg-type]
    assert losses["actor"].item() == 0 and losses["critic"].item() == 0


def test_weights_are_the_probability_of_still_going_on():
    agent = make_agent(gamma=0.8, entropy=0.0)
    world = StubWorld(1.0, 0.5)
    dream = world.imagine(experience().carry, lambda f: torch.zeros(len(f), 1), 5, None)
    targets = agent._targets(dream, experience())
    assert targets.weight[0].tolist() == pytest.approx([0.4**k for k in range(5)])


def test_return_range_is_the_averaged_percentile_range_and_never_below_one():
    returns = torch.randn(1000, generator=gen()) * 20
    low, high = torch.quantile(returns, 0.05), torch.quantile(returns, 0.95)
    scale = ReturnRange()
    torch.testing.assert_close(scale.update(returns), high - low)
    torch.testing.assert_close(scale.update(returns * 0), 0.99 * (high - low))
    assert ReturnRange().update(torch.zeros(10)).item() == 1
    assert ReturnRange().update(torch.linspace(0, 0.1, 10)).item() == 1


def test_returns_that_are_not_finite_leave_the_range_as_it_was():
    scale, other = ReturnRange(), ReturnRange()
    bad = torch.tensor([torch.nan, torch.inf, -torch.inf])
    assert scale.update(bad).item() == 1
    returns = torch.linspace(-50, 50, 100)
    assert torch.equal(scale.update(torch.cat([returns, bad])), other.update(returns))
    assert torch.equal(scale.update(bad), other.update(returns)) and scale.update(returns) > 80


def test_quantiles_of_the_finite_values_are_torchs_bit_for_bit():
    for count in (1, 2, 19, 400):
        returns = torch.randn(count, generator=gen(count)) * 20
        scale = ReturnRange()
        scale.update(torch.cat([returns, torch.tensor([torch.nan, torch.inf])]))
        expected = torch.quantile(returns, torch.tensor([0.05, 0.95]))
        assert torch.equal(torch.stack([scale.low, scale.high]), expected)


def test_return_range_is_saved():
    agent, other = make_agent(), make_agent()
    agent.range.update(torch.linspace(-50, 50, 100))
    other.load_state_dict(agent.state_dict())
    ours, theirs = agent.range.update(torch.zeros(5)), other.range.update(torch.zeros(5))
    assert torch.equal(ours, theirs) and ours > 80


def test_the_slow_critic_follows_at_its_rate_and_is_nobodys_player():
    agent = make_agent(slow_rate=0.25)
    with torch.no_grad():
        agent.critic.each[1].net[-1].bias.add_(1.0)
    slow = agent.slow_critic.each[1].net[-1].bias
    before = slow.clone()
    agent.after_step()
    torch.testing.assert_close(slow - before, torch.full((255,), 0.25))
    players = [id(p) for player in agent.players().values() for p in player.parameters]
    assert len(players) == len(set(players))
    assert set(players) == {id(p) for p in agent.parameters() if p.requires_grad}


def test_a_clipped_action_has_the_gradient_of_its_value():
    action = torch.tensor([-3.0, 0.2, 3.0], requires_grad=True)
    out = clip_action(action)
    assert out.tolist() == pytest.approx([-1, 0.2, 1])
    out.sum().backward()
    assert action.grad is not None and action.grad.tolist() == [0, 1, 0]


def test_a_mean_at_a_bound_takes_gradients_that_lead_back_and_no_others():
    actor = Actor(make_specs(ActionSpec("continuous", 4)), 16, 1, 0.1, 0.01)
    raw = torch.tensor([-1.5, -1.5, 1.5, 1.5, 0, 0, 0, 0], requires_grad=True)
    actor.net.forward = lambda f: raw  # type: ignore[method-assign]
    mean = actor(torch.zeros(0)).mean
    assert mean.tolist() == [-1, -1, 1, 1]
    # The loss falls as these means rise, fall, rise and fall: of the two at each bound one is led back.
    (mean * torch.tensor([-1.0, 1.0, -1.0, 1.0])).sum().backward()
    assert raw.grad is not None and raw.grad[:4].tolist() == [-1, 0, 0, 1]


def test_a_mean_that_was_driven_to_a_bound_comes_back():
    """After 500 updates towards an action beyond the bound, as many as a tanh needs to saturate, 60 towards 0.5 suffice."""
    actor = Actor(make_specs(ActionSpec("continuous", 1)), 16, 1, 0.1, 0.01)
    optimizer, features = torch.optim.Adam(actor.parameters(), 1e-2), torch.ones(8, 2)
    for target, updates in ((-3.0, 500), (0.5, 60)):
        for _ in range(updates):
            loss = (actor(features).mean - target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert (actor(features).mean - 0.5).abs().max() < 0.1


def test_clipped_log_prob_is_a_density_inside_and_the_mass_beyond_at_the_bounds():
    policy = Normal(torch.tensor([0.3, -0.6]), torch.tensor([0.8, 1.5]))
    exact = torch.distributions.Normal(policy.mean, policy.std)
    inside = torch.tensor([0.2, -0.9])
    torch.testing.assert_close(clipped_log_prob(policy, inside), exact.log_prob(inside).sum())
    mixed = torch.log(1 - exact.cdf(torch.ones(2)))[0] + torch.log(exact.cdf(-torch.ones(2)))[1]
    torch.testing.assert_close(clipped_log_prob(policy, torch.tensor([1.0, -1.0])), mixed)


def test_actors_start_without_a_preference():
    features = torch.randn(200, 2, generator=gen())
    discrete = Actor(make_specs(ActionSpec("discrete", 4)), 16, 1, 0.1, 0.01)(features)
    assert (discrete.probs - 0.25).abs().max() < 0.05  # type: ignore[union-attr]
    continuous: Any = Actor(make_specs(ActionSpec("continuous", 3)), 16, 1, 0.1, 0.01)(features)
    assert continuous.mean.abs().max() < 0.1 and continuous.std.min() > 0.8


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_exploring_samples_and_judging_takes_the_mode(kind):
    agent = make_agent(ActionSpec(kind, 3))
    features = torch.randn(50, 2, generator=gen())

    def act(seed: int, explore: bool) -> Tensor:
        action, _ = agent.act(None, {}, features, {}, gen(seed), explore)  # type: ignore[arg-type]
        return action

    assert torch.equal(act(0, False), act(1, False)) and torch.equal(act(0, False), agent.actor(features).mode)
    assert torch.equal(act(0, True), act(0, True)) and not torch.equal(act(0, True), act(1, True))
    assert act(0, True).abs().max() <= 1 and not act(0, True).requires_grad


def test_the_judged_actor_is_the_running_average_of_the_one_that_learns():
    agent = make_agent(average_rate=0.25)
    weight, average = agent.actor.net[-1].weight, agent.averaged_actor.net[-1].weight
    before = average.clone()
    with torch.no_grad():
        weight.add_(1.0)
    agent.after_step()
    torch.testing.assert_close(average, 0.75 * before + 0.25 * weight)
    assert not any(p.requires_grad for p in agent.averaged_actor.parameters())
