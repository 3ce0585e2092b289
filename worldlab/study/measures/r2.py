"""R2 of several predictions of the same factors, with standard errors over test episodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from worldlab.study.measures.standard_errors import jackknife, make_measurement, sum_by_episode
from worldlab.study.measures.undefined import Undefined
from worldlab.study.results import Measurement

MIN_SEPARATION = 2.0
"""Standard errors by which the upper anchor of a normalised scale must exceed the lower anchor."""
MIN_VARIANCE = 1e-9
"""Variance of a standardised factor in the test episodes below which the factor counts as constant."""


@dataclass(frozen=True)
class R2Scores:
    """R2 of P predictions of the same K factors on the same frames.

    sums float64 [G, 1 + (2 + P) K]: for each episode, sums over its frames of 1, the factors, their squares, and the
    squared errors of each prediction. R2 is the mean over factors of 1 - squared error / squared deviation. Each
    factor's R2 is clipped at -1, since a nearly constant factor would otherwise dominate the mean. Constant factors are
    excluded.
    """

    names: tuple[str, ...]
    sums: Tensor
    varies: Tensor

    @classmethod
    def compute(cls, predictions: Mapping[str, Tensor], target: Tensor, episode: Tensor) -> R2Scores:
        """Accumulate the sums. predictions: by name, [N, K] each, like target; episode int [N]. Raises: Undefined if
        all factors are constant."""
        target = target.double()
        errors = [(prediction.double() - target).square() for prediction in predictions.values()]
        sums = sum_by_episode(torch.cat([torch.ones(len(target), 1), target, target.square(), *errors], 1), episode)
        varies = target.var(0) > MIN_VARIANCE
        if not bool(varies.any()):
            raise Undefined("all factors are constant in the recorded episodes")
        return cls(tuple(predictions), sums, varies)

    def r2(self, total: Tensor) -> Tensor:
        """Compute R2 of every prediction, [P], from sums over episodes."""
        count, (mean, square, *errors) = total[0], total[1:].unflatten(0, (-1, len(self.varies)))
        deviation = (square - mean.square() / count)[self.varies]
        return torch.stack([(1 - error[self.varies] / deviation).clamp(min=-1).mean() for error in errors])

    def score(self, name: str) -> Measurement:
        """Return R2 of one prediction."""
        at = self.names.index(name)
        value, error = jackknife(self.sums, self.r2)
        return make_measurement(value[at], error[at])

    def normalise(self, name: str, zero: str, one: str) -> Measurement:
        """Return R2 of a prediction on the scale where prediction `zero` scores 0 and prediction `one` scores 1;
        undefined unless `one` is better than `zero` by MIN_SEPARATION standard errors."""
        at, low, high = (self.names.index(each) for each in (name, zero, one))
        span, unsure = jackknife(self.sums, lambda total: (self.r2(total)[high] - self.r2(total)[low])[None])
        if not float(span) > MIN_SEPARATION * float(unsure.nan_to_num(0.0)):
            r2 = self.r2(self.sums.sum(0))
            return Measurement(
                None,
                why=f"no scale: R2 {float(r2[high]):.2f} of {one} is not clearly above {float(r2[low]):.2f} of {zero}",
            )

        def scale(total: Tensor) -> Tensor:
            r2 = self.r2(total)
            return ((r2[at] - r2[low]) / (r2[high] - r2[low]))[None]

        value, error = jackknife(self.sums, scale)
        return make_measurement(value[0], error[0])
