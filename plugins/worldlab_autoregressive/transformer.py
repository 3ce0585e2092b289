"""A causal transformer over time with a sliding window, whose cache of keys and values is the dynamics' state.

One function, `_attend_sequence`, attends over cached and new steps; a single step is a sequence of length one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldlab.interfaces import State, Unrolled
from worldlab.nn import mlp
from worldlab_autoregressive.shared_past import PastLayer, SharedPast, attend

ROPE_BASE = 10_000.0


def rotate(x: Tensor, first: int = 0) -> Tensor:
    """Apply rotary position embedding: x [N, P, heads, d] rotated by its position first, first + 1, ... along P.

    Su et al. 2021, arXiv:2104.09864: products of rotated queries and keys depend only on the distance of their
    positions.
    """
    half = x.shape[-1] // 2
    place = torch.arange(first, first + x.shape[1], device=x.device, dtype=x.dtype)
    angle = place[:, None] * ROPE_BASE ** (-torch.arange(half, device=x.device, dtype=x.dtype) / half)
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]  # [P, 1, half]
    left, right = x.chunk(2, -1)
    return torch.cat([left * cos - right * sin, left * sin + right * cos], -1)


def rotation(place: int, width: int, like: Tensor) -> Tensor:
    """Return the rotary embedding of one position as a matrix [d, d]: x @ rotation(p) is x rotated by p."""
    half = width // 2
    angle = place * ROPE_BASE ** (-torch.arange(half, device=like.device, dtype=like.dtype) / half)
    cos, sin = angle.cos().diag(), angle.sin().diag()
    return torch.cat([torch.cat([cos, sin], 1), torch.cat([-sin, cos], 1)])


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
        self, x: Tensor, turn: Tensor, past: PastLayer, own: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Advance one step x [N * S, H] of S futures of each of N pasts (shared_past.attend).

        turn: the rotation of this step [d, d]. own: keys (rotated) and values [N * S, heads, k, d] of the future's own
        steps; None before the first. Returns x and the own keys and values, k + 1 of them.
        """
        qkv = self.qkv(self.attention_norm(x)).unflatten(-1, (3, self.heads, 1, -1))
        q, k, values = qkv.unbind(1)  # [N * S, heads, 1, d] each
        q, keys = (
            part.flatten(0, 2).matmul(turn).view_as(part) for part in (q, k)
        )  # flat: a matrix for each head is slow
        if own is not None:
            keys, values = torch.cat([own[0], keys], 2), torch.cat([own[1], values], 2)
        window = past.values.shape[2]
        seen = (keys, values) if keys.shape[2] <= window else (keys[:, :, -window:], values[:, :, -window:])
        x = x + self.out(attend(q, past, *seen).flatten(1))
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
        steps, initially None.
        """

        def prepare(keys: Tensor, values: Tensor) -> PastLayer:
            keys, values = (cache.unflatten(-1, (self.heads, -1)) for cache in (keys, values))
            return PastLayer(rotate(keys).permute(0, 2, 3, 1).contiguous(), values.transpose(1, 2).contiguous())

        layers = tuple(map(prepare, state["keys"], state["values"]))
        past = SharedPast(layers, state["filled"])
        return {"h": state["h"].repeat_interleave(count, 0), "past": past, "own": (None,) * len(layers)}

    def _step_shared(self, state: State, x: Tensor) -> State:
        past, first = cast(SharedPast, state["past"]), state["own"][0]
        steps = 0 if first is None else first[0].shape[2]
        mask = past.mask(steps)
        turn = rotation(self.window + steps, self.width // self.heads, x)
        x = self.embed(x)
        own: list[tuple[Tensor, Tensor]] = []
        for block, layer, old in zip(cast(Iterable[Any], self.blocks), past.layers, state["own"], strict=True):
            x, new = block.forward_shared(x, turn, PastLayer(layer.keys, layer.values, mask), old)
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

        rows = torch.arange(len(x), device=x.device)
        return Unrolled(h, at(rows, torch.full_like(rows, x.shape[1] - 1)), at)

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
