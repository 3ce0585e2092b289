"""R2: the share of the variance of some factors that readings of them explain, by judged episodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from worldlab.study.measures.intervals import by_episode, jackknife, measurement
from worldlab.study.measures.undefined import Undefined
from worldlab.study.results import Measurement

CLEAR = 2.0
"""Standard errors by which one reading must be better than another before a scale is spanned between them."""
STILL = 1e-9
"""Variance of a standardised factor below which it does not move in the judged episodes."""


@dataclass(frozen=True)
class Explained:
    """Readings of the same K factors, judged on the same frames.

    sums float64 [G, 1 + (2 + P) K], over each episode's frames: how many, the factors, their squares, the squared errors of each
    reading. R2 is the mean over factors of 1 - squared error / squared deviation, -1 at least: one that hardly moves in the judged
    episodes would outweigh all others. Factors that do not move are left out.
    """

    names: tuple[str, ...]
    sums: Tensor
    moves: Tensor

    @classmethod
    def of(cls, readings: Mapping[str, Tensor], target: Tensor, episode: Tensor) -> Explained:
        """readings: by name, [N, K] each, like target; episode int [N]. Raises: Undefined if no factor moves."""
        target = target.double()
        errors = [(reading.double() - target).square() for reading in readings.values()]
        sums = by_episode(torch.cat([torch.ones(len(target), 1), target, target.square(), *errors], 1), episode)
        moves = target.var(0) > STILL
        if not bool(moves.any()):
            raise Undefined("no factor moves in the recorded episodes")
        return cls(tuple(readings), sums, moves)

    def r2(self, total: Tensor) -> Tensor:
        """R2 of every reading, [P], from sums over episodes."""
        count, (mean, square, *errors) = total[0], total[1:].unflatten(0, (-1, len(self.moves)))
        deviation = (square - mean.square() / count)[self.moves]
        return torch.stack([(1 - error[self.moves] / deviation).clamp(min=-1).mean() for error in errors])

    def score(self, name: str) -> Measurement:
        """R2 of a reading."""
        at = self.names.index(name)
        value, error = jackknife(self.sums, self.r2)
        return measurement(value[at], error[at])

    def between(self, name: str, zero: str, one: str) -> Measurement:
        """R2 of a reading on the scale on which that of `zero` is 0 and that of `one` is 1; undefined unless `one` is clearly
        the better of the two."""
        at, low, high = (self.names.index(each) for each in (name, zero, one))
        span, unsure = jackknife(self.sums, lambda total: (self.r2(total)[high] - self.r2(total)[low])[None])
        if not float(span) > CLEAR * float(unsure.nan_to_num(0.0)):
            r2 = self.r2(self.sums.sum(0))
            return Measurement(
                None,
                why=f"no scale: R2 {float(r2[high]):.2f} of {one} is not clearly above {float(r2[low]):.2f} of {zero}",
            )

        def placed(total: Tensor) -> Tensor:
            r2 = self.r2(total)
            return ((r2[at] - r2[low]) / (r2[high] - r2[low]))[None]

        value, error = jackknife(self.sums, placed)
        return measurement(value[0], error[0])
