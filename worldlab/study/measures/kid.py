"""The kernel distance of images (KID) in the features of a fixed random network, over pairs of different episodes.

Binkowski et al. 2018, arXiv:1801.01401: the unbiased squared MMD with the kernel (x . y / d + 1)^3. A pretrained
network would favour models whose images resemble its training set; a random network favours none. Frames of one episode
are correlated, so only pairs of different episodes are compared. The error is the jackknife error over episodes.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

CHANNELS = (32, 64, 128)
MIN_SIDE = 8
"""Smallest image side in pixels; below it the last layer has no output."""
SEED = 0
"""Seed of the network `worldlab-random-conv-1`: three convolutions (kernel 4, stride 2, padding 1) with ReLU, weights
N(0, 2 / inputs) drawn from this seed, no biases. The features are the averages over the four quarters of the image."""


def random_features(images: Tensor) -> Tensor:
    """Map images float [N, C, H, W] in [0, 1] to features float64 [N, 512]."""
    generator = torch.Generator().manual_seed(SEED)
    x = images - 0.5
    for channels in CHANNELS:
        inputs = 16 * x.shape[1]
        weight = torch.randn(channels, x.shape[1], 4, 4, generator=generator) * math.sqrt(2 / inputs)
        x = F.relu(F.conv2d(x, weight.to(x), stride=2, padding=1))
    return F.adaptive_avg_pool2d(x, 2).flatten(1).double()


def kid(x: Tensor, x_episode: Tensor, y: Tensor, y_episode: Tensor) -> tuple[float, float]:
    """Return the KID between features x [N, d] and y [M, d], and its standard error. x_episode [N], y_episode [M]: int.

    Frames of the same episode are never compared, within x, within y or across. With a unique episode number for each
    frame this is the plain estimator. The error is NaN with fewer than three episodes.
    """
    numbers, index = torch.cat([x_episode, y_episode]).unique(return_inverse=True)
    a, b = (F.one_hot(part, len(numbers)).double() for part in index.split([len(x), len(y)]))  # [N, G], [M, G]
    within = _average_pairs(a.mT @ _kernel(x, x) @ a, a, a) + _average_pairs(b.mT @ _kernel(y, y) @ b, b, b)
    distance = within - 2 * _average_pairs(a.mT @ _kernel(x, y) @ b, a, b)
    without = distance[1:]
    error = ((len(without) - 1) * without.var(correction=0)).sqrt() if len(without) > 2 else torch.tensor(math.nan)
    return float(distance[0]), float(error)


def _average_pairs(sums: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Average over pairs of frames of different episodes, [1 + G]: over all pairs, then without each episode.

    sums [G, G]: sums over the frame pairs of each pair of episodes. a [N, G], b [M, G]: one-hot episodes of the frames.
    """

    def totals(pairs: Tensor) -> Tensor:
        apart = pairs - pairs.diag().diag()
        return torch.cat([apart.sum()[None], apart.sum() - apart.sum(0) - apart.sum(1)])

    return totals(sums) / totals(a.sum(0)[:, None] * b.sum(0))


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.mT / x.shape[1] + 1) ** 3
