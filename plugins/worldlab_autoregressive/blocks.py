"""A masked network over the blocks of a vector: all blocks in one pass to score them, one after another to draw them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zuko.nn import MaskedLinear, MaskedMLP


@final
class BlockNet(nn.Module):
    """A network whose outputs for block i of a vector depend on a context and on the blocks before i.

    MADE, Germain et al. 2015, arXiv:1502.03509. The hidden units are divided among the blocks. Scoring is one pass
    (`forward`). Drawing goes from block to block (`BlockPass`) and computes each unit once, as soon as all its inputs are
    known: as many operations as one pass, instead of one pass for each block.
    """

    def __init__(self, blocks: int, width: int, context: int, outputs: int, units: int, layers: int):
        super().__init__()
        self.blocks, self.outputs = blocks, outputs
        before = torch.ones(blocks, blocks, dtype=torch.bool).tril(-1).repeat_interleave(width, 1)
        adjacency: Any = torch.cat([before, torch.ones(blocks, context, dtype=torch.bool)], 1).repeat(outputs, 1)
        # No LayerNorm inside, since it would mix blocks that the masks separate.
        self.net = MaskedMLP(adjacency, [units] * layers, activation=nn.SiLU)
        # The last block that a unit depends on, -1 for the context alone.
        last = [torch.cat([torch.arange(blocks).repeat_interleave(width), torch.full((context,), -1)])]
        for linear in self.linears[:-1]:
            last.append(torch.where(linear.mask, last[-1], -1).amax(1))
        last.append(torch.arange(-1, blocks - 1).repeat(outputs))  # also of a block that no unit is left for
        self.ends = [[int((unit < i).sum()) for i in range(blocks)] for unit in last]
        """By layer (0: inputs) and block i: the number of units that depend on no block from i on."""
        for depth, unit in enumerate(last):
            self.register_buffer(f"order{depth}", unit.argsort(stable=True), persistent=False)

    @property
    def linears(self) -> list[Any]:
        """The masked linear layers."""
        return [layer for layer in self.net if isinstance(layer, MaskedLinear)]

    @property
    def last_bias(self) -> Tensor:
        """The bias of the outputs [outputs * blocks]: output o of block i is at o * blocks + i."""
        return self.linears[-1].bias

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Return the outputs [N, blocks, outputs]. x: [N, blocks * width]. context: [N, context]."""
        return self.net(torch.cat([x, context], -1)).unflatten(-1, (self.outputs, self.blocks)).transpose(-1, -2)


@final
class BlockPass:
    """One pass of a `BlockNet` that stops before each block until its predecessor is known.

    The weights' rows and columns are sorted by the last block that a unit depends on, so what is known so far is always
    the beginning of a layer.
    """

    def __init__(self, net: BlockNet, context: Tensor):
        self.block = 0
        self.layers: list[list[tuple[Tensor, Tensor]]] = []
        """Weights and biases, by layer and block, of the units whose last block is the one before."""
        orders = [getattr(net, f"order{depth}") for depth in range(len(net.linears) + 1)]
        for linear, (columns, rows), ends in zip(net.linears, pairwise(orders), net.ends[1:], strict=True):
            counts = [end - begin for begin, end in pairwise([0, *ends])]
            weights = (linear.mask * linear.weight)[rows[: ends[-1]]][:, columns].split(counts)
            self.layers.append(list(zip(weights, linear.bias[rows[: ends[-1]]].split(counts), strict=True)))
        self.known = [context, *(context[:, :0] for _ in self.layers[1:])]
        """The inputs of each layer that are known, [N, known]."""

    def outputs(self) -> Tensor:
        """Return the outputs for the next block, [N, outputs]. Called once for each block, before its `append`."""
        new = self._new_units(0)
        for depth in range(1, len(self.layers)):
            self.known[depth] = torch.cat([self.known[depth], F.silu(new)], -1)
            new = self._new_units(depth)
        return new

    def append(self, x: Tensor) -> None:
        """Set the next block, [N, width]."""
        self.known[0] = torch.cat([self.known[0], x], -1)
        self.block += 1

    def _new_units(self, depth: int) -> Tensor:
        """Return the units of a layer whose last block is the newest one, before the activation."""
        weight, bias = self.layers[depth][self.block]
        known = self.known[depth]
        return F.linear(known, weight[:, : known.shape[-1]], bias)
