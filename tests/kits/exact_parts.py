"""The linear-Gaussian system as parts of a world model with nothing to learn: z is the state x, and densities are exact."""

from __future__ import annotations

from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn
from worldlab_envs.linear_gaussian import LinearGaussian

from worldlab.distributions import Normal
from worldlab.interfaces import Batch, Decoder, Dynamics, Encoder, Latent, Obs, State
from worldlab.settings import Config, ModelSettings
from worldlab.specs import ActionSpec, ArraySpec, LatentSpec, ObsSpec, Specs
from worldlab.world_model import WorldModel

ENV = LinearGaussian(2)
A, B = (torch.from_numpy(x.astype(np.float32)) for x in (ENV.A, ENV.B))
Q, R = float(np.sqrt(ENV.Q[0, 0])), float(np.sqrt(ENV.R[0, 0]))
MEMORY = 3
"""The memory: the mean of the prior, and 1 at the first step, whose prior is N(0, I)."""


class NoSettings(Config):
    """No settings."""


@final
class ExactEncoder(Encoder):
    """q(z | y, h): the exact posterior of one step, wider by a factor, so that weights differ."""

    Config = NoSettings
    posterior_kind = "analytic"
    widening = 1.3

    def __init__(self, config: Any, specs: Specs) -> None:
        super().__init__(config, specs)
        self.idle = nn.Parameter(torch.zeros(1))

    @classmethod
    def latent_spec(cls, config: Any) -> LatentSpec:
        return LatentSpec(2, "gaussian")

    def embed(self, obs: Obs) -> Tensor:
        return obs["y"]

    def infer(self, embed: Tensor, memory: Tensor | None, generator: torch.Generator | None) -> Latent:
        assert memory is not None
        prior = prior_of(memory)
        gain = prior.std[:, 0].square() / (prior.std[:, 0].square() + R**2)
        seen = prior.mean[:, 0] + gain * (embed[:, 0] - prior.mean[:, 0])
        mean = torch.stack([seen, prior.mean[:, 1]], 1)
        dist = Normal(mean, self.widening * torch.stack([gain.sqrt() * R, prior.std[:, 1]], 1))
        return Latent(mean if generator is None else dist.sample(generator), dist=dist)


def prior_of(memory: Tensor) -> Normal:
    """The prior N(A x + B u, Q), or N(0, I) at the first step."""
    return Normal(memory[:, :2], torch.where(memory[:, 2:] > 0, 1.0, Q).expand(-1, 2))


@final
class ExactDynamics(Dynamics):
    """x' = A x + B u + noise."""

    Config = NoSettings
    prior_kind = "analytic"

    def __init__(self, config: Any, specs: Specs) -> None:
        super().__init__(config, specs)
        self.idle = nn.Parameter(torch.zeros(1))

    @classmethod
    def memory_size(cls, config: Any, latent: LatentSpec, action: ActionSpec) -> int:
        return MEMORY

    def initial(self, n: int) -> State:
        return {"h": torch.zeros(n, MEMORY), "fresh": torch.ones(n, 1)}

    def advance(self, state: State, z: Tensor, action: Tensor) -> State:
        mean = (z @ A.T + action @ B.T) * (1 - state["fresh"])
        return {"h": torch.cat([mean, state["fresh"]], 1), "fresh": torch.zeros_like(state["fresh"])}

    def memory(self, state: State) -> Tensor:
        return state["h"]

    def predict(self, memory: Tensor) -> Normal:
        return prior_of(memory)


@final
class ExactDecoder(Decoder):
    """y = x_0 + noise."""

    Config = NoSettings
    score_kind = "log_density"

    def __init__(self, config: Any, specs: Specs) -> None:
        super().__init__(config, specs)
        self.idle = nn.Parameter(torch.zeros(1))

    def decode(self, features: Tensor) -> dict[str, Any]:
        mean = features[:, MEMORY : MEMORY + 1]
        return {"y": Normal(mean, torch.full_like(mean, R))}

    def score(self, features: Tensor, obs: Obs) -> Tensor:
        return self.decode(features)["y"].log_prob(obs["y"])


def exact_model(samples: int) -> WorldModel:
    specs = Specs(
        ObsSpec((("y", ArraySpec("vector", (1,))),)), ActionSpec("continuous", 1), LatentSpec(2), MEMORY, True
    )
    parts = (cls(NoSettings(), specs) for cls in (ExactEncoder, ExactDynamics, ExactDecoder))
    return WorldModel(specs, *parts, ModelSettings(units=8, vector_scaling="none", samples=samples))  # type: ignore[arg-type]


def episodes(count: int, length: int, seed: int = 0) -> tuple[Batch, np.ndarray]:
    """Episodes with random actions as a batch, and the exact log p(y_t | y_<t) [count, length]."""
    rng = np.random.default_rng(seed)
    u = rng.uniform(-1, 1, (count, length, 1)).astype(np.float32)
    u[:, 0] = 0
    y, exact = np.empty((count, length, 1), np.float32), np.empty((count, length))
    for n in range(count):
        y[n, 0], _ = ENV.reset(seed=int(rng.integers(2**31)))
        for t in range(1, length):
            y[n, t] = ENV.step(u[n, t])[0]
        exact[n] = ENV.kalman_log_likelihood(y[n], u[n, 1:])
    first = torch.zeros(count, length, dtype=torch.bool)
    first[:, 0] = True
    ones = torch.ones(count, length)
    return Batch({"y": torch.from_numpy(y)}, torch.from_numpy(u), 0 * ones, ones, first, ones), exact
