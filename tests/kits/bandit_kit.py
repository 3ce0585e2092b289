"""A dream whose best action is known."""

from __future__ import annotations

import torch
from torch import Tensor

from worldlab.agent import Experience
from worldlab.rollout import Carry
from worldlab.specs import ActionSpec, LatentSpec, ObsSpec, Specs

DISCRETE, CONTINUOUS = ActionSpec("discrete", 3), ActionSpec("continuous", 1)


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def specs_for(action: ActionSpec) -> Specs:
    return Specs(ObsSpec(()), action, LatentSpec(1), 1, False)


class Bandit:
    """A dream in which nothing moves: reward 1 for the last choice of a discrete action, or 1 - (a - 0.5)^2."""

    device = torch.device("cpu")
    dynamics = None  # no ensemble

    def __init__(self, action: ActionSpec):
        self.specs = specs_for(action)

    def features(self, carry: Carry) -> Tensor:
        return torch.cat([carry.z, carry.z], -1)

    def step(self, carry, action, generator, temperature=1.0):
        last = action[:, -1]
        reward = last if self.specs.action.kind == "discrete" else 1 - (last - 0.5).square()
        return carry, self.features(carry), reward, torch.ones_like(reward)


def experience(n: int = 8) -> Experience:
    return Experience(Carry({}, torch.linspace(-1, 1, n)[:, None]), torch.zeros(n), torch.ones(n))
