"""The encoder q(z | o) infers the latent from an observation. o: observation, z: latent."""

from __future__ import annotations

from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from worldlab.interfaces import Encoder, Latent, LatentSpec, Obs, Specs
from worldlab.nn import ObsTrunk

from worldlab_parts.configs import FSQConfig

GAIN = 4.0
"""Factor of the numbers before the tanh: rounding hides differences between frames that are small beside a level."""


@final
class FSQEncoder(Encoder):
    """Finite scalar quantisation: G numbers, each rounded to one of L levels. Mentzer et al. 2023, arXiv:2309.15505.

    z is the one-hot of each level, as categorical dynamics expect. Unlike in the paper, a sample is rounded up or down at
    random, so that its mean is the number itself; the gradient is that of this mean, the two neighbours' shares.
    """

    Config = FSQConfig
    posterior_kind = "deterministic"  # a point and noise of fixed size: no density
    uses_memory = False

    def __init__(self, config: FSQConfig, specs: Specs) -> None:
        super().__init__(config, specs)
        self.config = config
        self.trunk = ObsTrunk(specs.obs, config.width, config.units, layers=2)
        self.head = nn.Linear(self.trunk.size, config.codes)

    @classmethod
    def latent_spec(cls, config: FSQConfig) -> LatentSpec:
        """Return G groups of L classes."""
        return LatentSpec(config.codes * config.levels, "categorical", config.codes, config.levels)

    def embed(self, obs: Obs) -> Tensor:
        """Return an embedding [N, E] of each frame. obs: {key: [N, ...]}, images in [-0.5, 0.5]."""
        return self.trunk(obs)

    def infer(self, embed: Tensor, memory: Tensor | None, generator: torch.Generator | None) -> Latent:
        """Return the codes of each frame. embed [N, E]. generator: None rounds to the nearest level."""
        place = self.place(embed)
        shift = 0.0 if generator is None else torch.empty_like(place).uniform_(-0.5, 0.5, generator=generator)
        tokens = (place + shift).round().long().clamp(0, self.config.levels - 1)
        onehot = F.one_hot(tokens, self.config.levels).to(place.dtype)
        levels = torch.arange(self.config.levels, device=place.device)
        share = (1 - (place[..., None] - levels).abs()).clamp(min=0)  # [N, G, L], the mean of the one-hot of a sample
        return Latent((onehot + (share - share.detach())).flatten(1), tokens=tokens)

    def place(self, embed: Tensor) -> Tensor:
        """Return the numbers that are rounded, [N, G], from 0 to L - 1."""
        return (torch.tanh(GAIN * self.head(embed)) + 1) * (self.config.levels - 1) / 2
