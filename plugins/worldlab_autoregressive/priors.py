"""The priors that dynamics of this family share: of a whole z, and of one block of it."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from worldlab.distributions import OneHot
from worldlab.nn import mlp
from worldlab.specs import LatentSpec
from worldlab_autoregressive.codes import CodeDistribution, CodeNet
from worldlab_autoregressive.configs import AutoregressiveDynamicsConfig, WaveNetDynamicsConfig
from worldlab_autoregressive.mixtures import GaussianMixture, spread_means


class PriorHead(nn.Module):
    """Maps the memory h [N, H] to p(z | h), whose log_prob is exact: a mixture for a real z, `CodeNet` for codes.

    mixture "joint": one mixture over the whole of a real z; "factorised": one for each entry.
    """

    def __init__(self, config: AutoregressiveDynamicsConfig | WaveNetDynamicsConfig, latent: LatentSpec):
        super().__init__()
        self.config, self.latent = config, latent
        self.blocks = 1 if config.mixture == "joint" else latent.dim
        if latent.kind == "categorical":
            self.net = CodeNet(config.memory, latent.groups, latent.classes, config.code_units, config.unimix)
            return
        outputs = config.components * (self.blocks + 2 * latent.dim)
        self.net = mlp(config.memory, config.units, config.head_layers, outputs)
        bias: Any = self.net[-1].bias
        spread_means(bias, self.blocks * config.components, latent.dim * config.components)

    def forward(self, memory: Tensor) -> GaussianMixture | CodeDistribution:
        if isinstance(self.net, CodeNet):
            return CodeDistribution(memory, self.net)
        k, dim = self.config.components, self.latent.dim
        weights, mean, raw = self.net(memory).split([self.blocks * k, k * dim, k * dim], -1)
        shape = (self.blocks, k, dim // self.blocks)
        mean, raw = mean.unflatten(-1, shape), raw.unflatten(-1, shape)
        return GaussianMixture.from_outputs(weights.unflatten(-1, shape[:2]), mean, raw, self.config.min_std)


def block_conditional(out: Tensor, coded: bool, unimix: float, min_std: float) -> GaussianMixture | OneHot:
    """Return the distribution of one block from network outputs [*, outputs]; its samples are [*, width].

    coded: logits of the classes of one code. Otherwise the weights, means and raw stds of a mixture for one real entry.
    """
    if coded:
        return OneHot.with_unimix(out[..., None, :], unimix)
    weights, mean, raw = (part[..., None, :] for part in out.chunk(3, -1))
    return GaussianMixture.from_outputs(weights, mean[..., None], raw[..., None], min_std)


def blocks_of(latent: LatentSpec) -> tuple[int, int]:
    """Return the number and the width of the blocks of z: codes as one-hots, or single real entries."""
    return (latent.groups, latent.classes) if latent.kind == "categorical" else (latent.dim, 1)
