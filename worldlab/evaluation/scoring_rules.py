"""Proper scoring rules for forecasts given by samples. Gneiting & Raftery 2007, JASA 102, section 4.

samples: [S, N, D], S independent samples of each of N forecasts; target [N, D], the outcomes. Lower is better. The
expected score is smallest for a forecaster that samples from the true distribution.
"""

from __future__ import annotations

import torch
from torch import Tensor


def energy_score(samples: Tensor, target: Tensor) -> Tensor:
    """Return the energy score E|x - y| - E|x - x'| / 2, [N].

    It is unbiased: each sample is compared with the S - 1 others. A single sample is a point forecast without spread.
    """
    count, miss = len(samples), torch.linalg.vector_norm(samples - target, dim=-1).mean(0)
    if count == 1:
        return miss
    pairs = torch.cdist(samples.transpose(0, 1), samples.transpose(0, 1), compute_mode="donot_use_mm_for_euclid_dist")
    return miss - 0.5 * pairs.sum((1, 2)) / (count * (count - 1))


def crps(samples: Tensor, target: Tensor) -> Tensor:
    """Return the CRPS, [N]: the one-dimensional energy score averaged over entries, unbiased in the same way."""
    count = len(samples)
    miss = (samples - target).abs().mean(0)
    if count == 1:
        return miss.mean(-1)
    # sum over pairs of |x_i - x_j| = 2 sum_i (2 i - S - 1) x_(i), i = 1 .. S
    weight = 2 * torch.arange(1, count + 1, dtype=samples.dtype, device=samples.device) - count - 1
    pairs = 2 * (weight[:, None, None] * samples.sort(0).values).sum(0)
    return (miss - 0.5 * pairs / (count * (count - 1))).mean(-1)


def coverage_90(samples: Tensor, target: Tensor) -> Tensor:
    """Return the share of entries inside the forecast's central 90% interval, [N].

    The interval spans the k-th smallest to the k-th largest of S = 20 k - 1 samples. For a correct forecast it contains
    exactly 90% of outcomes, whatever the distribution. Raises: ValueError for another S.
    """
    count = len(samples)
    if (count + 1) % 20:
        raise ValueError(f"an interval of exactly 90% needs 20 k - 1 samples, got {count}")
    k = (count + 1) // 20
    ordered = samples.sort(0).values
    return ((ordered[k - 1] <= target) & (target <= ordered[-k])).to(samples.dtype).mean(-1)
