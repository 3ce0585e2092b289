"""The core's heads on features: reward, continuation, and a probe that draws pictures."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worldlab.distributions import Bernoulli, TwoHot
from worldlab.nn import ObsHead, mlp
from worldlab.specs import ObsSpec


class TwoHotHead(nn.Module):
    """Predicts a scalar as a two-hot distribution whose initial mean is exactly 0. features [*, F] -> TwoHot [*]."""

    def __init__(self, features: int, units: int, layers: int):
        super().__init__()
        self.net = mlp(features, units, layers, TwoHot.BINS, zero=True)
        last = self.net[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            last.bias.copy_(TwoHot.initial_bias())

    def forward(self, features: Tensor) -> TwoHot:
        return TwoHot(self.net(features))


class ContinueHead(nn.Module):
    """Predicts whether the episode continues after arrival at features. features [*, F] -> Bernoulli [*]."""

    def __init__(self, features: int, units: int, layers: int):
        super().__init__()
        self.net = mlp(features, units, layers, 1)

    def forward(self, features: Tensor) -> Bernoulli:
        return Bernoulli(self.net(features)[..., 0])


class ProbeDecoder(nn.Module):
    """Decodes pictures from detached features.

    Its loss does not train the model, so the pictures show what the features contain without changing them.
    """

    def __init__(self, obs: ObsSpec, features: int, units: int, width: int = 8):
        super().__init__()
        self.head = ObsHead(obs, features, width, units, 2)

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """Decode features [N, F], which are detached here. Returns {key: [N, *shape]}."""
        return self.head(features.detach())

    def losses(self, features: Tensor, obs: dict[str, Tensor]) -> Tensor:
        """Return the squared error of each frame, summed over entries: [N]."""
        out = self(features)
        return torch.stack([(out[key] - obs[key]).square().flatten(1).sum(1) for key in out]).sum(0)
