"""Dynamics with one bug each, seen in a single step or a short rollout."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from worldlab.distributions import Normal, OneHot
from worldlab.interfaces import Player
from worldlab.testing.reference import ReferenceDynamics, ReferenceDynamicsConfig
from zoo.animals import broken
from zoo.encoders import NoLogStd, Opaque


@broken("D1", "rows of initial")
class UnequalStart(ReferenceDynamics):
    """Starts each row elsewhere."""

    def initial(self, n):
        return {"h": torch.linspace(0, 1, n)[:, None].expand(n, self.width).clone()}


@broken("D2", "you mix rows of the batch")
class BatchLeakyTransformer(ReferenceDynamics):
    """Attends over dim 0, which is the batch and not time: batch_first was forgotten."""

    def __init__(self, config, specs):
        super().__init__(config, specs)
        self.attention = nn.MultiheadAttention(config.memory, 2)

    def advance(self, state, z, action):
        h = super().advance(state, z, action)["h"][:, None]  # [N, 1, H], read as [time, batch, H]
        return {"h": (h + self.attention(h, h, h, need_weights=False)[0])[:, 0]}


@broken("D3", "picked or repeated rows")
class RowNumber(ReferenceDynamics):
    """Adds something that depends on the row's place in the batch."""

    def advance(self, state, z, action):
        return {"h": super().advance(state, z, action)["h"] + 0.1 * torch.arange(len(z))[:, None]}


@broken("D4", "in place")
class CacheInPlace(ReferenceDynamics):
    """Writes the new memory into the caller's state."""

    def advance(self, state, z, action):
        state["h"].copy_(super().advance(state, z, action)["h"].detach())
        return {"h": state["h"] + 0}


@broken("D5", "leaks over resets")
@broken("T2", "what came before the reset")
class HiddenState(ReferenceDynamics):
    """Keeps its real memory in the module, where no reset reaches it."""

    hidden: torch.Tensor | None = None

    def advance(self, state, z, action):
        own = state["h"] if self.hidden is None or self.hidden.shape != state["h"].shape else self.hidden
        after = super().advance({"h": own + 0.1 * state["h"]}, z, action)
        self.hidden = after["h"].detach()
        return after


@broken("D6", "['c'] is never read")
class DroppedCell(ReferenceDynamics):
    """An LSTM whose cell is returned and never read again."""

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
    """Ignores what was done."""

    def advance(self, state, z, action):
        return super().advance(state, z, torch.zeros_like(action))


@dataclass(frozen=True)
class DetachedNormal(Normal):
    """A Gaussian whose samples carry no gradient."""

    def sample(self, generator):
        return super().sample(generator).detach()


@broken("D8", "do not carry gradients")
class FalsePathwise(ReferenceDynamics):
    """Claims reparameterised samples and detaches them."""

    def predict(self, memory):
        dist = super().predict(memory)
        return DetachedNormal(dist.mean, dist.std)


@broken("D9", "does not cut")
class OpaquePrior(ReferenceDynamics):
    """Its prior cannot be detached: the encoder's loss would train the dynamics."""

    def predict(self, memory):
        return Opaque(super().predict(memory))


@broken("D10", "integrates to")
class WrongPriorDensity(ReferenceDynamics):
    """Left the log std out of its log-density."""

    def predict(self, memory):
        dist = super().predict(memory)
        return NoLogStd(dist.mean, dist.std)


@dataclass(frozen=True)
class GlobalNormal(Normal):
    """A Gaussian that samples from torch's global stream."""

    def sample(self, generator):
        return self.mean + self.std * torch.randn_like(self.mean)


@broken("D11", "two samples with one seed")
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


@broken("P3", "nobody optimises")
class Orphan(ReferenceDynamics):
    """Forgets its head when it lists its parameters."""

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
    """Maximises the likelihood of the next latent itself and does not stop it: the latent dies, and the loss looks excellent."""

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


@broken("D10", "not as likely as log_prob says")
class AveragesDimensions(ReferenceDynamics):
    """Averages log p over the dimensions of z; on one dimension nobody would see it."""

    def predict(self, memory):
        dist = super().predict(memory)
        return MeanLogProb(dist.mean, dist.std) if isinstance(dist, Normal) else dist


@dataclass(frozen=True)
class TwoTogether:
    """Either all numbers are high or all are low; scored as if each chose for itself."""

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


@broken("D10", "log_prob scores each alone")
class JointScoredAlone(ReferenceDynamics):
    """Draws one component for all of z, and sums a mixture over each number; on one dimension the two are the same."""

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
    """Miscounts its entropy."""

    def predict(self, memory):
        dist = super().predict(memory)
        return HalfEntropy(dist.mean, dist.std) if isinstance(dist, Normal) else dist


@dataclass(frozen=True)
class GlobalCodes(OneHot):
    """Codes drawn from torch's global stream."""

    def sample(self, generator):
        return super().sample(torch.Generator().manual_seed(int(torch.randint(2**31, ()))))


@broken("D11", "two samples with one seed")
class UnseededCodes(ReferenceDynamics):
    """Ignores the generator for codes only."""

    def predict(self, memory):
        dist = super().predict(memory)
        return GlobalCodes(dist.logits) if isinstance(dist, OneHot) else dist


@dataclass(frozen=True)
class OneSeed(Normal):
    """A Gaussian with a seed of its own."""

    def sample(self, generator):
        return super().sample(torch.Generator().manual_seed(0))


@broken("D11", "samples of two seeds are the same")
class SeedsItself(ReferenceDynamics):
    """Every dream is the same dream."""

    def predict(self, memory):
        dist = super().predict(memory)
        return OneSeed(dist.mean, dist.std) if isinstance(dist, Normal) else dist


@broken("D1", "although the weights are elsewhere")
class OnTheCpu(ReferenceDynamics):
    """Allocates its state where it was written, not where it runs."""

    def initial(self, n):
        return {"h": torch.zeros(n, self.width)}


@broken("P16", "cannot be multiplied")
class UnchainedLayers(ReferenceDynamics):
    """Its layers do not fit together; with one of them nobody would see it."""

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
    """Its memory is the module's, not the state's."""

    def advance(self, state, z, action):
        self.last = super().advance(state, z, action)
        return self.last

    def memory(self, state):
        return (
            super().memory(self.last)
            if hasattr(self, "last") and len(self.last["h"]) == len(state["h"])
            else state["h"]
        )
