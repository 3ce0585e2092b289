"""Small worlds for the tests of the variational family."""

from __future__ import annotations

import torch
from config_kit import configured
from family_kit import gen as gen
from torch import Tensor
from worldlab_vae.configs import VAEDecoderConfig, VAEDynamicsConfig, VAEEncoderConfig
from worldlab_vae.decoder import VAEDecoder
from worldlab_vae.dynamics import VAEDynamics
from worldlab_vae.encoder import VAEEncoder

from worldlab.settings import ModelSettings
from worldlab.specs import ActionSpec, ArraySpec, LatentSpec, ObsSpec, Specs
from worldlab.world_model import WorldModel

IMAGE = ("image", ArraySpec("image", (3, 16, 16)))
VECTOR = ("vector", ArraySpec("vector", (4,)))


def make_specs(obs=(VECTOR,), latent: LatentSpec | None = None, memory: int = 8, use_memory: bool = True) -> Specs:
    return Specs(ObsSpec(tuple(obs)), ActionSpec("continuous", 2), latent or LatentSpec(4), memory, use_memory)


def build_model(
    settings: ModelSettings | None = None, *, latent: str = "gaussian", obs=(VECTOR,), likelihood: str = "mse"
) -> WorldModel:
    """A toy vae x 3 that reads the memory."""
    torch.manual_seed(0)
    encoder = configured(
        VAEEncoderConfig, latent=latent, latent_dim=4, groups=2, classes=3, width=4, units=16, layers=1
    )
    dynamics = VAEDynamicsConfig(memory=8, units=16)
    decoder = configured(VAEDecoderConfig, likelihood=likelihood, width=4, units=16, layers=1)
    specs = make_specs(obs, VAEEncoder.latent_spec(encoder))
    parts = (VAEEncoder(encoder, specs), VAEDynamics(dynamics, specs), VAEDecoder(decoder, specs))
    return WorldModel(specs, *parts, settings or ModelSettings(units=16))


def mean_and_error(samples: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over rows and its standard error."""
    return samples.mean(0), samples.std(0) / len(samples) ** 0.5


def grad_sum(parameters) -> float:
    """Sum of absolute gradients; None counts as 0."""
    return sum(p.grad.abs().sum().item() for p in parameters if p.grad is not None)
