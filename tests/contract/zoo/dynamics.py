"""Dynamics with one bug each that shows in a single step or a short rollout."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from worldlab.distributions import Normal, OneHot
from worldlab.errors import ConfigError
from worldlab.interfaces import Player
from worldlab.testing.reference import ReferenceDynamics, ReferenceDynamicsConfig, ReferenceParallelDynamics
from zoo.encoders import NoLogStd, Opaque
from zoo.registry import broken


@broken("D1", "rows of initial")
class UnequalStart(ReferenceDynamics):
    """Starts each row from a different state."""

    def initial(self, n):
        return {"h": torch.linspace(0, 1, n)[:, None].expand(n, self.width).clone()}


@broken("D2", "rows of the batch are mixed")
class BatchLeakyTransformer(ReferenceDynamics):
    """Attends over dim 0, the batch instead of time: batch_first is missing."""

    def __init__(self, config, specs):
        super().__init__(config, specs)
        self.attention = nn.MultiheadAttention(config.memory, 2)

    def advance(self, state, z, action):
        h = super().advance(state, z, action)["h"][:, None]  # [N, 1, H], read as [time, batch, H]
        return {"h": (h + self.attention(h, h, h, need_weights=False)[0])[:, 0]}


@broken("D3", "selected or repeated rows")
class RowNumber(ReferenceDynamics):
    """Adds the row's position in the batch to the memory."""

    def advance(self, state, z, action):
        return {"h": super().advance(state, z, action)["h"] + 0.1 * torch.arange(len(z))[:, None]}


@broken("D4", "in place")
class CacheInPlace(ReferenceDynamics):
    """Writes the new memory into the caller's state."""

    def advance(self, state, z, action):
        state["h"].copy_(super().advance(state, z, action)["h"].detach())
        return {"h": state["h"] + 0}


@broken("D5", "leaks over resets")
@broken("T2", "inputs before a reset")
class HiddenState(ReferenceDynamics):
    """Keeps its memory in the module, where no reset reaches it."""

    hidden: torch.Tensor | None = None

    def advance(self, state, z, action):
        own = state["h"] if self.hidden is None or self.hidden.shape != state["h"].shape else self.hidden
        after = super().advance({"h": own + 0.1 * state["h"]}, z, action)
        self.hidden = after["h"].detach()
        return after


@broken("D6", "['c'] is never read")
class DroppedCell(ReferenceDynamics):
    """An LSTM whose cell state is returned and never read."""

    def __init__(self, config, specs):
        super().__init__(config, specs)
        self.cell = nn.LSTMCell(specs.latent.dim + specs.action.dim, config.memory)

    def initial(self, n):
        return {"h": torch.zeros(n, self.width), "c": torch.zeros(n, self.width)}

    def advance(self, state, z, action):
        h, c = self.cell(torch.cat([z, action], -1), (state["h"], torch.zeros_like(state["c"])))
        return {"h": h, "c": c}


@broken("D7", "action")
class ActionBlind(ReferenceDynamics):
    """Ignores the action."""

    def advance(self, state, z, action):
        return super().advance(state, z, torch.zeros_like(action))


@dataclass(frozen=True)
class DetachedNormal(Normal):
    """A Gaussian whose samples carry no gradient."""

    def sample(self, generator):
        return super().sample(generator).detach()


@broken("D8", "do not carry gradients")
class FalsePathwise(ReferenceDynamics):
    """Declares reparameterised samples and detaches them."""

    def predict(self, memory):
        dist = super().predict(memory)
        return DetachedNormal(dist.mean, dist.std)


@broken("D9", "does not cut")
class OpaquePrior(ReferenceDynamics):
    """Has a prior that cannot be detached: the encoder's loss would train the dynamics."""

    def predict(self, memory):
        return Opaque(super().predict(memory))


@broken("D10", "integrates to")
class WrongPriorDensity(ReferenceDynamics):
    """Has a log-density without the log std."""

    def predict(self, memory):
        dist = super().predict(memory)
        return NoLogStd(dist.mean, dist.std)


@dataclass(frozen=True)
class GlobalNormal(Normal):
    """A Gaussian that samples from torch's global generator."""

    def sample(self, generator):
        return self.mean + self.std * torch.randn_like(self.mean)


@broken("D11", "two samples with the same seed")
class Unseeded(ReferenceDynamics):
    """Ignores the generator that sample() is given."""

    def predict(self, memory):
        dist = super().predict(memory)
        return GlobalNormal(dist.mean, dist.std)


@broken("T1", "forgets")
class Forgetful(ReferenceDynamics):
    """Ignores its state: a world model without memory."""

    def advance(self, state, z, action):
        return super().advance({"h": 0 * state["h"]}, z, action)


@broken("P3", "no player optimises")
class Orphan(ReferenceDynamics):
    """Does not list its head in players()."""

    def players(self):
        return {"main": Player(list(self.cell.parameters()))}


@broken("P4", "never gets a gradient")
class DeadBranch(ReferenceDynamics):
    """Has a layer that no output depends on."""

    def __init__(self, config, specs):
        super().__init__(config, specs)
        self.unused = nn.Linear(3, 3)


@broken("P6", "10x")
class Exploding(ReferenceDynamics):
    """Exponentiates an unbounded output."""

    def advance(self, state, z, action):
        return {"h": torch.exp(super().advance(state, 50 * z, action)["h"] * z.abs().sum(-1, keepdim=True) ** 2)}


@broken("D12", "train the latents they predict")
class UnstoppedLikelihood(ReferenceDynamics):
    """Maximises the likelihood of the next latent without a stop-gradient, so that the latent collapses."""

    def losses(self, ctx, player="main"):
        if player != "main":
            return {}
        prior = self.predict(ctx.memory.flatten(0, 1))
        return {"next": -prior.log_prob(ctx.latent.z.flatten(0, 1)).unflatten(0, ctx.row.shape)}


@dataclass(frozen=True)
class MeanLogProb(Normal):
    """A Gaussian whose log-density is averaged over its dimensions."""

    def log_prob(self, x):
        return super().log_prob(x) / x.shape[-1]


@broken("D10", "log_prob is too high")
class AveragesDimensions(ReferenceDynamics):
    """Averages log p over the dimensions of z; with one dimension the bug would not show."""

    def predict(self, memory):
        dist = super().predict(memory)
        return MeanLogProb(dist.mean, dist.std) if isinstance(dist, Normal) else dist


@dataclass(frozen=True)
class TwoTogether:
    """A joint mixture in which all entries are high or all are low, scored as a product of marginals."""

    mean: torch.Tensor
    std: torch.Tensor

    @property
    def mode(self):
        return self.mean + self.std

    def sample(self, generator):
        side = torch.rand(self.mean.shape[:-1], generator=generator).lt(0.5).float()[..., None] * 2 - 1
        return self.mean + self.std * (side + torch.randn(self.mean.shape, generator=generator))

    def log_prob(self, x):
        sides = [torch.distributions.Normal(self.mean + s * self.std, self.std).log_prob(x) for s in (-1, 1)]
        return (torch.logaddexp(*sides) - torch.log(torch.tensor(2.0))).sum(-1)

    def detach(self):
        return TwoTogether(self.mean.detach(), self.std.detach())


@broken("D10", "log_prob scores them as independent")
class JointScoredAlone(ReferenceDynamics):
    """Samples one component for all of z but scores a mixture per entry; with one dimension both are the same."""

    prior_kind = "log_prob"

    def predict(self, memory):
        dist = super().predict(memory)
        return TwoTogether(dist.mean, dist.std) if isinstance(dist, Normal) else dist


@dataclass(frozen=True)
class HalfEntropy(Normal):
    """A Gaussian that reports half its entropy."""

    def entropy(self):
        return super().entropy() / 2


@broken("D10", "entropy() is")
class WrongEntropy(ReferenceDynamics):
    """Reports a wrong entropy."""

    def predict(self, memory):
        dist = super().predict(memory)
        return HalfEntropy(dist.mean, dist.std) if isinstance(dist, Normal) else dist


@dataclass(frozen=True)
class GlobalCodes(OneHot):
    """A categorical distribution that samples from torch's global generator."""

    def sample(self, generator):
        return super().sample(torch.Generator().manual_seed(int(torch.randint(2**31, ()))))


@broken("D11", "two samples with the same seed")
class UnseededCodes(ReferenceDynamics):
    """Ignores the generator for categorical latents only."""

    def predict(self, memory):
        dist = super().predict(memory)
        return GlobalCodes(dist.logits) if isinstance(dist, OneHot) else dist


@dataclass(frozen=True)
class OneSeed(Normal):
    """A Gaussian that samples with its own fixed seed."""

    def sample(self, generator):
        return super().sample(torch.Generator().manual_seed(0))


@broken("D11", "samples with different seeds are the same")
class SeedsItself(ReferenceDynamics):
    """Samples the same noise every time."""

    def predict(self, memory):
        dist = super().predict(memory)
        return OneSeed(dist.mean, dist.std) if isinstance(dist, Normal) else dist


@broken("D1", "although the weights are on another device")
class OnTheCpu(ReferenceDynamics):
    """Allocates its state on the CPU instead of the device of the weights."""

    def initial(self, n):
        return {"h": torch.zeros(n, self.width)}


@broken("P16", "cannot be multiplied")
class UnchainedLayers(ReferenceDynamics):
    """Has layers whose sizes do not match; with one layer the bug would not show."""

    class Config(ReferenceDynamicsConfig):
        layers: int = 2

    def __init__(self, config, specs):
        super().__init__(config, specs)
        self.stack = nn.ModuleList([nn.Linear(config.memory + 3 * i, config.memory) for i in range(config.layers)])

    def memory(self, state):
        h = super().memory(state)
        for layer in self.stack:
            h = layer(h)
        return h


@broken("D5", "hidden state in the module")
class ReadsItself(ReferenceDynamics):
    """Reads its memory from the module instead of the state."""

    def advance(self, state, z, action):
        self.last = super().advance(state, z, action)
        return self.last

    def memory(self, state):
        return (
            super().memory(self.last)
            if hasattr(self, "last") and len(self.last["h"]) == len(state["h"])
            else state["h"]
        )


@dataclass(frozen=True)
class Mixture:
    """A mixture of Gaussians over whole vectors, scored as if each entry had a mixture of its own."""

    logits: torch.Tensor
    mean: torch.Tensor
    std: torch.Tensor

    @property
    def mode(self):
        return self.mean[torch.arange(len(self.mean)), self.logits.argmax(-1)]

    def sample(self, generator):
        which = torch.multinomial(self.logits.exp(), 1, generator=generator)[:, 0]
        chosen = self.mean[torch.arange(len(which)), which]
        return chosen + self.std * torch.randn(chosen.shape, generator=generator)

    def log_prob(self, x):
        each = -0.5 * ((x[:, None] - self.mean) / self.std).square() - self.std.log() - 0.5 * math.log(2 * math.pi)
        return torch.logsumexp(self.logits[..., None] + each, 1).sum(-1)


@broken("D10", "scores them as independent")
class FactorisedMixture(ReferenceDynamics):
    """Scores a joint mixture as factorised; its untrained components nearly coincide."""

    prior_kind = "log_prob"
    reparameterised = True

    def __init__(self, config, specs):
        super().__init__(config, specs)
        if specs.latent.kind == "categorical":
            raise ConfigError("real numbers only")
        self.split = nn.Linear(config.memory, 4 * (1 + specs.latent.dim))
        with torch.no_grad():
            self.split.weight.mul_(0.05)

    def predict(self, memory):
        out = self.split(memory)
        return Mixture(out[:, :4].log_softmax(-1), out[:, 4:].unflatten(-1, (4, -1)), torch.full((1, 1), 0.7)[0])


def shifted(by: float) -> type:
    """Return a Gaussian whose mode is off by a number."""

    @dataclass(frozen=True)
    class ShiftedMode(Normal):
        @property
        def mode(self):
            return self.mean + by

    return ShiftedMode


FAR, NEAR = shifted(3.0), shifted(0.2)


@broken("D13", "below that of most samples")
class FarMode(ReferenceDynamics):
    """Has a mode 3 beside its samples."""

    prior_kind = "log_prob"

    def predict(self, memory):
        dist = super().predict(memory)
        return FAR(dist.mean, dist.std) if isinstance(dist, Normal) else dist


@broken("D13", "beside the mean of the samples")
class NearMode(ReferenceDynamics):
    """Has a mode 0.2 beside its samples."""

    prior_kind = "log_prob"

    def predict(self, memory):
        dist = super().predict(memory)
        return NEAR(dist.mean, dist.std) if isinstance(dist, Normal) else dist


@dataclass(frozen=True)
class RarestMode(OneHot):
    """A categorical distribution whose mode is the least likely class."""

    @property
    def mode(self):
        return OneHot(-self.logits).mode


@broken("D13", "below that of most samples")
class RarestCode(ReferenceDynamics):
    """Returns the least likely codes as the most likely ones."""

    prior_kind = "log_prob"

    def predict(self, memory):
        dist = super().predict(memory)
        return RarestMode(dist.logits * 1.0) if isinstance(dist, OneHot) else dist


@dataclass(frozen=True)
class OneTemperature(Normal):
    """A Gaussian that ignores its temperature."""

    def tempered(self, temperature):
        return self


@broken("D14", "they should grow")
class Lukewarm(ReferenceDynamics):
    """Has a prior that ignores its temperature."""

    def predict(self, memory):
        dist = super().predict(memory)
        return OneTemperature(dist.mean, dist.std) if isinstance(dist, Normal) else dist


@broken("P0", "advance_sequence gives a Tensor, expected an Unrolled")
class NotUnrolled(ReferenceParallelDynamics):
    """Returns the memories alone from its parallel pass."""

    def advance_sequence(self, state, z, action, is_first):
        return super().advance_sequence(state, z, action, is_first).memory
