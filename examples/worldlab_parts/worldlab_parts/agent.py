"""The agent chooses actions in features of the world model, and may learn in it."""

from __future__ import annotations

import copy
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor
from worldlab.agent import Agent, Experience
from worldlab.interfaces import Player, Specs, State
from worldlab.nn import ema_update, mlp
from worldlab.rollout import Carry
from worldlab.world_model import Dream, WorldModel

from worldlab_parts.configs import ShootingConfig


@final
class ShootingAgent(Agent):
    """Random shooting: the first action of the best random plan. What follows a plan counts as the value of random play.

    The value V is learned by one imagined step of a random action: V(f) <- r + gamma c V'(f'), with a slow copy V'. One
    search above the value of random play is a step of policy iteration (Bertsekas, Dynamic Programming and Optimal
    Control, section on rollout).
    """

    Config = ShootingConfig
    reads_sequences = False

    def __init__(self, config: ShootingConfig, specs: Specs) -> None:
        super().__init__(config, specs)
        self.config = config
        self.action = specs.action
        self.noise = config.exploration
        self.value = mlp(specs.feature_dim, config.units, 2, 1, zero=True)
        self.slow_value = copy.deepcopy(self.value).requires_grad_(False)

    @torch.no_grad()
    def act(
        self,
        model: WorldModel,
        carry: Carry,
        features: Tensor,
        state: State,
        generator: torch.Generator,
        explore: bool,
    ) -> tuple[Tensor, State]:
        """Return actions [N, A] and the next state, {} here."""
        n, count, horizon = len(features), self.config.candidates, self.config.horizon
        plans = self.draw_plans(n * count, horizon, generator)
        dream = model.imagine(model.fork(carry, count), plans, horizon, generator)
        best = self.returns(dream).view(n, count).argmax(1)
        return plans.view(n, count, horizon, -1)[torch.arange(n), best, 0], state

    def draw_plans(self, rows: int, horizon: int, generator: torch.Generator) -> Tensor:
        """Return uniform actions [rows, H, A]: one-hots, or numbers in [-1, 1]."""
        uniform = torch.rand(rows, horizon, self.action.dim, generator=generator, device=generator.device)
        if self.action.kind == "discrete":
            return F.one_hot(uniform.argmax(-1), self.action.dim).float()
        return 2 * uniform - 1

    def returns(self, dream: Dream) -> Tensor:
        """Return the discounted imagined returns [rows], and the value after the last step."""
        alive = (self.config.gamma * dream.cont).cumprod(1)  # [rows, H]
        before = torch.cat([torch.ones_like(alive[:, :1]), alive[:, :-1]], 1)
        return (before * dream.reward).sum(1) + alive[:, -1] * self.slow_value(dream.features[:, -1])[:, 0]

    def players(self) -> dict[str, Player]:
        """Return the value, which the core trains."""
        return {"value": Player(list(self.value.parameters()), self.config.rate)}

    def losses(
        self, model: WorldModel, seen: Experience, generator: torch.Generator
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the squared error of one imagined step of a random action."""
        with torch.no_grad():
            plan = self.draw_plans(len(seen.reward), 1, generator)
            dream = model.imagine(seen.carry, plan, 1, generator)
            later = self.slow_value(dream.features[:, 1])[:, 0]
            target = dream.reward[:, 0] + self.config.gamma * dream.cont[:, 0] * later
        value = self.value(dream.features[:, 0])[:, 0]
        return {"value": (value - target).square().mean()}, {"value": value.mean().detach()}

    def after_step(self) -> None:
        """Let the slow value follow."""
        ema_update(self.slow_value, self.value, self.config.slow_rate)
