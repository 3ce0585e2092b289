"""Simplicial normalisation: a deterministic latent of several simplices, the encoder of TD-MPC2."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from worldlab.interfaces import Encoder, Latent, LatentSpec, Obs, Specs
from worldlab.nn import ObsTrunk
from worldlab_cpc.configs import SimNormEncoderConfig


@final
class SimNormEncoder(Encoder):
    """z = [softmax(y_1 / tau), ..., softmax(y_L / tau)], with y = LayerNorm(W trunk(o)) in L groups of V entries.

    Hansen et al. 2023 (TD-MPC2), arXiv:2310.16828, section 3.1; Lavoie et al. 2022, arXiv:2204.00616. Each group is a point of a
    simplex: entries stay in [0, 1] and add up to 1, so z has one scale whatever trains it. It has no loss of its own: the
    rewards and the latents that follow train it through the memory, and a decoder if there is one. It has no noise either,
    so a density of z is bounded by the dynamics' smallest std alone. Deviation: the trunk is that of our other encoders.
    """

    Config = SimNormEncoderConfig
    posterior_kind = "deterministic"
    uses_memory = False

    def __init__(self, config: SimNormEncoderConfig, specs: Specs) -> None:
        super().__init__(config, specs)
        self.shape = (config.groups, config.corners)
        self.temperature = config.temperature
        self.trunk = ObsTrunk(specs.obs, config.width, config.units, config.layers)
        outputs = config.groups * config.corners
        self.linear = nn.Sequential(nn.Linear(self.trunk.size, outputs), nn.LayerNorm(outputs))

    @classmethod
    def latent_spec(cls, config: SimNormEncoderConfig) -> LatentSpec:
        return LatentSpec(config.groups * config.corners, "point")

    def embed(self, obs: Obs) -> Tensor:
        """Return z of each frame, [N, D]. obs: [N, ...] leaves."""
        y = self.linear(self.trunk(obs)).unflatten(-1, self.shape)
        return torch.softmax(y / self.temperature, -1).flatten(-2)

    def infer(self, embed: Tensor, memory: Tensor | None, generator: torch.Generator | None) -> Latent:
        """Return z [N, D]; there is no noise, and memory is not read."""
        return Latent(embed)
