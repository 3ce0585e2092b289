"""The energy score: a strictly proper scoring rule that needs only samples.

Gneiting & Raftery 2007 (JASA 102); as a training loss of conditional samplers: Bouchacourt et al. 2016,
arXiv:1606.02556; Shen & Meinshausen 2023, arXiv:2307.00835.
"""

from __future__ import annotations

import torch
from torch import Tensor

TINY = 1e-12
"""Added under the square root, so that the gradient of the norm at 0, where two one-hots agree, is 0 and not NaN."""


def energy_score(samples: Tensor, target: Tensor) -> Tensor:
    """Return E|z' - z| - E|z' - z''| / 2 per row. Lower is better; the mean is smallest where z' has the distribution
    of z.

    samples: [S, *, D], S >= 2 independent samples per row; target: [*, D]. Unbiased in S. Returns [*], in units of z.
    """
    return distance(samples, target).mean(0) - 0.5 * spread(samples)


def spread(samples: Tensor) -> Tensor:
    """Return the mean distance between the samples of a row. [S, *, D] -> [*]."""
    count = len(samples)
    first, second = torch.triu_indices(count, count, 1, device=samples.device)
    return distance(samples[first], samples[second]).mean(0)


def distance(a: Tensor, b: Tensor) -> Tensor:
    """Return the Euclidean distance over the last dimension; its gradient is finite everywhere."""
    return ((a - b).square().sum(-1) + TINY).sqrt()
