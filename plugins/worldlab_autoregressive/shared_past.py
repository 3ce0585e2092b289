"""Many futures of one past: they attend to one shared copy of the cached steps.

A planner's 500 candidates share the cache of their state, and the dreams that start along a sequence share the cache of
the sequence. Otherwise each future would copy the cache, which costs more than the network.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worldlab_autoregressive.rotary import rotate


@dataclass(frozen=True)
class PastLayer:
    """The cached steps of one block."""

    keys: Tensor
    """Rotated keys, transposed for the product with queries: [R, heads, d, P]."""
    values: Tensor
    """[R, heads, P, d]."""

    @classmethod
    def from_cache(cls, keys: Tensor, values: Tensor, heads: int) -> PastLayer:
        """Prepare cached keys and values [R, P, H], which get the positions 0 to P - 1."""
        keys, values = (cache.detach().unflatten(-1, (heads, -1)) for cache in (keys, values))
        return cls(rotate(keys).permute(0, 2, 3, 1).contiguous(), values.transpose(1, 2).contiguous())


class SharedPast:
    """R cached sequences and N futures of them. It is not a tree of tensors, so the core does not copy it per future.

    row [N]: the sequence of each future, in ascending order. first, last [N]: the positions it may read. Its own steps
    have the positions after `last`, and a step reads the last `window` positions, its own included. futures: how many each
    sequence has, if all have equally many; None counts them, which reads `row` on the host.
    """

    def __init__(
        self,
        layers: tuple[PastLayer, ...],
        row: Tensor,
        first: Tensor,
        last: Tensor,
        window: int,
        futures: int | None = None,
    ):
        self.layers = layers
        self.first = first
        self.last = last
        self.window = window
        self.even = True
        """Whether all sequences have equally many futures: groups are then views."""
        if futures is not None:
            self.most = futures
            return
        rows = layers[0].values.shape[0]
        counts = torch.bincount(row, minlength=rows)
        self.most = int(counts.max())
        self.even = bool((counts == self.most).all())
        self.slot = row * self.most + torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]

    def places(self, steps: int) -> Tensor:
        """Return the position of each future's own step number `steps`, [N]."""
        return self.last + 1 + steps

    def mask(self, steps: int) -> Tensor:
        """Return what is added to the scores of own step `steps`: 0 where it may read, -inf elsewhere. [N, 1, P]."""
        values = self.layers[0].values
        position = torch.arange(values.shape[2], device=values.device)
        oldest = torch.maximum(self.first, self.places(steps) - self.window + 1)[:, None]
        visible = (position >= oldest) & (position <= self.last[:, None])
        return values.new_zeros(visible.shape).masked_fill_(~visible, -torch.inf)[:, None]

    def group(self, x: Tensor) -> Tensor:
        """Arrange x [N, heads, k] by sequence: [R, heads, S, k]. One matrix product then serves all futures of a row."""
        if not self.even:
            rows = self.layers[0].values.shape[0] * self.most
            x = x.new_zeros(rows, *x.shape[1:]).index_copy(0, self.slot, x)
        return x.unflatten(0, (-1, self.most)).transpose(1, 2)

    def ungroup(self, x: Tensor) -> Tensor:
        """Undo `group`."""
        x = x.transpose(1, 2).flatten(0, 1)
        return x if self.even else x.index_select(0, self.slot)


def attend(past: SharedPast, layer: PastLayer, mask: Tensor, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Softmax attention of one query per future over its past and the last `window` of its own steps.

    mask [N, 1, P]; q [N, heads, 1, d]; keys, values [N, heads, k, d], k >= 1. Returns [N, heads, d].
    """
    if keys.shape[2] > past.window:  # a slice that drops nothing would still cost a copy in the backward pass
        keys, values = keys[:, :, -past.window :], values[:, :, -past.window :]
    q = q * q.shape[-1] ** -0.5
    old = past.ungroup(past.group(q[:, :, 0]) @ layer.keys) + mask
    own = (q * keys).sum(-1)  # few and tiny: a product for each row and head is slower
    weight, own_weight = torch.softmax(torch.cat([old, own], -1), -1).split([old.shape[-1], own.shape[-1]], -1)
    read = past.ungroup(past.group(weight) @ layer.values)
    return read + (own_weight[..., None] * values).sum(2)
