"""Decoders with one bug each, including adversarial decoders that leak gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from worldlab.distributions import Normal
from worldlab.errors import ConfigError
from worldlab.interfaces import Player
from worldlab.testing.reference import ReferenceDecoder
from worldlab.tree import flatten_time
from zoo.registry import broken


@broken("C1", "renders = True")
class MissingKey(ReferenceDecoder):
    """Decodes only one observation key."""

    def decode(self, features):
        return {"image": next(iter(super().decode(features).values()))}


@broken("C2", "rows of the batch are mixed")
class BatchNormed(ReferenceDecoder):
    """Normalises features with the statistics of the batch."""

    def __init__(self, config, specs):
        super().__init__(config, specs)
        self.norm = nn.BatchNorm1d(specs.feature_dim)

    def decode(self, features):
        return super().decode(self.norm(features))


@broken("C3", "score has shape")
class MeanScore(ReferenceDecoder):
    """Averages its score over the batch."""

    def score(self, features, obs):
        return super().score(features, obs).mean()


@broken("C4", "ignores the latent")
class LatentBlind(ReferenceDecoder):
    """Decodes observations from the memory alone, so that the latent can collapse."""

    def __init__(self, config, specs):
        super().__init__(config, specs)
        self.memory_dim = specs.memory_dim

    def decode(self, features):
        mask = torch.arange(features.shape[-1]) < self.memory_dim
        return super().decode(features * mask)


@broken("C4", "when it decodes 'image'")
class BlindPictures(ReferenceDecoder):
    """Decodes images without the features; the vector depends on all of them."""

    def decode(self, features):
        blind = super().decode(torch.zeros_like(features))
        return {key: blind[key] if key == "image" else dist for key, dist in super().decode(features).items()}


@broken("C5", "selected frames")
class NeedsNeighbours(ReferenceDecoder):
    """Compares each frame with the one before it in its row."""

    def losses(self, ctx, player="main"):
        return {name: term[:, 1:] if term.shape[1] == 1 else term for name, term in super().losses(ctx, player).items()}


@broken("C6", "above another")
class FlippedSign(ReferenceDecoder):
    """Its score falls as its losses fall."""

    def score(self, features, obs):
        return -super().score(features, obs)

    def losses(self, ctx, player="main"):
        return {name: -term for name, term in super().losses(ctx, player).items()}


@dataclass(frozen=True)
class FlatSamples(Normal):
    """A Gaussian that samples images as flat vectors."""

    def sample(self, generator):
        return super().sample(generator).flatten(1)


@broken("C7", "a sample of")
class FlatPictures(ReferenceDecoder):
    """Has samples of a different shape than the observations."""

    def decode(self, features):
        return {key: FlatSamples(d.mean, d.std) for key, d in super().decode(features).items()}


@broken("C9", "there is no log_mass")
class EmptyPromise(ReferenceDecoder):
    """Declares a likelihood without a log_mass."""

    likelihood = "exact"


@broken("C9", "no probability exceeds 1")
class DensityForMass(ReferenceDecoder):
    """Returns a density instead of a probability."""

    likelihood = "exact"

    def log_mass(self, features, obs, generator):
        return -100 * self.score(features, obs)


@broken("C7", "in place")
class ScalesPictures(ReferenceDecoder):
    """Clamps the caller's observations in place before scoring them."""

    def score(self, features, obs):
        for value in obs.values():
            value.clamp_(-0.4, 0.4)
        return super().score(features, obs)


@broken("C8", "do not follow score")
class SeesItsSuccessor(ReferenceDecoder):
    """Has a reversed mask: the score of an entry depends on the next entry, which is sampled later."""

    def score(self, features, obs):
        noise = [(obs[key] - mean).flatten(1) for key, mean in self.net(features).items()]
        noise = [x - 0.9 * nn.functional.pad(x[:, 1:], (0, 1)) for x in noise]
        return torch.stack([Normal(torch.zeros_like(x), torch.ones_like(x)).log_prob(x) for x in noise]).sum(0)


@broken("C8", "integrates to")
class NoLogDeterminant(ReferenceDecoder):
    """Rescales observations before scoring them, without the log-determinant."""

    def decode(self, features):
        return {key: Normal(d.mean, d.std / 2) for key, d in super().decode(features).items()}

    def score(self, features, obs):
        noise = [2 * (obs[key] - mean).flatten(1) for key, mean in self.net(features).items()]
        return torch.stack([Normal(torch.zeros_like(x), torch.ones_like(x)).log_prob(x) for x in noise]).sum(0)


@broken("P5", "not [B, T]")
class ScalarLoss(ReferenceDecoder):
    """Averages its loss, so that masks and weights cannot be applied."""

    def losses(self, ctx, player="main"):
        return {name: term.mean() for name, term in super().losses(ctx, player).items()}


@broken("P10", "the batch|the context")
class ShiftsTargets(ReferenceDecoder):
    """Modifies its target in place, so that later components get different images."""

    def losses(self, ctx, player="main"):
        if player == "main":
            for value in ctx.batch.obs.values():
                value.add_(0.1)
        return super().losses(ctx, player)


class Adversarial(ReferenceDecoder):
    """A correct decoder with a critic of vectors."""

    def __init__(self, config, specs):
        super().__init__(config, specs)
        if "vector" not in specs.obs.keys:
            raise ConfigError("the critic needs vectors")
        # No bias: it cancels between real and fake.
        self.critic = nn.Linear(specs.obs["vector"].shape[0], 1, bias=False)

    def players(self):
        critic = Player(list(self.critic.parameters()), betas=(0.0, 0.999))
        return {"main": Player(list(self.net.parameters())), "critic": critic}

    def fake(self, ctx):
        """Return the vectors that the decoder generates."""
        return self.decode(ctx.features.flatten(0, 1))["vector"].mode

    def losses(self, ctx, player="main"):
        if player not in ("main", "critic"):
            return {}
        rows = ctx.features.shape[0]
        if player == "critic":
            real = self.critic(flatten_time(ctx.batch.obs)["vector"]).unflatten(0, (rows, -1))[..., 0]
            fake = self.critic(self.fake(ctx).detach()).unflatten(0, (rows, -1))[..., 0]
            return {"critic": nn.functional.softplus(fake - real)}
        fooled = self.critic(self.fake(ctx)).unflatten(0, (rows, -1))[..., 0]
        return {**super().losses(ctx, player), "fool": -fooled}


@broken("P7", "the critic leaks into main")
class CriticLeaks(Adversarial):
    """Runs the generator inside the critic's loss without a detach."""

    def losses(self, ctx, player="main"):
        terms = super().losses(ctx, player)
        if player == "critic":
            terms["critic"] = terms["critic"] + self.critic(self.fake(ctx))[..., 0].unflatten(0, terms["critic"].shape)
        return terms


@broken("P7", "a player it does not have")
class AnyPlayer(ReferenceDecoder):
    """Ignores `player`: the critic of another component would be trained by its losses."""

    def losses(self, ctx, player="main"):
        return super().losses(ctx, "main")


@broken("P3", "is in main and in critic")
class SharedParameter(Adversarial):
    """Lists its generator under both players."""

    def players(self):
        return {"main": Player(list(self.net.parameters())), "critic": Player(list(self.parameters()))}


@broken("P3", 'no "main"')
class NamelessPlayer(ReferenceDecoder):
    """Has no player named "main"."""

    def players(self):
        return {"generator": Player(list(self.net.parameters()))}


@broken("P5", "not {name: tensor [B, T]}")
class ForgottenReturn(ReferenceDecoder):
    """Computes its losses but does not return them."""

    def losses(self, ctx, player="main"):
        super().losses(ctx, player)


@broken("P0", "decode gives a list")
class ListOfParts(ReferenceDecoder):
    """Decodes a list in place of a dict."""

    def decode(self, features):
        return list(super().decode(features).values())


@broken("C3", "whose numbers are all 0")
class UnitNormTargets(ReferenceDecoder):
    """Divides the observation by its norm before it scores it."""

    def score(self, features, obs):
        norms = {key: x.flatten(1).norm(dim=1).view(-1, *[1] * (x.dim() - 1)) for key, x in obs.items()}
        return super().score(features, {key: x / norms[key] for key, x in obs.items()})


@dataclass(frozen=True)
class Laplace:
    """A Laplace distribution of scale 0.3 around each entry, with a probability of each grey level."""

    mean: torch.Tensor
    beside: float = 0.0
    SCALE = 0.3

    @property
    def mode(self):
        return self.mean + self.beside

    def sample(self, generator):
        noise = torch.empty(2, *self.mean.shape).exponential_(generator=generator)
        return self.mean + self.SCALE * (noise[0] - noise[1])

    def log_prob(self, x):
        each = -(x - self.mean).abs() / self.SCALE - math.log(2 * self.SCALE)
        return each.flatten(1).sum(1)

    def cdf(self, x):
        scaled = ((x - self.mean) / self.SCALE).double()
        return torch.where(scaled < 0, 0.5 * scaled.exp(), 1 - 0.5 * (-scaled).exp())

    def log_mass(self, x, half: float = 1 / 510):
        """Return log P of grey levels of half-width `half`; the outer levels hold the tails."""
        above = torch.where(x > 0.5 - 1e-4, 1.0, self.cdf(x + half))
        below = torch.where(x < -0.5 + 1e-4, 0.0, self.cdf(x - half))
        return (above - below).clamp(min=1e-30).log().flatten(1).sum(1).float()


class LaplaceDecoder(ReferenceDecoder):
    """A correct Laplace decoder with an exact log_mass."""

    likelihood = "exact"
    beside = 0.0

    def decode(self, features):
        return {key: Laplace(mean, self.beside) for key, mean in self.net(features).items()}

    def score(self, features, obs):
        return torch.stack([dist.log_prob(obs[key]) for key, dist in self.decode(features).items()]).sum(0)

    def log_mass(self, features, obs, generator):
        return self.decode(features)["image"].log_mass(obs["image"])


@broken("C10", "sum to 0.626")
class MassLessThirty(LaplaceDecoder):
    """Has a log_mass that is 30 nats too small."""

    def log_mass(self, features, obs, generator):
        return super().log_mass(features, obs, generator) - 30


@broken("C10", "sum to 1.66")
class WideLevels(LaplaceDecoder):
    """Has levels of twice their width."""

    def log_mass(self, features, obs, generator):
        return self.decode(features)["image"].log_mass(obs["image"], half=1 / 255)


@broken("C10", "sum to 165")
class DensityOfLevels(LaplaceDecoder):
    """Returns the log-density in place of the log of a probability; it is below 0 at this scale."""

    def log_mass(self, features, obs, generator):
        return self.score(features, obs)


@broken("C10", "sum to 0.")
class NoTails(LaplaceDecoder):
    """Leaves out the tails beyond the outer levels."""

    def log_mass(self, features, obs, generator):
        dist, x = self.decode(features)["image"], obs["image"]
        return (dist.cdf(x + 1 / 510) - dist.cdf(x - 1 / 510)).log().flatten(1).sum(1).float()


class Dequantised(LaplaceDecoder):
    """A correct bound: the density at a random place in each level, times the level's width."""

    likelihood = "bound"

    def log_mass(self, features, obs, generator):
        image = obs["image"]
        noise = (torch.rand(image.shape, generator=generator) - 0.5) / 255
        return self.decode(features)["image"].log_prob(image + noise) - image[0].numel() * math.log(255)


@broken("C10", "where the score says")
class BoundOfDensity(Dequantised):
    """Forgets the width of a level in its bound."""

    def log_mass(self, features, obs, generator):
        return super().log_mass(features, obs, generator) + obs["image"][0].numel() * math.log(255)


@broken("C10", "where the score says")
class BoundLessThirty(Dequantised):
    """Has a bound that is 30 nats too small."""

    def log_mass(self, features, obs, generator):
        return super().log_mass(features, obs, generator) - 30


class Coupled(LaplaceDecoder):
    """A correct exact log_mass of dependent pixels: the first pixel decides on which of two sides all others are."""

    def log_prob(self, features, obs, of):
        mean = self.net(features)["image"]
        side = 0.2 * (obs["image"][:, :, :1, :1] > 0).float()
        first = torch.zeros_like(mean)
        first[:, :, 0, 0] = 1
        return of(Laplace(mean + side * (1 - first)), obs["image"])

    def decode(self, features):
        return {}

    renders = False

    def score(self, features, obs):
        if "image" not in obs or len(obs) > 1:
            raise ConfigError("one picture only")
        return self.log_prob(features, obs, Laplace.log_prob)

    def log_mass(self, features, obs, generator):
        return self.log_prob(features, obs, Laplace.log_mass)


@broken("C10", "where the score says")
class CoupledLessThirty(Coupled):
    """Has an exact log_mass of dependent pixels that is 30 nats too small."""

    def log_mass(self, features, obs, generator):
        return super().log_mass(features, obs, generator) - 30


@broken("C11", "below that of most samples")
class FarMode(LaplaceDecoder):
    """Has a mode 2 beside its samples."""

    beside = 2.0


@broken("C11", "beside the mean of the samples")
class NearMode(LaplaceDecoder):
    """Has a mode 0.2 beside its samples."""

    beside = 0.2
