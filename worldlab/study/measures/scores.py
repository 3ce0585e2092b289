"""Proper scores of forecasts that are known by samples only. Gneiting & Raftery 2007, JASA 102, section 4.

samples: [S, N, D], S independent draws of each of N forecasts; target [N, D], what came. Lower is better; a forecaster does
best, on average, by drawing from what it believes.
"""

from __future__ import annotations

import torch
from torch import Tensor


def energy_score(samples: Tensor, target: Tensor) -> Tensor:
    """E|x - y| - E|x - x'| / 2, [N]: unbiased, draws being compared with S - 1 others. One draw is a point: no spread."""
    count, miss = len(samples), torch.linalg.vector_norm(samples - target, dim=-1).mean(0)
    if count == 1:
        return miss
    pairs = torch.cdist(samples.transpose(0, 1), samples.transpose(0, 1), compute_mode="donot_use_mm_for_euclid_dist")
    return miss - 0.5 * pairs.sum((1, 2)) / (count * (count - 1))


def crps(samples: Tensor, target: Tensor) -> Tensor:
    """The energy score of each entry alone, averaged over entries: [N]. Unbiased likewise."""
    count = len(samples)
    miss = (samples - target).abs().mean(0)
    if count == 1:
        return miss.mean(-1)
    # sum over pairs of |x_i - x_j| = 2 sum_i (2 i - S - 1) x_(i), i = 1 .. S
    weight = 2 * torch.arange(1, count + 1, dtype=samples.dtype, device=samples.device) - count - 1
    pairs = 2 * (weight[:, None, None] * samples.sort(0).values).sum(0)
    return (miss - 0.5 * pairs / (count * (count - 1))).mean(-1)


def inside(samples: Tensor, target: Tensor) -> Tensor:
    """Share of entries that the forecast's central 90% interval holds, [N].

    The interval reaches from the k-th smallest draw to the k-th largest, S = 20 k - 1: of a forecast that is right it holds 90%
    exactly, whatever the distribution. Raises: ValueError for another S.
    """
    count = len(samples)
    if (count + 1) % 20:
        raise ValueError(f"an interval of exactly 90% needs 20 k - 1 draws, got {count}")
    k = (count + 1) // 20
    ordered = samples.sort(0).values
    return ((ordered[k - 1] <= target) & (target <= ordered[-k])).to(samples.dtype).mean(-1)
