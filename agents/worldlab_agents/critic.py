"""Value functions of an actor-critic: twins, of which the smaller value counts (Fujimoto et al. 2018, TD3, arXiv:1802.09477).

A critic that bootstraps from itself turns its own errors into targets, and an actor that climbs its value selects the errors
that are too high. The smaller of two independently initialised critics is a lower estimate where they disagree, so the
errors do not grow (there: section 4.2). One critic is what DreamerV3 has.

A critic that starts at 0 is optimistic where every reward is negative: states that no update has seen keep values near 0, above
all that are known, and the policy seeks them. So all values start at the return of the first data, but not above 0.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from worldlab.heads import TwoHotHead


@final
class Critics(nn.Module):
    """Two-hot critics of the same features, of which the smallest value counts. features [*, F] -> value [*].

    They predict the difference to `start`, which is 0 until `start_at` sets it.
    """

    start: Tensor
    started: Tensor

    def __init__(self, features: int, units: int, layers: int, count: int = 2):
        super().__init__()
        self.each = nn.ModuleList(TwoHotHead(features, units, layers) for _ in range(count))
        self.register_buffer("start", torch.zeros(()))
        self.register_buffer("started", torch.zeros(()))

    @torch.no_grad()
    def start_at(self, value: Tensor) -> None:
        """Start all values at a scalar. Only the first call with a finite value has an effect."""
        first = value.isfinite() & (self.started == 0)
        self.start.copy_(torch.where(first, value, self.start))
        self.started.copy_(torch.where(first, 1.0, self.started))

    def forward(self, features: Tensor) -> Tensor:
        """Return the smallest of the values of features [*, F]: [*]."""
        values = [critic(features).mean for critic in self.each]
        return self.start + (values[0] if len(values) == 1 else torch.minimum(*values))

    def loss(self, features: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy [*, K] of the critics to K targets of each value [*, K], averaged over the critics.

        All have the same targets. They differ by their initial weights.
        """
        return -torch.stack([critic(features).log_probs(targets - self.start) for critic in self.each]).mean(0)
