"""An argmax flow of codes with exact probabilities: couplings that only shift Gumbel noise, given the preceding codes.

Hoogeboom et al. 2021 (argmax flows), arXiv:2102.05379: a code is the argmax of real values that a flow makes from
noise. In general the probability of a code is an integral that can only be bounded. Here it is exact, because the noise
is Gumbel, a coupling only adds logits to it, and a coupling reads codes instead of real values. Then the region of each
code has the probability softmax(logits) (Gumbel-max; Maddison et al. 2014, arXiv:1411.0030), without bound or
dequantisation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from worldlab.distributions import OneHot, at_least_float32
from worldlab.nn import mlp


class ArgmaxFlow(nn.Module):
    """Couplings over blocks of groups: block i is shifted by logits computed from the context and the codes of blocks <
    i.

    Sampling and scoring take one network call per block. Blocks grow geometrically from a single group, so that the
    first blocks choose between the alternatives and the last, largest block adds what follows from the choice.
    """

    def __init__(
        self, groups: int, classes: int, context: int, transforms: int, units: int, layers: int, unimix: float
    ):
        super().__init__()
        self.groups, self.classes, self.unimix = groups, classes, unimix
        self.edges = block_edges(groups, transforms)
        self.nets = nn.ModuleList(
            mlp(start * classes + context, units, layers, (end - start) * classes, zero=True)
            for start, end in pairwise(self.edges)
        )

    def block(self, i: int, chosen: Tensor, context: Tensor) -> OneHot:
        """Return the distribution of block i, given the codes of the blocks before it as flat one-hots [N, edges[i] *
        C].
        """
        logits = at_least_float32(self.nets[i](torch.cat([chosen, context], -1)))
        return OneHot.with_unimix(logits.unflatten(-1, (-1, self.classes)), self.unimix)


def block_edges(groups: int, transforms: int) -> list[int]:
    """Return the edges of the blocks of groups: transforms + 1 blocks (fewer if there are fewer groups), the first of 1
    group.
    """
    blocks = min(groups, transforms + 1)
    if blocks == 1:
        return [0, groups]
    edges = [0]
    for i in range(blocks):
        left = blocks - 1 - i  # each later block needs at least one group
        edges.append(min(max(round(groups ** (i / (blocks - 1))), edges[-1] + 1), groups - left))
    return edges


@dataclass(frozen=True)
class CodeDensity:
    """An exact distribution p(z | c) over flat one-hots z [N, G * C]. context: [N, U]; flow: the networks."""

    context: Tensor
    flow: ArgmaxFlow
    temperature: float = 1.0

    def sample(self, generator: torch.Generator) -> Tensor:
        """Draw straight-through one-hots [N, G * C], block by block; their gradient is that of the probabilities."""
        return self._choose_codes(lambda block: block.sample(generator))

    @property
    def mode(self) -> Tensor:
        """Return the most likely code of each block given the previous blocks (greedy, not always the most likely code
        overall).
        """
        return self._choose_codes(lambda block: block.mode)

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log P(x) [N] in nats of codes x [N, G * C]; probabilities sum to 1 over all codes."""
        sum_log_scales = self.context.new_zeros(len(x), dtype=at_least_float32(self.context).dtype)
        for i, (start, end) in enumerate(pairwise(self.flow.edges)):
            own = x[:, start * self.flow.classes : end * self.flow.classes]
            sum_log_scales = sum_log_scales + self._block(i, x[:, : start * self.flow.classes]).log_prob(own)
        return sum_log_scales

    def tempered(self, temperature: float) -> CodeDensity:
        """Divide the logits of every block, given the blocks before it, by the temperature."""
        return replace(self, temperature=self.temperature * temperature)

    def _block(self, i: int, chosen: Tensor) -> OneHot:
        block = self.flow.block(i, chosen, self.context)
        return block if self.temperature == 1.0 else block.tempered(self.temperature)

    def _choose_codes(self, choose) -> Tensor:
        chosen = self.context.new_zeros(len(self.context), 0)
        for i in range(len(self.flow.nets)):
            chosen = torch.cat([chosen, choose(self._block(i, chosen))], -1)
        return chosen
