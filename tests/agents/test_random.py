import pytest
import torch
from worldlab_agents.configs import RandomConfig
from worldlab_agents.random import RandomAgent, uniform_action

from worldlab.specs import ActionSpec, LatentSpec, ObsSpec, Specs


def specs(action: ActionSpec) -> Specs:
    return Specs(ObsSpec(()), action, LatentSpec(2), 3, False)


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_discrete_actions_are_one_hots_equally_often():
    actions = uniform_action(specs(ActionSpec("discrete", 4)), 4000, gen())
    assert torch.equal(actions.sum(1), torch.ones(4000)) and set(actions.unique().tolist()) == {0, 1}
    assert ((actions.mean(0) - 0.25).abs() < 4 * (0.25 * 0.75 / 4000) ** 0.5).all()


def test_continuous_actions_fill_the_cube_uniformly():
    actions = uniform_action(specs(ActionSpec("continuous", 2)), 4000, gen())
    assert actions.abs().max() <= 1
    torch.testing.assert_close(actions.mean(0), torch.zeros(2), atol=0.05, rtol=0)
    torch.testing.assert_close(actions.var(0), torch.full((2,), 1 / 3), atol=0.03, rtol=0)


@pytest.mark.parametrize("explore", [True, False])
def test_the_agent_draws_from_its_generator_alone_and_learns_nothing(explore):
    agent = RandomAgent(RandomConfig(), specs(ActionSpec("continuous", 2)))
    model, carry, features = None, {}, torch.zeros(5, 5)
    first, state = agent.act(model, carry, features, {}, gen(1), explore)  # type: ignore[arg-type]
    torch.manual_seed(99)
    second, _ = agent.act(model, carry, features + 1, {}, gen(1), explore)  # type: ignore[arg-type]
    assert torch.equal(first, second) and state == {}
    assert agent.players() == {} and not list(agent.parameters())
