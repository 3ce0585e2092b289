"""Toys for tests of the trainer: a decoder with a critic, and an agent of two players."""

from typing import Any, final

import torch
from torch import Tensor, nn

from worldlab.agent import Agent
from worldlab.distributions import Normal
from worldlab.interfaces import Context, Decoder, Player
from worldlab.tree import flatten_time


@final
class AdversarialDecoder(Decoder):
    """A linear generator and a linear critic; each player's loss also depends on the other's weights."""

    score_kind = "critic"

    def __init__(self, config: Any, specs: Any) -> None:
        super().__init__(config, specs)
        self.generator = nn.Linear(specs.feature_dim, 3)
        self.critic = nn.Linear(3 + specs.feature_dim, 1)
        self.trace: list[str] = []

    def players(self) -> dict[str, Player]:
        critic = Player(list(self.critic.parameters()), betas=(0.0, 0.999))
        return {"main": Player(list(self.generator.parameters())), "critic": critic}

    def decode(self, features: Tensor):
        mean = self.generator(features)
        return {"vector": Normal(mean, torch.ones_like(mean))}

    def score(self, features: Tensor, obs) -> Tensor:
        return self.critic(torch.cat([obs["vector"], features], -1))[..., 0]

    def losses(self, ctx: Context, player: str = "main") -> dict[str, Tensor]:
        features, shape = ctx.features.flatten(0, 1), ctx.features.shape[:2]
        fake = {"vector": self.generator(features)}
        self.trace.append(f"{player}:{features.requires_grad}:{self.critic.weight.requires_grad}")
        if player == "main":
            return {"fool": -self.score(features, fake).unflatten(0, shape)}
        real = self.score(features, flatten_time(ctx.batch.obs))
        return {"tell": (self.score(features, fake).square() + (real - 1).square()).unflatten(0, shape)}

    def after_step(self, player: str) -> None:
        self.trace.append(f"after:{player}")


class ToyAgent(Agent):
    """Two players with a rate each, whose losses read the model."""

    def __init__(self, specs: Any):
        super().__init__(None, specs)
        self.a, self.b = nn.Linear(specs.feature_dim, 1), nn.Linear(specs.feature_dim, 1)
        self.steps, self.seen, self.broken = 0, None, False

    def act(self, model, carry, features, state, generator, explore):
        return features[:, :2], state

    def players(self):
        return {"a": Player(list(self.a.parameters()), 1e-2), "b": Player(list(self.b.parameters()), 1e-3)}

    def losses(self, model, seen, generator):
        self.seen = seen
        dream = model.imagine(seen.carry, lambda f: self.a(f).expand(-1, 2), 2, generator)
        bad = torch.nan if self.broken else 1.0
        value = self.b(dream.features.detach())
        return {"a": -dream.features.square().mean() * bad, "b": value.square().mean()}, {"agent/x": value.mean()}

    def after_step(self):
        self.steps += 1
