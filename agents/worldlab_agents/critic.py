"""Value functions of an actor-critic: twins, of which the smaller value counts (Fujimoto et al. 2018, TD3, arXiv:1802.09477).

A critic that bootstraps from itself turns its own errors into targets, and an actor that climbs its value selects the errors
that are too high. The smaller of two independently initialised critics is a lower estimate where they disagree, so the
errors do not grow (there: section 4.2). One critic is what DreamerV3 has.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from worldlab.heads import TwoHotHead


@final
class Critics(nn.Module):
    """Two-hot critics of the same features, of which the smallest value counts. features [*, F] -> value [*]."""

    def __init__(self, features: int, units: int, layers: int, count: int = 2):
        super().__init__()
        self.each = nn.ModuleList(TwoHotHead(features, units, layers) for _ in range(count))

    def forward(self, features: Tensor) -> Tensor:
        """Return the smallest of the values of features [*, F]: [*]."""
        values = [critic(features).mean for critic in self.each]
        return values[0] if len(values) == 1 else torch.minimum(*values)

    def loss(self, features: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy [*, K] of the critics to K targets of each value [*, K], averaged over the critics.

        All have the same targets. They differ by their initial weights.
        """
        return -torch.stack([critic(features).log_probs(targets) for critic in self.each]).mean(0)
