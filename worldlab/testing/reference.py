"""Small, correct components: the partners in the checks of a component, and the shortest example of each role."""

from __future__ import annotations

from typing import Any, Literal, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldlab.distributions import Normal, OneHot, normal_like
from worldlab.interfaces import Context, Decoder, Dynamics, Encoder, Latent, Obs, State, Unrolled
from worldlab.nn import ObsHead, ObsTrunk
from worldlab.settings import Config, field
from worldlab.specs import ActionSpec, LatentSpec, Specs
from worldlab.tree import flatten_time


class ReferenceEncoderConfig(Config):
    """A one-layer posterior."""

    kind: Literal["gaussian", "categorical", "point"] = "gaussian"
    """Kind of latent."""
    latent_dim: int = field(8, gt=0)
    """Width of a gaussian or point latent."""
    groups: int = field(2, gt=0)
    """Number of categorical variables."""
    classes: int = field(4, gt=1)
    """Classes per categorical variable."""


def latent_distribution(out: Tensor, latent: LatentSpec) -> Normal | OneHot:
    """Return network outputs [N, D or 2 D] as a distribution of the latent's kind."""
    if latent.kind == "categorical":
        return OneHot.with_unimix(out.unflatten(-1, (latent.groups, latent.classes)), 0.01)
    mean, raw = out.chunk(2, -1)
    return Normal(mean, F.softplus(raw) + 0.1)


def _outputs(latent: LatentSpec) -> int:
    return latent.dim if latent.kind == "categorical" else 2 * latent.dim


@final
class ReferenceEncoder(Encoder):
    """A linear posterior on an ObsTrunk; a point latent is the mean plus Gaussian channel noise with std 0.1."""

    Config = ReferenceEncoderConfig
    posterior_kind = "analytic"

    def __init__(self, config: ReferenceEncoderConfig, specs: Specs) -> None:
        super().__init__(config, specs)
        self.latent = specs.latent
        if config.kind == "point":
            self.posterior_kind = "deterministic"
        self.trunk = ObsTrunk(specs.obs, width=4, units=16, layers=1)
        inputs = self.trunk.size + (specs.memory_dim if specs.use_memory else 0)
        self.head = nn.Linear(inputs, _outputs(specs.latent) // (2 if config.kind == "point" else 1))

    @classmethod
    def latent_spec(cls, config: ReferenceEncoderConfig) -> LatentSpec:
        if config.kind == "categorical":
            return LatentSpec(config.groups * config.classes, "categorical", config.groups, config.classes)
        return LatentSpec(config.latent_dim, config.kind)

    def embed(self, obs: Obs) -> Tensor:
        return self.trunk(obs)

    def infer(self, embed: Tensor, memory: Tensor | None, generator: torch.Generator | None) -> Latent:
        out = self.head(embed if memory is None else torch.cat([embed, memory], -1))
        if self.latent.kind == "point":
            return Latent(out if generator is None else out + 0.1 * normal_like(out, generator))
        dist = latent_distribution(out, self.latent)
        return Latent(dist.mode if generator is None else dist.sample(generator), dist=dist)


class ReferenceDynamicsConfig(Config):
    """A gated recurrent memory."""

    memory: int = field(16, gt=0)
    """Width H of the memory."""


@final
class ReferenceDynamics(Dynamics):
    """h' = h + gate (tanh(...) - h), a minimal gated unit, with a linear prior of the latent's kind."""

    Config = ReferenceDynamicsConfig
    prior_kind = "analytic"

    def __init__(self, config: ReferenceDynamicsConfig, specs: Specs) -> None:
        super().__init__(config, specs)
        self.latent = specs.latent
        self.width = config.memory
        self.cell = nn.Linear(specs.latent.dim + specs.action.dim + config.memory, 2 * config.memory)
        self.head = nn.Linear(config.memory, _outputs(specs.latent))

    @classmethod
    def memory_size(cls, config: ReferenceDynamicsConfig, latent: LatentSpec, action: ActionSpec) -> int:
        return config.memory

    def initial(self, n: int) -> State:
        return {"h": torch.zeros(n, self.width, device=self.device)}

    def advance(self, state: State, z: Tensor, action: Tensor) -> State:
        candidate, gate = self.cell(torch.cat([z, action, state["h"]], -1)).chunk(2, -1)
        # h stays float32 under autocast, because a bfloat16 recurrence would round slow changes to 0.
        return {"h": state["h"] + torch.sigmoid(gate) * (torch.tanh(candidate) - state["h"])}

    def memory(self, state: State) -> Tensor:
        return state["h"]

    def predict(self, memory: Tensor) -> Normal | OneHot:
        return latent_distribution(self.head(memory), self.latent)


@final
class ReferenceParallelDynamics(Dynamics):
    """h' = decay h + W (z, a), memory = tanh(h). It is linear in h, so one masked product computes a sequence."""

    Config = ReferenceDynamicsConfig
    prior_kind = "analytic"

    def __init__(self, config: ReferenceDynamicsConfig, specs: Specs) -> None:
        super().__init__(config, specs)
        self.latent = specs.latent
        self.inputs = nn.Linear(specs.latent.dim + specs.action.dim, config.memory)
        self.head = nn.Linear(config.memory, _outputs(specs.latent))
        self.register_buffer("decay", torch.linspace(0.5, 0.95, config.memory))

    @classmethod
    def memory_size(cls, config: ReferenceDynamicsConfig, latent: LatentSpec, action: ActionSpec) -> int:
        return config.memory

    def initial(self, n: int) -> State:
        return {"h": torch.zeros(n, len(self.get_buffer("decay")), device=self.device)}

    def advance(self, state: State, z: Tensor, action: Tensor) -> State:
        return {"h": self.get_buffer("decay") * state["h"] + self.inputs(torch.cat([z, action], -1))}

    def advance_sequence(self, state: State, z: Tensor, action: Tensor, is_first: Tensor) -> Unrolled:
        """Compute h_t = sum of decay^(t - s) x_s over s <= t with no reset in (s, t]; the initial state is s = -1."""
        x = torch.cat([state["h"][:, None], self.inputs(torch.cat([z, action], -1))], 1)  # [B, 1 + T, H]
        time = torch.arange(x.shape[1], device=x.device)
        lag = (time[:, None] - time).clamp(min=0)
        weight = self.get_buffer("decay") ** lag[..., None] * self.mask(is_first)[..., None]  # [B, 1 + T, 1 + T, H]
        h = torch.einsum("btsh,bsh->bth", weight, x)[:, 1:]
        return Unrolled(torch.tanh(h), {"h": h[:, -1]}, lambda row, t: {"h": h[row, t]})

    def mask(self, is_first: Tensor) -> Tensor:
        """Return whether step t reads step s: s <= t, same episode. is_first [B, T] -> bool [B, 1 + T, 1 + T]."""
        episode = torch.cat([torch.zeros_like(is_first[:, :1]), is_first], 1).cumsum(1)
        return (episode[:, :, None] == episode[:, None]).tril()

    def memory(self, state: State) -> Tensor:
        return torch.tanh(state["h"])

    def predict(self, memory: Tensor) -> Normal | OneHot:
        return latent_distribution(self.head(memory), self.latent)


class ReferenceDecoderConfig(Config):
    """A configuration without settings."""


@final
class ReferenceDecoder(Decoder):
    """A Gaussian of unit variance around the output of an ObsHead."""

    Config = ReferenceDecoderConfig
    score_kind = "log_density"

    def __init__(self, config: ReferenceDecoderConfig, specs: Specs) -> None:
        super().__init__(config, specs)
        self.net = ObsHead(specs.obs, specs.feature_dim, width=4, units=16, layers=1)

    def decode(self, features: Tensor) -> dict[str, Any]:
        return {key: Normal(mean, torch.ones_like(mean)) for key, mean in self.net(features).items()}

    def score(self, features: Tensor, obs: Obs) -> Tensor:
        parts = self.decode(features)
        # Normal sums over the last dimension only; an image has two more.
        return torch.stack(
            [
                dist.log_prob(obs[key]).flatten(1).sum(1) if obs[key].dim() > 2 else dist.log_prob(obs[key])
                for key, dist in parts.items()
            ]
        ).sum(0)

    def losses(self, ctx: Context, player: str = "main") -> dict[str, Tensor]:
        if player != "main":
            return {}
        score = self.score(ctx.features.flatten(0, 1), flatten_time(ctx.batch.obs))
        return {"reconstruction": -score.unflatten(0, ctx.features.shape[:2])}
