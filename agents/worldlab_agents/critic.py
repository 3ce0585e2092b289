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

    def loss(self, features: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy [*, K] of both critics to K targets of each value [*, K], averaged over the two.

        Both have the same targets. They differ by their initial weights.
        """
        return -torch.stack([critic(features).log_probs(targets) for critic in self.twins]).mean(0)
