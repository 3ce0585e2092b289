"""The running average of a generator's weights, which replaces the generator in predictions and dreams.

The players of a game circle its solution instead of converging to it. Their average is closer to the solution (Yazici
et al. 2018, arXiv:1806.04498; Karras et al. 2017, arXiv:1710.10196).
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from worldlab.nn import ema_update


class RunningAverage(nn.Module):
    """An exponential moving average, mean <- mean + rate (source - mean) after each update; no optimiser trains it.

    The rate starts at 9 / 11 and falls as 9 / (10 + n) to `rate`, so that a short run does not dream with initial
    weights.
    """

    count: Tensor

    def __init__(self, source: nn.Module, rate: float):
        super().__init__()
        self.rate = rate
        self.mean = copy.deepcopy(source).requires_grad_(False)
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    def update(self, source: nn.Module) -> None:
        self.count += 1
        ema_update(self.mean, source, (9 / (10 + self.count)).clamp(min=self.rate))
