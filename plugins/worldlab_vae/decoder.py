"""The factorised decoder."""

from __future__ import annotations

import math
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldlab import tree
from worldlab.distributions import Normal
from worldlab.errors import ConfigError
from worldlab.interfaces import Context, Decoder, Obs
from worldlab.nn import DeconvTrunk, ObsHead
from worldlab.specs import Specs
from worldlab_vae.configs import VAEDecoderConfig
from worldlab_vae.likelihoods import DiscretizedLogistic, FixedNormal
from worldlab_vae.plain import PlainDeconvTrunk


@final
class VAEDecoder(Decoder):
    """A factorised likelihood p(o | h, z) = prod_i p(o_i | h, z). Kingma & Welling 2013, arXiv:1312.6114, section 3.

    likelihood "mse" is DreamerV3's squared error; "learned" fits the scale and gives bits per dimension.
    """

    Config = VAEDecoderConfig
    score_kind = "log_density"

    def __init__(self, config: VAEDecoderConfig, specs: Specs) -> None:
        super().__init__(config, specs)
        self.learned = config.likelihood == "learned"
        self.frames = config.frames
        # A model whose decoder does not read the memory has zeros there, so weights for them would be useless.
        self.skip = 0 if specs.decoder_memory else specs.memory_dim
        deconv = PlainDeconvTrunk if config.network == "plain" else DeconvTrunk
        inputs = specs.feature_dim - self.skip
        self.net = ObsHead(specs.obs, inputs, config.width, config.units, config.layers, deconv)
        self.register_buffer("std", torch.tensor(config.std))
        if self.learned and not specs.obs.vectors:
            self.likelihood = "exact"
        if self.learned:
            start = math.log(math.expm1(0.1))  # softplus(start) = 0.1 of the observation's scale
            self.raw_scale = nn.ParameterDict(
                {
                    key: nn.Parameter(torch.full((spec.shape[0], 1, 1) if spec.kind == "image" else spec.shape, start))
                    for key, spec in specs.obs.entries
                }
            )

    def decode(self, features: Tensor) -> dict:
        return {key: self._distribution(key, mean) for key, mean in self.net(features[:, self.skip :]).items()}

    def _distribution(self, key: str, mean: Tensor):
        if not self.learned:
            return FixedNormal(mean, self.get_buffer("std"))
        scale = F.softplus(self.raw_scale[key]) + 1e-4
        return DiscretizedLogistic(mean, scale) if mean.dim() == 4 else Normal(mean, scale.expand_as(mean))

    def score(self, features: Tensor, obs: Obs) -> Tensor:
        """Return log p(o | features) in nats: exact for vectors and for "learned" images, a density for "mse"
        images.
        """
        return torch.stack([dist.log_prob(obs[key]) for key, dist in self.decode(features).items()]).sum(0)

    def log_mass(self, features: Tensor, obs: Obs, generator: torch.Generator) -> Tensor:
        """Return log P of the 256 grey levels, [N] in nats; exact. Raises: ConfigError unless scales are "learned" and
        all observations are images.
        """
        if self.likelihood != "exact":
            raise ConfigError(
                "this decoder defines no probability of images", fix="--decoder.likelihood learned, with images only"
            )
        return self.score(features, obs)

    def losses(self, ctx: Context, player: str = "main") -> dict[str, Tensor]:
        if player != "main":
            return {}
        obs = tree.flatten_time(ctx.batch.obs)
        out = {}
        for key, dist in self.decode(ctx.features.flatten(0, 1)).items():
            # The constant of a fixed std is left out, since it cannot be learned.
            term = dist.distortion(obs[key]) if isinstance(dist, FixedNormal) else -dist.log_prob(obs[key])
            out[key] = term.unflatten(0, ctx.features.shape[:2])
        return out
