"""The kernel distance of pictures (KID) in the features of a fixed random network, by pairs of different episodes.

Binkowski et al. 2018, arXiv:1801.01401: the unbiased squared MMD under the kernel (x . y / d + 1)^3. A network that somebody
trained would know some contestants' pictures better than others'; a random one knows nobody's. Frames of one episode resemble each
other, so only pairs of different episodes are compared, and the error is the jackknife's over episodes.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

CHANNELS = (32, 64, 128)
SMALLEST = 8
"""Pixels along a side of which the last layer still sees one."""
SEED = 0
"""The network `worldlab-random-conv-1`: three convolutions (kernel 4, stride 2, padding 1) with ReLU, weights N(0, 2 / inputs)
drawn from the seed, no biases; their averages over quarters of the picture are the features."""


def random_features(pictures: Tensor) -> Tensor:
    """Pictures float [N, C, H, W] in [0, 1] -> float64 [N, 512]."""
    generator = torch.Generator().manual_seed(SEED)
    x = pictures - 0.5
    for channels in CHANNELS:
        inputs = 16 * x.shape[1]
        weight = torch.randn(channels, x.shape[1], 4, 4, generator=generator) * math.sqrt(2 / inputs)
        x = F.relu(F.conv2d(x, weight.to(x), stride=2, padding=1))
    return F.adaptive_avg_pool2d(x, 2).flatten(1).double()


def kid(x: Tensor, x_episode: Tensor, y: Tensor, y_episode: Tensor) -> tuple[float, float]:
    """KID between features x [N, d] and y [M, d] of frames that belong to episodes int [N], [M]; and its standard error.

    Frames of one episode are never compared, be they of x or of y; give each frame a number of its own to have the plain estimator.
    The error is NaN below three episodes.
    """
    numbers, index = torch.cat([x_episode, y_episode]).unique(return_inverse=True)
    a, b = (F.one_hot(part, len(numbers)).double() for part in index.split([len(x), len(y)]))  # [N, G], [M, G]
    within = _averages(a.mT @ _kernel(x, x) @ a, a, a) + _averages(b.mT @ _kernel(y, y) @ b, b, b)
    distance = within - 2 * _averages(a.mT @ _kernel(x, y) @ b, a, b)
    without = distance[1:]
    error = ((len(without) - 1) * without.var(correction=0)).sqrt() if len(without) > 2 else torch.tensor(math.nan)
    return float(distance[0]), float(error)


def _averages(sums: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Means over pairs of frames of different episodes, [1 + G]: of all, then leaving out each episode.

    sums [G, G]: over the pairs of each two episodes. a [N, G], b [M, G]: which episode each frame is of.
    """

    def totals(pairs: Tensor) -> Tensor:
        apart = pairs - pairs.diag().diag()
        return torch.cat([apart.sum()[None], apart.sum() - apart.sum(0) - apart.sum(1)])

    return totals(sums) / totals(a.sum(0)[:, None] * b.sum(0))


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.mT / x.shape[1] + 1) ** 3
