"""The variational posterior."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from worldlab.interfaces import Encoder, Latent, Obs
from worldlab.nn import ConvTrunk, ObsTrunk
from worldlab.specs import LatentSpec, Specs
from worldlab_vae.configs import VAEEncoderConfig
from worldlab_vae.heads import LatentHead
from worldlab_vae.plain import PlainConvTrunk


@final
class VAEEncoder(Encoder):
    """A reparameterised posterior q(z | o, h). Kingma & Welling 2013, arXiv:1312.6114, section 2.3.

    With memory it is the filtering posterior of an RSSM (arXiv:1811.04551, section 2). Categorical latents are
    straight-through with unimix (arXiv:2301.04104, section 3).
    """

    Config = VAEEncoderConfig
    posterior_kind = "analytic"

    def __init__(self, config: VAEEncoderConfig, specs: Specs) -> None:
        super().__init__(config, specs)
        conv = PlainConvTrunk if config.network == "plain" else ConvTrunk
        self.trunk = ObsTrunk(specs.obs, config.width, config.units, config.layers, conv)
        inputs = self.trunk.size + (specs.memory_dim if specs.use_memory else 0)
        self.head = LatentHead(inputs, config.units, specs.latent, config.unimix, config.min_std, config.head_layers)

    @classmethod
    def latent_spec(cls, config: VAEEncoderConfig) -> LatentSpec:
        if config.latent == "categorical":
            return LatentSpec(config.groups * config.classes, "categorical", config.groups, config.classes)
        return LatentSpec(config.latent_dim, "gaussian")

    def embed(self, obs: Obs) -> Tensor:
        return self.trunk(obs)

    def infer(self, embed: Tensor, memory: Tensor | None, generator: torch.Generator | None) -> Latent:
        dist = self.head(embed if memory is None else torch.cat([embed, memory], -1))
        return Latent(dist.mode if generator is None else dist.sample(generator), dist=dist)
