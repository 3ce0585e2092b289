"""An autoregressive density of a vector's entries: p(o | s) = prod_i p(o_i | o_<i, s)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worldlab.nn import mlp
from worldlab_autoregressive.blocks import BlockNet, BlockPass
from worldlab_autoregressive.mixtures import GaussianMixture, spread_means


class EntryNet(nn.Module):
    """A masked network with a mixture of Gaussians for each entry, given the features [N, F] and the entries before it."""

    def __init__(self, features: int, entries: int, units: int, layers: int, components: int, min_std: float):
        super().__init__()
        self.components, self.min_std = components, min_std
        self.context = mlp(features, units, 1)
        self.masked = BlockNet(entries, 1, units, 3 * components, units, layers)
        spread_means(self.masked.last_bias, entries * components, entries * components)

    def mixture(self, context: Tensor, x: Tensor) -> GaussianMixture:
        """Return each entry's mixture, given the entries before it. context [N, units], x [N, n]."""
        return self._mixtures(self.masked(x, context))

    def _mixtures(self, out: Tensor) -> GaussianMixture:
        """Return the mixtures of entries from their outputs [N, n, 3 * components]."""
        logits, mean, raw = out.chunk(3, -1)
        return GaussianMixture.from_outputs(logits, mean[..., None], raw[..., None], self.min_std)

    @torch.no_grad()
    def draw(self, features: Tensor, generator: torch.Generator | None) -> Tensor:
        """Draw vectors [N, n], entry by entry. generator None: the mean of each entry's most likely component."""
        drawn: list[Tensor] = []
        run = BlockPass(self.masked, self.context(features))
        for _ in range(self.masked.blocks):
            mixture = self._mixtures(run.outputs()[:, None])
            drawn.append((mixture.mode if generator is None else mixture.sample(generator)).to(features.dtype))
            run.append(drawn[-1])
        return torch.cat(drawn, -1)


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
