"""Many futures of one past: a planner's candidates, or an agent's dreams, attend to one shared copy of the cached steps.

Otherwise a plan's 500 candidates would copy 500 caches at every imagined step, and a dream would move its whole cache by
one place; both cost more than the network.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PastLayer:
    """The cached steps of one block, shared by all futures of a row."""

    keys: Tensor
    """Rotated keys, transposed for the product with queries: [N, heads, d, W]."""
    values: Tensor
    """[N, heads, W, d]."""
    mask: Tensor | None = None
    """Added to the scores: 0 where a step may be read, -inf elsewhere. [N, 1, 1, W]."""


class SharedPast:
    """The cache of N rows. It is not a tree of tensors, so the core does not copy it per row.

    layers: the cached steps of each block. filled [N]: how many of the W positions are valid, newest last.
    """

    def __init__(self, layers: tuple[PastLayer, ...], filled: Tensor):
        self.layers = layers
        self.filled = filled

    def mask(self, steps: int) -> Tensor:
        """Return the mask of a future that has made `steps` steps: the window moves with them."""
        window = self.layers[0].values.shape[2]
        age = torch.arange(window - 1, -1, -1, device=self.filled.device)
        visible = (age + steps + 1 <= window - 1) & (age < self.filled[:, None])
        return torch.zeros_like(visible, dtype=self.layers[0].keys.dtype).masked_fill_(~visible, -torch.inf)[
            :, None, None
        ]


def attend(q: Tensor, past: PastLayer, keys: Tensor, values: Tensor) -> Tensor:
    """Softmax attention of one query per row over the shared past and the row's own steps.

    q [N * S, heads, 1, d]; keys, values [N * S, heads, k, d], k >= 1. Returns [N * S, heads, d].
    """
    n, _, places, width = past.values.shape
    q = q * width**-0.5
    # One matrix product for all futures of a row: [N, heads, S, d].
    grouped = q[:, :, 0].unflatten(0, (n, -1)).transpose(1, 2)
    old = grouped @ past.keys
    if past.mask is not None:
        old = old + past.mask
    own = q @ keys.transpose(-1, -2)  # [N * S, heads, 1, k]
    scores = torch.cat([old.transpose(1, 2).flatten(0, 1)[:, :, None], own], -1)
    past_weight, own_weight = torch.softmax(scores, -1).split([places, keys.shape[2]], -1)
    read = past_weight[:, :, 0].unflatten(0, (n, -1)).transpose(1, 2) @ past.values
    return read.transpose(1, 2).flatten(0, 1) + (own_weight @ values)[:, :, 0]
