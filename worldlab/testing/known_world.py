"""A world model without training whose rewards are known, for the checks of agents.

A number x, observed as it is, keeps its value. The reward on arrival is high if the action before it pointed to the side
of x: tanh(4 x) a[0] for continuous actions, and tanh(4 x) (a[0] - a[1]) for discrete ones. x is positive as often as
negative, so random actions and actions that ignore x earn 0 on average, and the best earn nearly 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from worldlab.distributions import Normal
from worldlab.interfaces import Batch, Decoder, Dynamics, Encoder, Latent, Obs, State
from worldlab.model.noise import actions
from worldlab.settings import Config, ModelSettings
from worldlab.specs import ActionSpec, ArraySpec, LatentSpec, ObsSpec, Specs
from worldlab.world_model import WorldModel

KEY = "vector"
STD = 0.02
"""Std of the prior around x."""
CONTINUES = 0.8
"""Probability that an imagined episode continues."""


class KnownConfig(Config):
    """A configuration without settings."""


@final
class KnownEncoder(Encoder):
    """z = x."""

    Config = KnownConfig
    posterior_kind = "analytic"
    uses_memory = False

    def __init__(self, config: KnownConfig, specs: Specs) -> None:
        super().__init__(config, specs)
        self.scale = nn.Parameter(torch.ones(1))

    @classmethod
    def latent_spec(cls, config: KnownConfig) -> LatentSpec:
        return LatentSpec(1)

    def embed(self, obs: Obs) -> Tensor:
        return obs[KEY] * self.scale

    def infer(self, embed: Tensor, memory: Tensor | None, generator: torch.Generator | None) -> Latent:
        return Latent(embed, dist=Normal(embed, torch.full_like(embed, STD)))


@final
class KnownDynamics(Dynamics):
    """The memory is the last z and the last action; the next z is the last one, with a little noise."""

    Config = KnownConfig
    prior_kind = "analytic"

    def __init__(self, config: KnownConfig, specs: Specs) -> None:
        super().__init__(config, specs)
        self.width = specs.action.dim
        self.scale = nn.Parameter(torch.ones(1))

    @classmethod
    def memory_size(cls, config: KnownConfig, latent: LatentSpec, action: ActionSpec) -> int:
        return 1 + action.dim

    def initial(self, n: int) -> State:
        return {"z": torch.zeros(n, 1), "action": torch.zeros(n, self.width)}

    def advance(self, state: State, z: Tensor, action: Tensor) -> State:
        return {"z": z * self.scale, "action": action}

    def memory(self, state: State) -> Tensor:
        return torch.cat([state["z"], state["action"]], -1)

    def predict(self, memory: Tensor) -> Normal:
        mean = memory[:, :1]
        return Normal(mean, torch.full_like(mean, STD))


@final
class KnownDecoder(Decoder):
    """x = z."""

    Config = KnownConfig
    score_kind = "log_density"

    def __init__(self, config: KnownConfig, specs: Specs) -> None:
        super().__init__(config, specs)

    def decode(self, features: Tensor) -> dict[str, Normal]:
        z = features[:, -1:]
        return {KEY: Normal(z, torch.full_like(z, STD))}

    def score(self, features: Tensor, obs: Obs) -> Tensor:
        return self.decode(features)[KEY].log_prob(obs[KEY])


@dataclass(frozen=True)
class Known:
    """A number that is known. mean: [*]."""

    mean: Tensor

    @property
    def mode(self) -> Tensor:
        return self.mean


class KnownReward(nn.Module):
    """Takes the place of the reward head. Features [*, F] hold the z before the action, the action, and z."""

    def __init__(self, action: ActionSpec):
        super().__init__()
        self.action = action

    def forward(self, features: Tensor) -> Known:
        return Known(reward_of(features[..., 0], features[..., 1:-1], self.action))


class KnownContinue(nn.Module):
    """Takes the place of the continue head."""

    def forward(self, features: Tensor) -> Known:
        return Known(torch.full_like(features[..., 0], CONTINUES))


def reward_of(x: Tensor, action: Tensor, spec: ActionSpec) -> Tensor:
    """Return the reward [*] of an action [*, A] taken at x [*]."""
    towards = action[..., 0] - action[..., 1] if spec.kind == "discrete" else action[..., 0]
    return torch.tanh(4 * x) * towards


def known_world(action: ActionSpec) -> WorldModel:
    """Build the world model for an action."""
    obs = ObsSpec(((KEY, ArraySpec("vector", (1,))),))
    specs = Specs(obs, action, LatentSpec(1), KnownDynamics.memory_size(KnownConfig(), LatentSpec(1), action), False)
    config = KnownConfig()
    parts = KnownEncoder(config, specs), KnownDynamics(config, specs), KnownDecoder(config, specs)
    model = WorldModel(specs, *parts, ModelSettings(units=4))
    model.reward, model.cont = KnownReward(action), KnownContinue()  # type: ignore[assignment]
    return model


def starts(n: int, gen: torch.Generator) -> Tensor:
    """Return n values of x, [n, 1]: between 0.5 and 1, with both signs in turn."""
    x = 0.5 + 0.5 * torch.rand(n, 1, generator=gen)
    x[1::2] *= -1
    return x


def known_batch(action: ActionSpec, rows: int, length: int, gen: torch.Generator) -> Batch:
    """Return sequences of random actions in this world, with a reset in the middle of row 0, after a termination."""
    is_first = torch.zeros(rows, length, dtype=torch.bool)
    is_first[:, 0] = True
    is_first[0, length // 2] = True
    x = starts(rows, gen)[:, None].expand(rows, length, 1)
    before = actions(action, (rows, length), gen) * (~is_first)[..., None]
    cont = torch.ones(rows, length)
    cont[0, length // 2 - 1] = 0
    reward = reward_of(x[..., 0], before, action)
    return Batch({KEY: x}, before, reward, cont, is_first, torch.ones(rows, length))
