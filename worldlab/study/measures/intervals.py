"""Means and errors where frames of one episode resemble each other: the episode is what was drawn independently."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from worldlab.study.results import Measurement


def by_episode(values: Tensor, episode: Tensor) -> Tensor:
    """Sums of values [N, ...] over the frames of each episode [N], float64 [G, ...]."""
    numbers, index = episode.unique(return_inverse=True)
    sums = torch.zeros(len(numbers), *values.shape[1:], dtype=torch.float64)
    return sums.index_add_(0, index, values.double().cpu())


def jackknife(sums: Tensor, statistic: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """A statistic of sums over episodes [G, ...] and its standard error, leaving out an episode at a time.

    statistic: sums over all episodes [...] -> [K]. Returns two [K]; the error is NaN for a single episode.
    Efron & Tibshirani 1993, An introduction to the bootstrap, chapter 11.
    """
    total, count = sums.sum(0), len(sums)
    value = statistic(total)
    if count < 2:
        return value, torch.full_like(value, torch.nan)
    without = torch.stack([statistic(total - one) for one in sums])
    return value, ((count - 1) * without.var(0, correction=0)).sqrt()


def mean(values: Tensor, episode: Tensor) -> Measurement:
    """The mean over frames of values [N], with the error that episodes give."""
    sums = by_episode(torch.stack([values.double().cpu(), torch.ones(len(values), dtype=torch.float64)], 1), episode)
    value, error = jackknife(sums, lambda total: total[:1] / total[1:])
    return measurement(value[0], error[0])


def measurement(value: Tensor | float, error: Tensor | float | None = None) -> Measurement:
    """As results have it: an error that is not finite is none, a value that is not finite is undefined."""
    if not math.isfinite(value):
        return Measurement(None, why="the result is not a finite number")
    return Measurement(float(value), float(error) if error is not None and math.isfinite(error) else None)


def difference(one: Measurement, other: Measurement) -> Measurement:
    """One minus the other; undefined where one of them is."""
    if one.value is None or other.value is None:
        return Measurement(None, why=one.why or other.why)
    return measurement(one.value - other.value, math.hypot(one.error or 0.0, other.error or 0.0))
