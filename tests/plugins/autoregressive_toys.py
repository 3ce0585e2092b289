"""Small worlds for the tests of the autoregressive family: specs, parts and contexts."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn
from worldlab_autoregressive.configs import AutoregressiveDecoderConfig, AutoregressiveDynamicsConfig
from worldlab_autoregressive.decoder import AutoregressiveDecoder
from worldlab_autoregressive.dynamics import AutoregressiveDynamics

from worldlab.specs import ActionSpec, ArraySpec, LatentSpec, ObsSpec, Specs

IMAGE = ("image", ArraySpec("image", (3, 8, 8)))
VECTOR = ("state", ArraySpec("vector", (4,)))
GAUSSIAN = LatentSpec(6)
CODES = LatentSpec(12, "categorical", 4, 3)


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_specs(latent: LatentSpec = GAUSSIAN, memory: int = 16, obs=(VECTOR,)) -> Specs:
    return Specs(ObsSpec(tuple(obs)), ActionSpec("continuous", 2), latent, memory, False)


def dynamics(latent: LatentSpec = GAUSSIAN, seed: int = 0, **config: Any) -> AutoregressiveDynamics:
    torch.manual_seed(seed)
    settings: dict[str, Any] = {"memory": 16, "heads": 2, "layers": 2, "context": 5, "units": 16} | config
    return AutoregressiveDynamics(AutoregressiveDynamicsConfig(**settings), make_specs(latent, settings["memory"]))


def decoder(obs=(IMAGE,), **config: Any) -> AutoregressiveDecoder:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"channels": 6, "condition_channels": 3, "width": 2, "units": 24, "mixtures": 3} | config
    return AutoregressiveDecoder(AutoregressiveDecoderConfig(**settings), make_specs(obs=obs))


def noisy(module: nn.Module, std: float = 0.3) -> nn.Module:
    """Move every weight, so that nothing is hidden by a 0 or by symmetry of the initial values."""
    with torch.no_grad():
        for p in module.parameters():
            p.add_(std * torch.randn(p.shape, generator=gen(3), dtype=p.dtype))
    return module


def all_codes(groups: int, classes: int) -> Tensor:
    """Every combination of codes as flat one-hots, [classes ** groups, groups * classes]."""
    index = torch.tensor(list(itertools.product(range(classes), repeat=groups)))
    return torch.nn.functional.one_hot(index, classes).float().flatten(1)
