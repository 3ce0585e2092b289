"""An autoregressive density of a vector's entries: p(o | s) = prod_i p(o_i | o_<i, s)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from zuko.nn import MaskedMLP

from worldlab.nn import mlp
from worldlab_autoregressive.mixtures import GaussianMixture, spread_means


def masked_net(blocks: int, width: int, context: int, outputs: int, units: int, layers: int) -> MaskedMLP:
    """Build a masked network (MADE, Germain et al. 2015, arXiv:1502.03509) over blocks of a vector.

    Inputs [N, blocks * width + context]; outputs [N, outputs * blocks]. Those of block i, at o * blocks + i, depend on the
    blocks before i and on the context.
    """
    before = torch.ones(blocks, blocks, dtype=torch.bool).tril(-1).repeat_interleave(width, 1)
    adjacency: Any = torch.cat([before, torch.ones(blocks, context, dtype=torch.bool)], 1).repeat(outputs, 1)
    # No LayerNorm inside, since it would mix blocks that the masks separate.
    return MaskedMLP(adjacency, [units] * layers, activation=nn.SiLU)


class EntryNet(nn.Module):
    """A masked network (`masked_net`) with a mixture of Gaussians for each entry.

    features [N, F] reach every output, entry i only the outputs of later entries. Scoring takes one pass, sampling n
    passes.
    """

    def __init__(self, features: int, entries: int, units: int, layers: int, components: int, min_std: float):
        super().__init__()
        self.entries, self.components, self.min_std = entries, components, min_std
        self.context = mlp(features, units, 1)
        self.masked = masked_net(entries, 1, units, 3 * components, units, layers)
        spread_means(self.masked[-1].bias, entries * components, entries * components)  # type: ignore[arg-type]

    def mixture(self, context: Tensor, x: Tensor) -> GaussianMixture:
        """Return each entry's mixture, given the entries before it. context [N, units], x [N, n]."""
        out = self.masked(torch.cat([x, context], -1)).unflatten(-1, (3, self.components, self.entries))
        logits, mean, raw = out.transpose(-1, -2).unbind(-3)  # [N, n, K] each
        return GaussianMixture.from_outputs(logits, mean[..., None], raw[..., None], self.min_std)

    @torch.no_grad()
    def draw(self, features: Tensor, generator: torch.Generator | None) -> Tensor:
        """Draw vectors [N, n], entry by entry. generator None: the mean of each entry's most likely component."""
        context, x = self.context(features), features.new_zeros(len(features), self.entries)
        for i in range(self.entries):
            mixture = self.mixture(context, x)
            drawn = mixture.mode if generator is None else mixture.sample(generator)
            x = torch.cat([x[:, :i], drawn[:, i : i + 1].to(x.dtype), x[:, i + 1 :]], 1)
        return x


@dataclass(frozen=True)
class VectorDistribution:
    """A distribution p(vector | features). features [N, F]."""

    features: Tensor
    net: EntryNet

    @property
    def mode(self) -> Tensor:
        """Return [N, n]: for each entry the mean of its most likely component, given the previous entries (greedy)."""
        return self.net.draw(self.features, None)

    def sample(self, generator: torch.Generator) -> Tensor:
        return self.net.draw(self.features, generator)

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log p(x), [N] in nats, exact, in one pass. x [N, n]."""
        return self.net.mixture(self.net.context(self.features), x).log_prob(x)
