"""Encoders with one bug each."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from worldlab.distributions import Normal, normal_like
from worldlab.interfaces import Latent
from worldlab.settings import Config
from worldlab.testing.reference import ReferenceEncoder, ReferenceEncoderConfig
from zoo.registry import broken


@broken("E1", "image96")
class Only64(ReferenceEncoder):
    """Has a linear layer sized for 64 x 64 images."""

    def __init__(self, config, specs):
        super().__init__(config, specs)
        if "image" in specs.obs.keys and specs.obs["image"].shape[1] != 16:
            self.fixed = nn.Linear(3 * 64 * 64, self.trunk.size)

    def embed(self, obs):
        return self.fixed(obs["image"].flatten(1)) if hasattr(self, "fixed") else super().embed(obs)


@broken("E2", "influences")
class BatchNormed(ReferenceEncoder):
    """Normalises with the statistics of the batch."""

    def __init__(self, config, specs):
        super().__init__(config, specs)
        self.norm = nn.BatchNorm1d(self.trunk.size)

    def embed(self, obs):
        return self.norm(super().embed(obs))


@broken("E3", "generator=None")
class NoisyMode(ReferenceEncoder):
    """Samples even when generator is None."""

    def infer(self, embed, memory, generator):
        return super().infer(embed, memory, generator or torch.Generator().manual_seed(random.getrandbits(32)))


@broken("E3", "different seeds give the same")
class SeedsItself(ReferenceEncoder):
    """Samples with its own fixed seed."""

    def infer(self, embed, memory, generator):
        return super().infer(embed, memory, None if generator is None else torch.Generator().manual_seed(0))


@broken("P15", "posterior_kind is 'analytical'")
class Misspelt(ReferenceEncoder):
    """Declares an unknown posterior_kind: it would be trained without a KL."""

    posterior_kind = "analytical"


@broken("E11", "the observation 'vector'")
class SeesPicturesOnly(ReferenceEncoder):
    """Ignores the vector when there is an image."""

    def embed(self, obs):
        alone = len(obs) == 1
        return super().embed({key: x if alone or x.dim() == 4 else torch.zeros_like(x) for key, x in obs.items()})


@broken("E4", "does not depend on the memory")
class MemoryDropper(ReferenceEncoder):
    """Declares uses_memory = True and ignores the memory."""

    def infer(self, embed, memory, generator):
        return super().infer(embed, None if memory is None else torch.zeros_like(memory), generator)


@broken("E5", "not reparameterised")
class DetachedSample(ReferenceEncoder):
    """Samples without a gradient, like sample() of torch.distributions."""

    def infer(self, embed, memory, generator):
        latent = super().infer(embed, memory, generator)
        return replace(latent, z=latent.z.detach())


@broken("E6", "not one-hot", kind="categorical")
class SoftCodes(ReferenceEncoder):
    """Returns probabilities although it declares one-hots."""

    def infer(self, embed, memory, generator):
        latent = super().infer(embed, memory, generator)
        return replace(latent, z=latent.dist.probs.flatten(-2))


class Opaque:
    """A distribution that is not a tree of tensors."""

    def __init__(self, dist):
        self.log_prob, self.entropy, self.kl, self.sample = dist.log_prob, dist.entropy, dist.kl, dist.sample
        self.mode = dist.mode


@broken("E7", "no tensors the core can see")
class OpaquePosterior(ReferenceEncoder):
    """Hides its distribution's tensors: stacked over time, it would keep the values of the first step."""

    def infer(self, embed, memory, generator):
        latent = super().infer(embed, memory, generator)
        return replace(latent, dist=Opaque(latent.dist))


@dataclass(frozen=True)
class NoLogStd(Normal):
    """A Gaussian whose log-density lacks its log std."""

    def log_prob(self, x):
        return super().log_prob(x) + self.std.log().sum(-1)


@broken("E8", "log q is too")
class WrongPosteriorDensity(ReferenceEncoder):
    """Returns a density that integrates to the product of its stds."""

    def infer(self, embed, memory, generator):
        latent = super().infer(embed, memory, generator)
        return replace(latent, dist=NoLogStd(latent.dist.mean, latent.dist.std))


@broken("E9", "collapses", kind="point")
class Collapsing(ReferenceEncoder):
    """Pulls the latents of all frames together: a contrastive loss with positives but without negatives."""

    def losses(self, ctx, player="main"):
        z = ctx.latent.z
        return {"positives": 1000 * (z - z.mean((0, 1))).square().sum(-1)} if player == "main" else {}


@broken("E10", "in place")
class InPlace(ReferenceEncoder):
    """Rescales the caller's observations in place."""

    def embed(self, obs):
        for value in obs.values():
            value.mul_(2.0)
        return super().embed(obs)


class LooseConfig(Config):
    """A configuration that accepts unknown keys."""

    model_config: ClassVar = {"extra": "ignore"}


@broken("P1", "unknown key")
class Loose(ReferenceEncoder):
    """Ignores misspelt settings."""

    Config = LooseConfig

    def __init__(self, config, specs):
        super().__init__(ReferenceEncoderConfig(), specs)

    @classmethod
    def latent_spec(cls, config):
        return ReferenceEncoder.latent_spec(ReferenceEncoderConfig())


@broken("P2", "between two builds")
class NumpyInit(ReferenceEncoder):
    """Initialises from numpy, which the core does not seed."""

    def __init__(self, config, specs):
        super().__init__(config, specs)
        with torch.no_grad():
            self.head.bias.copy_(torch.from_numpy(np.random.default_rng().normal(size=self.head.bias.shape)))


@broken("P9", "global random generator")
class GlobalNoise(ReferenceEncoder):
    """Draws its noise from torch's global generator."""

    def infer(self, embed, memory, generator):
        latent = super().infer(embed, memory, generator)
        return latent if generator is None else replace(latent, z=latent.z + 0.1 * torch.randn_like(latent.z))


@broken("P11", "different losses")
class OwnStream(ReferenceEncoder):
    """Draws from a private generator that is never reset."""

    def __init__(self, config, specs):
        super().__init__(config, specs)
        self.own = torch.Generator().manual_seed(0)

    def infer(self, embed, memory, generator):
        latent = super().infer(embed, memory, generator)
        return latent if generator is None else replace(latent, z=latent.z + 0.1 * normal_like(latent.z, self.own))


@broken("P12", "prints")
class Chatty(ReferenceEncoder):
    """Contains a leftover print."""

    def embed(self, obs):
        print("embed", len(obs))
        return super().embed(obs)


@broken("P8", "deepcopy|state_dict")
class WeightOutside(ReferenceEncoder):
    """Keeps a projection in a plain tensor, which is not saved in checkpoints."""

    def __init__(self, config, specs):
        super().__init__(config, specs)
        self.projection = torch.randn(self.trunk.size)

    def embed(self, obs):
        return super().embed(obs) * self.projection


@broken("P13", "bfloat16")
class MixedDtypes(ReferenceEncoder):
    """Interpolates a float32 tensor with a tensor that autocast made bfloat16."""

    def infer(self, embed: Tensor, memory, generator) -> Latent:
        latent = super().infer(embed, memory, generator)
        half = self.head(torch.zeros(len(embed), self.head.in_features))
        return replace(latent, z=torch.lerp(latent.z.float(), half[:, : latent.z.shape[1]], 0.0))


@broken("P14", "one finite number")
class MetricCurve(ReferenceEncoder):
    """Returns a curve as a metric instead of a number."""

    def metrics(self, ctx):
        return {"curve": ctx.latent.z.mean(-1)}


@dataclass(frozen=True)
class HalfEntropy(Normal):
    """A Gaussian that reports half its entropy."""

    def entropy(self):
        return super().entropy() / 2


@broken("E8", "entropy() is")
class WrongEntropy(ReferenceEncoder):
    """Reports a wrong entropy."""

    def infer(self, embed, memory, generator):
        latent = super().infer(embed, memory, generator)
        return replace(latent, dist=HalfEntropy(latent.dist.mean, latent.dist.std))


@broken("P0", "Latent.z is [3, 9], expected [N, D] = [3, 8]")
class WiderThanDeclared(ReferenceEncoder):
    """Returns a latent one entry wider than it declares."""

    def infer(self, embed, memory, generator):
        latent = super().infer(embed, memory, generator)
        return replace(latent, z=torch.cat([latent.z, latent.z[:, :1]], 1))


@broken("P0", "the posterior is a HalfEntropy, the prior a Normal: no closed-form KL: both declare 'analytic'")
class AnalyticOfItsOwnClass(WrongEntropy):
    """Declares a closed form, with a distribution whose KL to the prior nobody knows."""


@broken("E1", "whose numbers are all 0")
class UnitNorm(ReferenceEncoder):
    """Divides each observation by its norm."""

    def embed(self, obs):
        norms = {key: x.flatten(1).norm(dim=1).view(-1, *[1] * (x.dim() - 1)) for key, x in obs.items()}
        return super().embed({key: x / norms[key] for key, x in obs.items()})


@broken("E1", "not finite on")
class Standardised(ReferenceEncoder):
    """Divides each picture by its standard deviation, to which it adds an epsilon too late for the gradient."""

    def __init__(self, config, specs):
        super().__init__(config, specs)
        self.gain = nn.Parameter(torch.ones(()))

    def embed(self, obs):
        def scaled(x):
            x = self.gain * x
            rows = x.flatten(1)
            return ((rows - rows.mean(1, keepdim=True)) / (rows.var(1, keepdim=True).sqrt() + 1e-6)).view_as(x)

        return super().embed({key: scaled(x) if x.dim() == 4 else x for key, x in obs.items()})


class SeedWhereThereIsNone(ReferenceEncoder):
    """Samples with a fixed seed where the most likely z is wanted."""

    def infer(self, embed, memory, generator):
        return super().infer(embed, memory, generator or torch.Generator().manual_seed(0))


for _kind in ("gaussian", "categorical", "point"):
    broken("E12", "a sample with a fixed seed", kind=_kind)(SeedWhereThereIsNone)


@broken("E9", "distinct value(s) on 512 frames before any training", kind="point")
class RoundsAllAway(ReferenceEncoder):
    """Rounds a z whose values are far below one step."""

    def infer(self, embed, memory, generator):
        z = 1e-3 * super().infer(embed, memory, None).z
        return Latent(z + (z.round() - z).detach())
