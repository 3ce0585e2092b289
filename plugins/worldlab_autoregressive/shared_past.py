"""Many futures of one past: a planner's candidates attend to one shared copy of the cached steps.

Otherwise a plan's 500 candidates would copy 500 caches at every imagined step, which costs more than the network.
"""

from __future__ import annotations

import torch
from torch import Tensor


class SharedPast:
    """The cache of N rows, shared by `count` futures of each. It is not a tree of tensors, so the core does not copy it
    per row.

    keys (rotated), values: for each block [N, heads, W, d]; filled [N]: how many of the W positions are valid, newest
    last.
    """

    def __init__(self, keys: tuple[Tensor, ...], values: tuple[Tensor, ...], filled: Tensor, count: int):
        self.keys = keys
        self.values = values
        self.filled = filled
        self.count = count


def attend(q: Tensor, past: tuple[Tensor, Tensor, Tensor], keys: Tensor, values: Tensor) -> Tensor:
    """Softmax attention of one query per row over the shared past and the row's own steps.

    q [N * S, heads, d]; past: keys and values [N, heads, W, d] and which positions are valid, [N, W] bool; keys, values
    [N * S, k, heads, d], k >= 1. Returns [N * S, heads, d].
    """
    shared_keys, shared_values, counts = past
    n, _, places, width = shared_keys.shape
    grouped = q.unflatten(0, (n, -1)).transpose(1, 2)  # [N, heads, S, d]: one matrix product for all futures of a row
    old = (grouped @ shared_keys.transpose(-1, -2)).masked_fill(~counts[:, None, None], -torch.inf)
    old = old.transpose(1, 2).flatten(0, 1)  # [N * S, heads, W]
    own = torch.einsum("nhd,nkhd->nhk", q, keys)
    weight = torch.softmax(torch.cat([old, own], -1) / width**0.5, -1)
    read = weight[..., :places].unflatten(0, (n, -1)).transpose(1, 2) @ shared_values
    return read.transpose(1, 2).flatten(0, 1) + torch.einsum("nhk,nkhd->nhd", weight[..., places:], values)
