"""Small worlds for the tests of the contrastive family: specs, random batches, and data whose truth is known."""

from __future__ import annotations

import math

import torch
from config_kit import configured
from family_kit import gen as gen
from family_kit import make_batch as make_batch
from torch import Tensor
from worldlab_cpc.configs import CPCDecoderConfig, CPCDynamicsConfig, CPCEncoderConfig
from worldlab_cpc.decoder import CPCDecoder
from worldlab_cpc.dynamics import CPCDynamics
from worldlab_cpc.encoder import CPCEncoder

from worldlab.interfaces import Batch, Context, Latent
from worldlab.settings import ModelSettings
from worldlab.specs import ActionSpec, ArraySpec, LatentSpec, ObsSpec, Specs
from worldlab.world_model import WorldModel

IMAGE = ("image", ArraySpec("image", (3, 16, 16)))
VECTOR = ("state", ArraySpec("vector", (5,)))


def make_specs(latent: int = 8, memory: int = 16, action: int = 3, obs=(VECTOR,), kind="point") -> Specs:
    return Specs(ObsSpec(tuple(obs)), ActionSpec("continuous", action), LatentSpec(latent, kind), memory, False)


def vector_specs(n: int, **rest) -> Specs:
    return make_specs(obs=(("state", ArraySpec("vector", (n,))),), **rest)


def small_model(specs: Specs, settings: ModelSettings | None = None, **dynamics) -> WorldModel:
    encoder = configured(CPCEncoderConfig, latent_dim=specs.latent.dim, width=4, units=16, layers=1, static_frames=16)
    memory = configured(CPCDynamicsConfig, memory=specs.memory_dim, units=16, projection=8, **dynamics)
    decoder = configured(CPCDecoderConfig, projection=8, width=4, units=16, layers=1)
    return WorldModel(
        specs,
        CPCEncoder(encoder, specs),
        CPCDynamics(memory, specs),
        CPCDecoder(decoder, specs),
        settings or ModelSettings(units=16),
    )


def frames_context(features: Tensor, obs: dict[str, Tensor]) -> Context:
    """M unrelated frames as a decoder sees them: features [M, F], obs [M, ...] leaves."""
    m = len(features)
    zero = torch.zeros(m, 1)
    batch = Batch(
        {key: leaf[:, None] for key, leaf in obs.items()}, zero[..., None], zero, zero, zero.bool(), torch.ones(m, 1)
    )
    row, time = torch.arange(m)[:, None], torch.zeros(m, 1, dtype=torch.long)
    z = features[:, None]
    return Context(batch, z, z[..., :0], Latent(z), z, None, row, time, gen())


def gaussian_pair(rho: float, n: int, dim: int, seed: int) -> tuple[Tensor, Tensor]:
    """x, y [n, dim], each standard normal, correlated by rho entry by entry."""
    g = gen(seed)
    x = torch.randn(n, dim, generator=g)
    return x, rho * x + math.sqrt(1 - rho**2) * torch.randn(n, dim, generator=g)


def gaussian_log_ratio(rho: float, x: Tensor, y: Tensor) -> Tensor:
    """log p(y | x) / p(y) of such a pair, any broadcastable [..., dim] -> [...]."""
    var = 1 - rho**2
    return (-((y - rho * x) ** 2) / (2 * var) + y**2 / 2 - 0.5 * math.log(var)).sum(-1)


def mutual_information(rho: float, dim: int) -> float:
    return -0.5 * dim * math.log(1 - rho**2)
