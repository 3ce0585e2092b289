"""A causal transformer over time with a sliding window, whose cache of keys and values is the dynamics' state.

One function, `_attend_sequence`, attends over cached and new steps; a single step is a sequence of length one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldlab.interfaces import State, Unrolled
from worldlab.nn import mlp
from worldlab_autoregressive.rotary import rotate, turn
from worldlab_autoregressive.shared_past import PastLayer, SharedPast, attend

Own = tuple[Tensor, Tensor]
"""Rotated keys and values [N, heads, k, d] of the steps that a future has made itself."""


class Block(nn.Module):
    """Pre-norm attention and MLP, each added to its input. Vaswani et al. 2017, arXiv:1706.03762; GPT-2, 2019."""

    def __init__(self, width: int, heads: int, depth: int):
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        with torch.no_grad():  # GPT-2: the residual stream starts with the same variance at any depth
            for last in (self.out, self.mlp[-1]):
                last.weight.mul_((2 * depth) ** -0.5)  # type: ignore[union-attr]

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Attend from x [N, T, H] to cached keys and values [N, W, H] and to x itself, where mask [N, T, W + T] allows.

        Returns x and all keys and values [N, W + T, H]. Keys are stored unrotated. Positions are counted from the start
        of the cache at each call, so they never grow, and equal caches are equivalent whatever their origin.
        """
        q, k, v = self.qkv(self.attention_norm(x)).chunk(3, -1)
        keys = torch.cat([keys, k.to(keys.dtype)], 1)
        values = torch.cat([values, v.to(values.dtype)], 1)
        q = rotate(self._split(q.to(keys.dtype)), keys.shape[1] - q.shape[1])
        heads = (q, rotate(self._split(keys)), self._split(values))
        read = F.scaled_dot_product_attention(*(h.transpose(1, 2) for h in heads), attn_mask=mask[:, None])
        x = x + self.out(read.transpose(1, 2).flatten(2))
        return x + self.mlp(x), keys, values

    def forward_shared(
        self, x: Tensor, place: Tensor, attention: Callable[[Tensor, Tensor, Tensor], Tensor], own: Own | None
    ) -> tuple[Tensor, Own]:
        """Advance one step x [N, H] of futures at positions place [N, 1].

        attention: maps queries, own keys and own values to what is read (shared_past.attend). own: keys (rotated) and
        values [N, heads, k, d] of the future's own steps; None before the first. Returns x and the own keys and values,
        k + 1 of them.
        """
        turned, value = (
            self.qkv(self.attention_norm(x)).unflatten(-1, (3 * self.heads, -1)).split([2 * self.heads, self.heads], 1)
        )
        q, key = turn(turned[:, None], place)[:, 0, :, None].chunk(2, 1)  # [N, heads, 1, d] each
        value = value[:, :, None]
        keys, values = (key, value) if own is None else (torch.cat([own[0], key], 2), torch.cat([own[1], value], 2))
        x = x + self.out(attention(q, keys, values).flatten(1))
        return x + self.mlp(x), (keys, values)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1))


class TransformerMemory(nn.Module):
    """A memory with one token per step, computed from (z, a). Each block attends to the last `window` steps of its own
    episode, so the memory reaches back layers * (window - 1) steps.

    State: "h" [N, H], the last output; "filled" [N] long, how many steps of this episode the cache holds, at most
    window; "keys" and "values": for each block [N, window, H], the newest last, 0 where empty.
    """

    def __init__(self, inputs: int, width: int, layers: int, heads: int, window: int):
        super().__init__()
        self.width, self.heads, self.window = width, heads, window
        self.embed = mlp(inputs, width, 1, width)
        self.blocks = nn.ModuleList(Block(width, heads, layers) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def initial(self, n: int) -> State:
        weight = self.norm.weight
        empty = tuple(weight.new_zeros(n, self.window, self.width) for _ in self.blocks)
        filled = torch.zeros(n, dtype=torch.long, device=weight.device)
        return {"h": weight.new_zeros(n, self.width), "filled": filled, "keys": empty, "values": empty}

    def fork(self, state: State, count: int) -> State:
        """Return the state [N * count, ...] of `count` futures of each row, which share its past.

        It holds "h", "past" and "own": for each block the keys and values [N * count, heads, k, d] of the future's own
        steps, initially None. A state that shares its past already is its own single future.
        """
        if count == 1 and "past" in state:
            return state
        row = torch.arange(len(state["h"]), device=state["h"].device).repeat_interleave(count)
        first, last = self.window - state["filled"][row], torch.full_like(row, self.window - 1)
        return self._shared(state["h"][row], state["keys"], state["values"], row, first, last, count)

    def _shared(
        self,
        h: Tensor,
        keys: Sequence[Tensor],
        values: Sequence[Tensor],
        row: Tensor,
        first: Tensor,
        last: Tensor,
        futures: int | None = None,
    ) -> State:
        """Return the state of futures with h [N, H] of cached keys and values [R, P, H] (see SharedPast)."""
        layers = tuple(PastLayer.from_cache(k, v, self.heads) for k, v in zip(keys, values, strict=True))
        past = SharedPast(layers, row, first, last, self.window, futures)
        return {"h": h, "past": past, "own": (None,) * len(layers)}

    def _step_shared(self, state: State, x: Tensor) -> State:
        past, first = cast(SharedPast, state["past"]), cast(Own | None, state["own"][0])
        steps = 0 if first is None else first[0].shape[2]
        mask, place = past.mask(steps), past.places(steps)[:, None]
        x = self.embed(x)
        own: list[Own] = []
        for block, layer, old in zip(cast(Iterable[Any], self.blocks), past.layers, state["own"], strict=True):
            x, new = block.forward_shared(x, place, partial(attend, past, layer, mask), old)
            own.append(new)
        return {"h": self.norm(x).to(state["h"].dtype), "past": past, "own": tuple(own)}

    def step(self, state: State, x: Tensor) -> State:
        """Advance by one step with input x [N, I]; return the next state."""
        if "past" in state:
            return self._step_shared(state, x)
        filled = (state["filled"] + 1).clamp(max=self.window)
        h, keys, values = self._attend_sequence(state, x[:, None], filled[:, None])
        return {
            "h": h[:, 0],
            "filled": filled,
            "keys": tuple(k[:, 1:] for k in keys),
            "values": tuple(v[:, 1:] for v in values),
        }

    def sequence(self, state: State, x: Tensor, is_first: Tensor) -> Unrolled:
        """Advance by T steps with resets in one pass. x [N, T, I], is_first [N, T] bool."""
        filled = self._filled(state["filled"], is_first)
        h, keys, values = self._attend_sequence(state, x, filled)

        def at(row: Tensor, time: Tensor) -> State:
            place = time[:, None] + 1 + torch.arange(self.window, device=time.device)  # [M, W], within W + T
            filled_now = filled[row, time]
            age = torch.arange(self.window - 1, -1, -1, device=time.device)
            empty = (age >= filled_now[:, None])[..., None]

            def cut(cache: Tensor) -> Tensor:
                return cache[row[:, None], place].masked_fill(empty, 0)

            return {
                "h": h[row, time],
                "filled": filled_now,
                "keys": tuple(cut(k) for k in keys),
                "values": tuple(cut(v) for v in values),
            }

        def shared_at(row: Tensor, time: Tensor) -> State:
            last = self.window + time
            return self._shared(h[row, time], keys, values, row, last + 1 - filled[row, time], last)

        rows = torch.arange(len(x), device=x.device)
        return Unrolled(h, at(rows, torch.full_like(rows, x.shape[1] - 1)), at, shared_at)

    def _filled(self, before: Tensor, is_first: Tensor) -> Tensor:
        """Return how many steps a query may attend to, itself included: before [N] and is_first [N, T] -> [N, T]."""
        time = torch.arange(is_first.shape[1], device=is_first.device).expand(is_first.shape)
        started = torch.where(is_first, time, -1).cummax(1).values
        return torch.where(started < 0, before[:, None] + time + 1, time - started + 1).clamp(max=self.window)

    def _attend_sequence(self, state: State, x: Tensor, filled: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Map x [N, T, I] to h [N, T, H] and each block's keys and values, cached and new: [N, W + T, H].

        filled [N, T] determines causality, window and resets: query t, at position W + t, reads the last filled[., t]
        positions up to its own.
        """
        length = x.shape[1]
        own = self.window + torch.arange(length, device=x.device)[:, None]
        place = torch.arange(self.window + length, device=x.device)
        mask = (place <= own) & (place > own - filled[..., None])  # [N, T, W + T]
        x = self.embed(x)
        keys, values = [], []
        for block, k, v in zip(self.blocks, state["keys"], state["values"], strict=True):
            x, k, v = block(x, k, v, mask)
            keys.append(k)
            values.append(v)
        return self.norm(x).to(state["h"].dtype), keys, values
