"""Means with standard errors over episodes: frames of one episode are correlated, episodes are independent."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from worldlab.study.results import Measurement


def sum_by_episode(values: Tensor, episode: Tensor) -> Tensor:
    """Sum values [N, ...] over the frames of each episode, float64 [G, ...]. episode int [N]: of each frame."""
    numbers, index = episode.unique(return_inverse=True)
    sums = torch.zeros(len(numbers), *values.shape[1:], dtype=torch.float64)
    return sums.index_add_(0, index, values.double().cpu())


def jackknife(sums: Tensor, statistic: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Return a statistic of sums over episodes [G, ...] and its standard error by the leave-one-episode-out jackknife.

    statistic: maps the sum over all episodes [...] to [K]. Returns two tensors [K]; the error is NaN for a single
    episode.
    Efron & Tibshirani 1993, An introduction to the bootstrap, chapter 11.
    """
    total, count = sums.sum(0), len(sums)
    value = statistic(total)
    if count < 2:
        return value, torch.full_like(value, torch.nan)
    without = torch.stack([statistic(total - episode) for episode in sums])
    return value, ((count - 1) * without.var(0, correction=0)).sqrt()


def average_frames(values: Tensor, episode: Tensor) -> Measurement:
    """Return the mean of values [N] over frames, with its standard error over episodes."""
    sums = sum_by_episode(
        torch.stack([values.double().cpu(), torch.ones(len(values), dtype=torch.float64)], 1), episode
    )
    value, error = jackknife(sums, lambda total: total[:1] / total[1:])
    return make_measurement(value[0], error[0])


def make_measurement(value: Tensor | float, error: Tensor | float | None = None) -> Measurement:
    """Return a Measurement: a value that is not finite becomes undefined, an error that is not finite becomes None."""
    if not math.isfinite(value):
        return Measurement(None, why="the result is not a finite number")
    return Measurement(float(value), float(error) if error is not None and math.isfinite(error) else None)


def subtract(left: Measurement, right: Measurement) -> Measurement:
    """Return left - right, with errors added in quadrature; undefined if either is undefined."""
    if left.value is None or right.value is None:
        return Measurement(None, why=left.why or right.why)
    return make_measurement(left.value - right.value, math.hypot(left.error or 0.0, right.error or 0.0))
