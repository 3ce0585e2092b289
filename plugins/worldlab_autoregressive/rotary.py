"""Rotary position embedding. Su et al. 2021, arXiv:2104.09864: products of rotated queries and keys depend only on the
distance of their positions.
"""

from __future__ import annotations

import torch
from torch import Tensor

ROPE_BASE = 10_000.0


def turn(x: Tensor, place: Tensor) -> Tensor:
    """Rotate x [N, P, heads, d] by its positions place [N or 1, P]."""
    half = x.shape[-1] // 2
    angle = place[..., None, None] * ROPE_BASE ** (-torch.arange(half, device=x.device, dtype=x.dtype) / half)
    cos, sin = angle.cos(), angle.sin()
    left, right = x.chunk(2, -1)
    return torch.cat([left * cos - right * sin, left * sin + right * cos], -1)


def rotate(x: Tensor, first: int = 0) -> Tensor:
    """Rotate x [N, P, heads, d] by the positions first, first + 1, ... along P."""
    return turn(x, torch.arange(first, first + x.shape[1], device=x.device)[None])
