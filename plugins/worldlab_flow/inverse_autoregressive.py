"""The inverse autoregressive flow: a masked autoregressive flow with its directions swapped.

Masked autoregressive flow: Papamakarios et al. 2017, arXiv:1705.07057. Inverse: Kingma et al. 2016, arXiv:1606.04934.
An encoder scores only its own samples, so the fast direction must be from noise to z.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Transform
from zuko.flows.autoregressive import MaskedAutoregressiveTransform
from zuko.lazy import LazyComposedTransform
from zuko.transforms import MonotonicAffineTransform

from worldlab.distributions import at_least_float32
from worldlab_flow.location_scale import FlowDensity, standard_normal_log_prob

SLOPE = math.exp(-3)
"""Each transform scales by a factor between SLOPE and 1 / SLOPE."""


class InverseAutoregressiveFlow(nn.Module):
    """The map x_i = noise_i exp(s_i) + t_i, where s_i, t_i depend on noise_<i and the context; the order alternates.

    Implements VectorFlow. Sampling takes one network call per transform for any D; inverting a given x takes D.
    """

    def __init__(self, dim: int, context: int, transforms: int, units: int, layers: int):
        super().__init__()
        ascending = torch.arange(dim)
        steps = []
        for i in range(transforms):
            step = MaskedAutoregressiveTransform(
                dim,
                context,
                order=ascending.flip(0) if i % 2 else ascending,  # type: ignore[arg-type]
                univariate=_affine,
                # The masks divide the hidden units among the entries; fewer than D would starve the last entries.
                hidden_features=[max(units, dim)] * layers,
                activation=nn.SiLU,
            )
            _zero_init(list(step.hyper.children())[-1])  # the identity at first
            steps.append(step)
        self.steps = LazyComposedTransform(*steps)

    def generate(self, noise: Tensor, context: Tensor) -> Tensor:
        return self.steps(context)(noise)

    def generate_with_log_det(self, noise: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Map noise to x, with log|det dx/dnoise| [N] from the same network calls."""
        return self.steps(context).call_and_ladj(noise)

    def normalise(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Map x to noise, with log|det dnoise/dx|: entry by entry, D network calls per transform."""
        return self.steps(context).inv.call_and_ladj(x)

    def log_scales(self, noise: Tensor, context: Tensor) -> list[Tensor]:
        """Return the log-scales of each transform, [N, D] each; their sum over D and transforms is the
        log-determinant.
        """
        out = []
        steps: Any = self.steps.transforms
        for step in steps:
            maps = step.meta(context, noise) if hasattr(step, "meta") else step(context)  # one entry: no predecessors
            noise = maps(noise)
            out.append(maps.base.log_scale.expand_as(noise))
        return out


class MaskedAutoregressiveFlow(nn.Module):
    """The same map with its directions swapped: noise_i = x_i exp(s_i) + t_i, where s_i, t_i depend on x_<i and the context.

    Papamakarios et al. 2017, arXiv:1705.07057. Implements VectorFlow. The noise of a given x takes one network call per
    transform for any D; a sample takes D.
    """

    def __init__(self, dim: int, context: int, transforms: int, units: int, layers: int):
        super().__init__()
        self.inverse = InverseAutoregressiveFlow(dim, context, transforms, units, layers)

    def generate(self, noise: Tensor, context: Tensor) -> Tensor:
        return self.inverse.normalise(noise, context)[0]

    def normalise(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        return self.inverse.generate_with_log_det(x, context)

    def normalise_with_slopes(self, x: Tensor, context: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the noise and, by transform, the log-slopes [N, D], whose sum is the log-determinant."""
        return self.inverse.generate(x, context), self.inverse.log_scales(x, context)


def sample_with_log_prob(density: FlowDensity, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sample [N, D] of the given noise and its log-density [N] in nats, at one network call per
    transform.
    """
    flow = density.flow
    assert isinstance(flow, InverseAutoregressiveFlow)
    x, log_det = flow.generate_with_log_det(noise, density.context)
    log_prob = standard_normal_log_prob(noise) - log_det - density.std.log().sum(-1)
    return density.mean + density.std * x, log_prob


def _affine(shift: Tensor, log_scale: Tensor) -> Transform:
    return MonotonicAffineTransform(at_least_float32(shift), at_least_float32(log_scale), slope=SLOPE)


@torch.no_grad()
def _zero_init(layer: nn.Module) -> None:
    for p in layer.parameters():
        p.zero_()
