"""The random baseline: uniform actions, no learning."""

from __future__ import annotations

from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from worldlab.agent import Agent
from worldlab.interfaces import State
from worldlab.rollout import Carry
from worldlab.specs import Specs
from worldlab.world_model import WorldModel
from worldlab_agents.configs import RandomConfig


def uniform_action(specs: Specs, n: int, generator: torch.Generator) -> Tensor:
    """Sample n encoded actions uniformly from the action space: [n, A]."""
    if specs.action.kind == "discrete":
        choice = torch.randint(specs.action.dim, (n,), generator=generator, device=generator.device)
        return F.one_hot(choice, specs.action.dim).float()
    return torch.rand(n, specs.action.dim, generator=generator, device=generator.device) * 2 - 1


@final
class RandomAgent(Agent):
    """Acts uniformly at random, in collection and in evaluation."""

    def __init__(self, config: RandomConfig, specs: Specs) -> None:
        super().__init__(config, specs)
        self.specs = specs

    def act(
        self,
        model: WorldModel,
        carry: Carry,
        features: Tensor,
        state: State,
        generator: torch.Generator,
        explore: bool,
    ) -> tuple[Tensor, State]:
        return uniform_action(self.specs, len(features), generator), state
