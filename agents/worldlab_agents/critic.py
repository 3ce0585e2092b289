"""Twin critics: two value functions, of which the smaller value counts. Fujimoto et al. 2018 (TD3), arXiv:1802.09477.

A critic that bootstraps from itself turns its own errors into targets, and an actor that climbs its value selects the errors
that are too high. The smaller of two independently initialised critics is a lower estimate where they disagree, so the
errors do not grow (there: section 4.2).
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from worldlab.heads import TwoHotHead


@final
class TwinCritic(nn.Module):
    """Two two-hot critics of the same features. features [*, F] -> value [*]."""

    def __init__(self, features: int, units: int, layers: int):
        super().__init__()
        self.twins = nn.ModuleList(TwoHotHead(features, units, layers) for _ in range(2))

    def forward(self, features: Tensor) -> Tensor:
        """Return the smaller of the two values of features [*, F]: [*]."""
        first, second = (critic(features).mean for critic in self.twins)
        return torch.minimum(first, second)

    def loss(self, features: Tensor, *targets: Tensor) -> list[Tensor]:
        """Return the cross-entropy of both critics to each of the targets [*], averaged over the two: a list of [*].

        Both have the same targets. They differ by their initial weights.
        """
        predictions = [critic(features) for critic in self.twins]
        return [-torch.stack([prediction.log_prob(target) for prediction in predictions]).mean(0) for target in targets]
