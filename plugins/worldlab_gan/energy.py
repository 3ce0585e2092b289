"""The energy score and the kernel score: strictly proper scoring rules that need only samples.

Gneiting & Raftery 2007 (JASA 102), section 5; the energy score as a training loss of conditional samplers: Bouchacourt et
al. 2016, arXiv:1606.02556; Shen & Meinshausen 2023, arXiv:2307.00835. The kernel score is the part of the squared maximum
mean discrepancy that depends on the samples: Li et al. 2015 (GMMN), arXiv:1502.02761.
"""

from __future__ import annotations

import torch
from torch import Tensor

TINY = 1e-12
"""Added under the square root, so that the gradient of the norm at 0, where two one-hots agree, is 0 and not NaN."""


BANDWIDTHS = (0.25, 0.5, 1.0, 2.0)
"""Widths of the Gaussian kernels, in units of the root of the number of entries."""


def kernel(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean of Gaussian kernels of several widths, in (0, 1]: [*, D], [*, D] -> [*]."""
    square = (a - b).square().mean(-1)
    return torch.stack([torch.exp(-square / (2 * width**2)) for width in BANDWIDTHS]).mean(0)


def kernel_score(samples: Tensor, target: Tensor) -> Tensor:
    """Return D (E k(z', z'') / 2 - E k(z', z) + 1 / 2) per row. Lower is better; the mean is smallest where z' has the
    distribution of z.

    samples: [S, *, D], S >= 2 independent samples per row; target: [*, D]. Unbiased in S. The factor D, the number of
    entries, gives it the scale of a squared error. Returns [*].
    """
    count = len(samples)
    first, second = torch.triu_indices(count, count, 1, device=samples.device)
    among = kernel(samples[first], samples[second]).mean(0)
    return target.shape[-1] * (0.5 * among - kernel(samples, target).mean(0) + 0.5)


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
