"""The family's density of real vectors: x = mean(c) + std(c) * f(noise; c), f an invertible network given a context
c.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from worldlab.distributions import HALF_LOG_2PI, at_least_float32, normal_like, unit_softplus


class VectorFlow(Protocol):
    """An invertible map between noise [N, D] and standardised vectors [N, D], given a context [N, C]."""

    def generate(self, noise: Tensor, context: Tensor) -> Tensor:
        """Map noise to x."""
        ...

    def normalise(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Map x to its noise [N, D], with log|det dnoise/dx| [N]."""
        ...


@dataclass(frozen=True)
class FlowDensity:
    """The density p(x | c) of x = mean + std * f(noise; c) with standard normal noise. mean, std: [N, D]; context [N,
    C]; flow: f.

    The affine map is outermost, so that f acts on standardised values at any scale of x. Its networks stay in range,
    and so do splines, which act on [-5, 5] only and are the identity elsewhere (arXiv:1906.04032, section 3.1).
    temperature: variance of the noise.
    """

    mean: Tensor
    std: Tensor
    context: Tensor
    flow: VectorFlow
    temperature: float = 1.0

    @property
    def mode(self) -> Tensor:
        """Return the image of noise 0: a typical x, not the most likely one, since the flow may be denser elsewhere."""
        return self._map_noise(self.mean.new_zeros(self.mean.shape))

    def sample(self, generator: torch.Generator) -> Tensor:
        """Draw a reparameterised sample: gradients reach mean, std, context and the flow."""
        return self._map_noise(self._scale * normal_like(self.mean, generator))

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log p(x) [N] in nats of any x [N, D], exact."""
        noise, log_det = self.flow.normalise((x - self.mean) / self.std, self.context)
        base = standard_normal_log_prob(noise / self._scale) - noise.shape[-1] * math.log(self._scale)
        return base + log_det - self.std.log().sum(-1)

    def tempered(self, temperature: float) -> FlowDensity:
        """Scale the variance of the noise by the temperature; the mode stays. Kingma & Dhariwal 2018 (Glow),
        arXiv:1807.03039, section 6.
        """
        return replace(self, temperature=self.temperature * temperature)

    @property
    def _scale(self) -> float:
        return math.sqrt(self.temperature)

    def _map_noise(self, noise: Tensor) -> Tensor:
        return self.mean + self.std * self.flow.generate(noise, self.context)


class FlowHead(nn.Module):
    """A layer that maps a context [N, C] and a flow to a FlowDensity over [N, D]. std is at least `min_std`."""

    def __init__(self, context: int, dim: int, min_std: float):
        super().__init__()
        self.affine = nn.Linear(context, 2 * dim)
        self.min_std = min_std

    def forward(self, context: Tensor, flow: VectorFlow) -> FlowDensity:
        mean, raw = at_least_float32(self.affine(context)).chunk(2, -1)
        return FlowDensity(mean, unit_softplus(raw) + self.min_std, context, flow)

    @torch.no_grad()
    def standardise(self, mean: Tensor, std: Tensor) -> None:
        """Change the weights so that means with these moments over the data, [D] each, get moments 0 and 1."""
        dim = len(mean)
        self.affine.bias[:dim].sub_(mean).div_(std)
        self.affine.weight[:dim].div_(std[:, None])


def standard_normal_log_prob(noise: Tensor) -> Tensor:
    """Return log N(noise; 0, I), summed over all but the first dimension: [N, ...] -> [N]."""
    return (-0.5 * noise.square() - HALF_LOG_2PI).flatten(1).sum(1)
