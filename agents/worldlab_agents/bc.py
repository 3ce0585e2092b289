"""Behaviour cloning: the policy that repeats the actions of the data. Pomerleau 1991, Neural Computation 3(1).

It is the baseline of offline training: an agent that learns from rewards has to do better. It needs no dream; it reads the
world model's features of the recorded states.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from worldlab.agent import Agent, Experience
from worldlab.interfaces import Player, State
from worldlab.rollout import Carry
from worldlab.specs import Specs
from worldlab.world_model import WorldModel
from worldlab_agents.actor import Actor, clip_action
from worldlab_agents.cloning import cloning_loss
from worldlab_agents.configs import BCConfig


@final
class BCAgent(Agent):
    """Maximises the likelihood of the recorded actions; acts with the most likely action."""

    imitates = True

    def __init__(self, config: BCConfig, specs: Specs) -> None:
        super().__init__(config, specs)
        self.config = config
        self.actor = Actor(specs, config.units, config.layers, config.min_std, config.unimix)

    def act(
        self,
        model: WorldModel,
        carry: Carry,
        features: Tensor,
        state: State,
        generator: torch.Generator,
        explore: bool,
    ) -> tuple[Tensor, State]:
        policy = self.actor(features)
        action = policy.sample(generator) if explore else policy.mode
        return (action if self.actor.discrete else clip_action(action)).detach(), state

    def players(self) -> dict[str, Player]:
        return {"actor": Player(list(self.actor.parameters()), self.config.rate)}

    def losses(
        self, model: WorldModel, seen: Experience, generator: torch.Generator
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        assert seen.sequence is not None, "the core gives it, since the agent reads sequences"
        return {"actor": cloning_loss(self.actor, seen.sequence)}, {}


__all__ = ["BCAgent"]
