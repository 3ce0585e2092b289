"""Worlds whose dynamics is known exactly, behind the part of the WorldModel facade that planners use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from worldlab_envs.linear_gaussian import LinearGaussian

from worldlab import tree
from worldlab.distributions import normal_like
from worldlab.specs import ActionSpec, ArraySpec, LatentSpec, ObsSpec, Specs
from worldlab.world_model import Dream


def specs_for(dim: int, action: ActionSpec) -> Specs:
    obs = ObsSpec((("x", ArraySpec("vector", (dim,))),))
    return Specs(obs, action, LatentSpec(dim, "point"), 0, False)


@dataclass
class TrueLinear:
    """The linear-Gaussian system as a world model that sees its state: features = z = x."""

    env: LinearGaussian

    def __post_init__(self) -> None:
        m = self.env.B.shape[1]
        self.specs = specs_for(len(self.env.A), ActionSpec("continuous", m))
        self.A, self.B, self.W, self.U = (
            torch.from_numpy(np.asarray(x, np.float32)) for x in (self.env.A, self.env.B, self.env.W, self.env.U)
        )
        self.std = float(np.sqrt(self.env.Q[0, 0]))

    def fork(self, carry, count):
        return tree.repeat(carry, count)

    def imagine(self, carry: Any, policy: Any, horizon: int, generator: torch.Generator | None) -> Dream:
        x, features, actions, rewards = carry.z, [carry.z], [], []
        for k in range(horizon):
            u = policy[:, k] if isinstance(policy, Tensor) else policy(x)
            x = x @ self.A.T + u @ self.B.T
            if generator is not None:
                x = x + self.std * normal_like(x, generator)
            rewards.append(-((x @ self.W) * x).sum(-1) - ((u @ self.U) * u).sum(-1))
            features.append(x)
            actions.append(u)
        reward = torch.stack(rewards, 1)
        return Dream(torch.stack(features, 1), torch.stack(actions, 1), reward, torch.ones_like(reward))


@dataclass
class Lock:
    """A combination lock: state k is left only by the action code[k], which pays 1; any other pays 0 and leads back to 0."""

    code: tuple[int, ...]
    choices: int = 4

    def __post_init__(self) -> None:
        self.specs = specs_for(len(self.code) + 1, ActionSpec("discrete", self.choices))

    def fork(self, carry, count):
        return tree.repeat(carry, count)

    def imagine(self, carry: Any, policy: Any, horizon: int, generator: torch.Generator | None) -> Dream:
        code = torch.tensor([*self.code, -1])
        state = carry.z.argmax(-1)
        size = len(code)
        features, actions, rewards = [carry.z], [], []
        for k in range(horizon):
            action = policy[:, k] if isinstance(policy, Tensor) else policy(features[-1])
            right = action.argmax(-1) == code[state]
            state = torch.where(right, state + 1, 0)
            rewards.append(right.float())
            features.append(torch.eye(size)[state])
            actions.append(action)
        reward = torch.stack(rewards, 1)
        return Dream(torch.stack(features, 1), torch.stack(actions, 1), reward, torch.ones_like(reward))
