"""What disagreement is worth to planners and learners: penalties, bonuses while collecting, weights of imagined steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from bandit_kit import CONTINUOUS, gen, specs_for
from config_kit import configured
from torch import Tensor
from worldlab_agents.configs import DreamerConfig, PlannerConfig, TDMPCConfig
from worldlab_agents.disagreement import bonus_of, step_weights, with_bonus
from worldlab_agents.dreamer import DreamerAgent
from worldlab_agents.planner import PlannerAgent
from worldlab_agents.tdmpc import TDMPCAgent

from worldlab import tree
from worldlab.agent import Experience
from worldlab.errors import ConfigError
from worldlab.registry import load_registry
from worldlab.rollout import Carry
from worldlab.testing import build
from worldlab.training.dry_run import dry_run
from worldlab.world_model import Dream

SMALL: dict[str, Any] = {"units": 8, "layers": 1}


class Unsure:
    """A dream in which every action pays the same, and the members disagree by (1 + a) / 2 about where an action a leads.

    features: (a of the last step, 0).
    """

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.specs = specs_for(CONTINUOUS)
        self.dynamics: Any = type("D", (), {"reparameterised": True})()

    def fork(self, carry: Carry, count: int) -> Carry:
        return tree.repeat(carry, count)

    def imagine(self, carry: Carry, policy: Any, horizon: int, generator: Any) -> Dream:
        features, actions = [torch.zeros(len(carry.z), 2)], []
        for k in range(horizon):
            action = policy[:, k] if isinstance(policy, Tensor) else policy(features[-1])
            actions.append(action)
            features.append(torch.cat([action, torch.zeros_like(action)], -1))
        ones = torch.ones(len(carry.z), horizon)
        return Dream(torch.stack(features, 1), torch.stack(actions, 1), ones, ones)

    def disagreement(self, features: Tensor) -> Tensor:
        return (1 + features[..., 0]) / 2


def start(n: int = 1) -> Experience:
    return Experience(Carry({}, torch.zeros(n, 1)), torch.zeros(n), torch.ones(n))


PLANNERS = {
    "planner": (PlannerAgent, PlannerConfig, {"horizon": 2, "candidates": 64, "elites": 8}),
    "tdmpc": (TDMPCAgent, TDMPCConfig, {"horizon": 2, "candidates": 64, "elites": 8, "noise": False} | SMALL),
}


@pytest.mark.parametrize("name", PLANNERS)
def test_a_planner_avoids_what_members_disagree_about_and_seeks_it_only_while_collecting(name: str):
    cls, config, small = PLANNERS[name]
    torch.manual_seed(0)
    # Rewards far above a value that has learned nothing, so that only they decide.
    agent: Any = cls(configured(config, **small, pessimism=1000.0, curiosity=1000.0), specs_for(CONTINUOUS))
    world: Any = Unsure()
    for explore, sought in ((False, -1.0), (True, 1.0)):
        action, _ = agent.act(world, Carry({}, torch.zeros(1, 1)), torch.zeros(1, 2), agent.initial(1), gen(), explore)
        assert (action - sought).abs().max() < 0.2, (explore, action)
    assert agent.reads_disagreement


def test_an_actor_avoids_what_members_disagree_about_and_another_one_that_collects_seeks_it():
    torch.manual_seed(0)
    config = configured(DreamerConfig, **SMALL, horizon=2, pessimism=1.0, curiosity=1.0, average_rate=0.1)
    agent, world, g = DreamerAgent(config, specs_for(CONTINUOUS)), Unsure(), gen()
    optimizers = [torch.optim.Adam(player.parameters, 1e-2) for player in agent.players().values()]
    for _ in range(120):
        losses, metrics = agent.losses(world, start(16), g)  # type: ignore[arg-type]
        for optimizer in optimizers:
            optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        for optimizer in optimizers:
            optimizer.step()
        agent.after_step()
    assert set(losses) == {"actor", "critic", "explorer_actor", "explorer_critic"}
    assert (
        metrics["agent/reward"] > 0.8 and metrics["agent/explorer_reward"] > 1.6
    )  # 1 -+ a disagreement of 0, and of 1
    carry, features = Carry({}, torch.zeros(1, 1)), torch.zeros(1, 2)
    evaluated = agent.act(world, carry, features, {}, g, False)[0]  # type: ignore[arg-type]
    collecting = torch.stack([agent.act(world, carry, features, {}, g, True)[0] for _ in range(9)])  # type: ignore[arg-type]
    assert evaluated.item() < -0.7 and collecting.median() > 0.7


def test_without_curiosity_there_is_one_actor_critic_and_the_dream_is_as_it_was():
    agent = DreamerAgent(configured(DreamerConfig, **SMALL), specs_for(CONTINUOUS))
    assert agent.explorer is None and not agent.reads_disagreement and agent.bonus == 0
    world: Any = Unsure()
    dream = world.imagine(Carry({}, torch.zeros(2, 1)), torch.zeros(2, 3, 1), 3, None)
    assert with_bonus(dream, world, 0.0) is dream and step_weights(dream, world, 0.0) == 1.0


def test_a_bonus_is_paid_on_the_arrival_that_members_disagree_about():
    world: Any = Unsure()
    plan = torch.tensor([[[-1.0], [0.0], [1.0]]])
    dream = world.imagine(Carry({}, torch.zeros(1, 1)), plan, 3, None)
    torch.testing.assert_close(with_bonus(dream, world, -2.0).reward, torch.tensor([[1.0, 0.0, -1.0]]))
    assert bonus_of(DreamerConfig(pessimism=2.0, curiosity=3.0), explore=True) == 3.0
    assert bonus_of(DreamerConfig(pessimism=2.0), explore=True) == -2.0


def test_a_step_weighs_the_inverse_of_its_variance_with_a_floor():
    """Disagreements 0, 0.5 and 1 with mean 0.5, confidence 2: 1 / (1 + 2 d / 0.5)."""
    world: Any = Unsure()
    dream = world.imagine(Carry({}, torch.zeros(1, 1)), torch.tensor([[[-1.0], [0.0], [1.0]]]), 3, None)
    torch.testing.assert_close(step_weights(dream, world, 2.0), torch.tensor([[1.0, 1 / 3, 1 / 5]]))
    agent = DreamerAgent(configured(DreamerConfig, **SMALL, confidence=2.0), specs_for(CONTINUOUS))
    certain = agent._targets(dream, start()).weight
    weighted = agent._targets(dream, start(), step_weights(dream, world, 2.0)).weight
    torch.testing.assert_close(weighted, certain * torch.tensor([[1.0, 1 / 3, 1 / 5]]))


def test_an_agent_that_needs_members_is_refused_before_data_is_collected():
    registry = load_registry()
    who = {role: registry.get(role, "vae") for role in ("encoder", "dynamics", "decoder")}
    who |= {"agent": registry.get("agent", "dreamer")}
    config = configured(DreamerConfig, **SMALL, horizon=2, pessimism=0.1)
    model = build("dynamics:vae", "vector").model
    with pytest.raises(ConfigError, match="has one prediction, so there is no disagreement"):
        dry_run(model, DreamerAgent(config, model.specs), who)
    several = build("dynamics:ensemble", "vector", count=2).model
    dry_run(several, DreamerAgent(config, several.specs), {**who, "dynamics": registry.get("dynamics", "ensemble")})
