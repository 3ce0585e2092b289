"""Models and environments with known outputs, as inputs for the measures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from worldlab_envs.linear_gaussian import LinearGaussian

from worldlab.distributions import Normal
from worldlab.interfaces import Decoder, Dynamics, Encoder, Latent
from worldlab.settings import Config, ModelSettings
from worldlab.specs import ActionSpec, ArraySpec, LatentSpec, ObsSpec, Specs
from worldlab.study.measures.measured_model import MeasuredModel
from worldlab.study.measures.recording import Recording, record
from worldlab.study.measures.sample_sizes import QUICK, SampleSizes
from worldlab.world_model import WorldModel

TINY = replace(QUICK, supervised_updates=100, probe_epochs=30)


class _Part:
    """The contract's members that these parts do not use."""

    Config = Config

    def setup(self) -> None:
        self.weight = nn.Parameter(torch.zeros(()))


class GivenEncoder(_Part, Encoder):
    """Infers the point z = read(obs)."""

    posterior_kind = "deterministic"
    uses_memory = False

    def __init__(self, read: Callable[[dict[str, Tensor]], Tensor]):
        nn.Module.__init__(self)
        self.setup()
        self.read = read

    @classmethod
    def latent_spec(cls, config: Any) -> LatentSpec:
        raise NotImplementedError

    def embed(self, obs: dict[str, Tensor]) -> Tensor:
        return self.read(obs)

    def infer(self, embed: Tensor, memory: Tensor | None, generator: torch.Generator | None) -> Latent:
        return Latent(embed)


class GivenDynamics(_Part, Dynamics):
    """Advances by h = step(z, action) and predicts p(z | h) = forecast(h). memory: the width of h."""

    prior_kind = "log_prob"

    def __init__(self, memory: int, step: Callable[[Tensor, Tensor], Tensor], forecast: Callable[[Tensor], Any]):
        nn.Module.__init__(self)
        self.setup()
        self.width, self.step, self.forecast = memory, step, forecast

    @classmethod
    def memory_size(cls, config: Any, latent: LatentSpec, action: ActionSpec) -> int:
        raise NotImplementedError

    def initial(self, n: int) -> dict[str, Tensor]:
        return {"h": torch.zeros(n, self.width)}

    def advance(self, state: dict[str, Tensor], z: Tensor, action: Tensor) -> dict[str, Tensor]:
        return {"h": self.step(z, action)}

    def memory(self, state: dict[str, Tensor]) -> Tensor:
        return state["h"]

    def predict(self, memory: Tensor) -> Any:
        return self.forecast(memory)


class GivenDecoder(_Part, Decoder):
    """Decodes with draw(features), which returns a distribution by observation key."""

    score_kind = "log_density"

    def __init__(self, draw: Callable[[Tensor], dict[str, Any]]):
        nn.Module.__init__(self)
        self.setup()
        self.draw = draw

    def decode(self, features: Tensor) -> dict[str, Any]:
        return self.draw(features)

    def score(self, features: Tensor, obs: dict[str, Tensor]) -> Tensor:
        return torch.zeros(len(features))


def build_given_model(
    obs: ObsSpec, action: ActionSpec, latent: int, encoder: Encoder, dynamics: Any, decoder: Decoder | None = None
) -> WorldModel:
    specs = Specs(obs, action, LatentSpec(latent, "point"), dynamics.width, False)
    settings = ModelSettings(units=4, vector_scaling="none")
    return WorldModel(specs, encoder, dynamics, decoder or GivenDecoder(lambda features: {}), settings).eval()


def make_subject(model: WorldModel, recording: Recording, sizes: SampleSizes = TINY, **fields: Any) -> MeasuredModel:
    unset = dict.fromkeys(("build_untrained", "make_env", "make_agent"), unused)
    return MeasuredModel(model, recording, **{**unset, "sizes": sizes, **fields})


def unused(*args: object) -> Any:
    raise AssertionError("this test does not use it")


# ---- a fully observed linear-Gaussian system ----


class FullyObserved(LinearGaussian):
    """LinearGaussian that observes its whole state without noise."""

    def __init__(self, **settings: Any):
        super().__init__(**settings)
        box = spaces.Box(-np.inf, np.inf, (len(self._x),), np.float32)
        self.observation_space = spaces.Dict({"vector": box})

    def _observe(self) -> Any:
        return {"vector": self._x.astype(np.float32)}


def build_true_model(env: LinearGaussian, std: float | None = None) -> WorldModel:
    """Build the true model: z = x, h = A x + B u, p(z | h) = N(h, Q). std: replaces the true std of the noise."""
    A, B = (torch.from_numpy(matrix).float() for matrix in (env.A, env.B))
    scale = float(env.Q[0, 0] ** 0.5) if std is None else std
    dim, actions = B.shape
    obs = ObsSpec((("vector", ArraySpec("vector", (dim,))),))
    dynamics = GivenDynamics(dim, lambda z, u: z @ A.T + u @ B.T, lambda h: Normal(h, torch.full_like(h, scale)))
    encoder = GivenEncoder(lambda obs: obs["vector"])
    return build_given_model(obs, ActionSpec("continuous", actions), dim, encoder, dynamics)


def record_fully_observed(episodes: int = 20, length: int = 40, **settings: Any) -> Recording:
    make: Callable[[], gymnasium.Env] = lambda: FullyObserved(**settings)  # noqa: E731
    return record(make, None, episodes=episodes, length=length, seed=0)


class Short(gymnasium.Env):
    """Observes the number of steps; the n-th episode ends after n + 1 steps: odd ones are truncated, even ones
    terminate."""

    observation_space = spaces.Dict({"vector": spaces.Box(-np.inf, np.inf, (1,), np.float32)})
    action_space = spaces.Discrete(3)
    episode = -1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.episode = 0, self.episode + 1
        return self._obs(), {}

    def step(self, action):
        self.t += 1
        over = self.t == self.episode + 1
        return self._obs(), 7.0, over and self.episode % 2 == 0, over and self.episode % 2 == 1, {}

    def _obs(self):
        return {"vector": np.array([self.t], np.float32)}
