"""The expectation of data given a noisy observation of it: for real numbers, and for codes.

    x_t = (1 - t) noise + t x         from noise N(0, I) at t = 0 to data, standardised, at t = 1

Both kinds are exact, before any training, for the simplest data of their kind; the network learns only the difference
from it.
"""

from __future__ import annotations

from typing import Protocol, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from worldlab.distributions import OneHot
from worldlab.specs import LatentSpec

from worldlab_diffusion.networks import PictureVelocity, VectorVelocity
from worldlab_diffusion.standardise import Standardiser, for_codes

Embedded = tuple[Tensor, ...]
"""Network embeddings of the conditions, computed once for all steps: leaves [N, ...]."""

LAST = 0.99
"""Codes: largest t at which noise is separated from data, so that the evidence of x_t about its own code stays finite.
"""
TINY = 1e-6


class Denoiser(Protocol):
    """The expectation E[x | x_t, c] of data [N, *shape] in standardised units, in each of the forms that a flow
    needs.
    """

    shape: tuple[int, ...]
    units: Standardiser

    def embed(self, condition: Tensor) -> Embedded:
        """Embed the condition [N, C], once for all steps."""
        ...

    def velocity(self, x: Tensor, t: Tensor, embedded: Embedded) -> Tensor:
        """Return E[x - noise | x_t, c], [N, *shape]. x: x_t, [N, *shape]; t [N] in [0, 1]."""
        ...

    def endpoint(self, x: Tensor, t: Tensor, embedded: Embedded) -> Tensor:
        """Return E[x | x_t, c], [N, *shape]: the endpoint of the velocity."""
        ...

    def error(self, data: Tensor, noise: Tensor, t: Tensor, embedded: Embedded) -> Tensor:
        """Return a loss [N] whose mean is smallest at the expectation."""
        ...

    def finish(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """Convert the end of the ODE to data in its own units; generator None: the most likely value."""
        ...

    def record_moments(self, x: Tensor, mask: Tensor) -> None:
        """Record the moments of x [N, *shape], in its own units, where mask [N] is not 0; `units.update` applies
        them.
        """
        ...


@final
class RealDenoiser(nn.Module):
    """A denoiser of real vectors and images:

        v = (2 t - 1) s^2 x_t + s (gain s x_t + offset),        s = 1 / sqrt(t^2 + (1 - t)^2)

    The first term is exact for x ~ N(0, I), and s is the std of the residual: the preconditioning of Karras et al.
    2022, arXiv:2206.00364, table 1, for this path. The network computes gain and offset; an entry that c determines
    needs both.
    """

    def __init__(self, net: VectorVelocity | PictureVelocity, shape: tuple[int, ...]):
        super().__init__()
        self.net, self.shape = net, shape
        self.units = Standardiser(() if len(shape) == 3 else shape)

    def embed(self, condition: Tensor) -> Embedded:
        return self.net.embed(condition)

    def velocity(self, x: Tensor, t: Tensor, embedded: Embedded) -> Tensor:
        at = expand_time(t, x)
        s = (at.square() + (1 - at).square()).rsqrt()
        gain, offset = self.net(s * x, t, embedded).chunk(2, 1)
        return (2 * at - 1) * s.square() * x + s * (gain * s * x + offset)

    def endpoint(self, x: Tensor, t: Tensor, embedded: Embedded) -> Tensor:
        return x + (1 - expand_time(t, x)) * self.velocity(x, t, embedded)

    def error(self, data: Tensor, noise: Tensor, t: Tensor, embedded: Embedded) -> Tensor:
        """Return half the squared error of the velocity, summed over entries."""
        v = self.velocity(interpolate(noise, data, t), t, embedded)
        return 0.5 * (v - (data - noise)).float().square().flatten(1).sum(1)

    def finish(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        return self.units.inverse(x)

    def record_moments(self, x: Tensor, mask: Tensor) -> None:
        self.units.record_moments(x, mask)


@final
class CodeDenoiser(nn.Module):
    """A denoiser of codes, rows of flat one-hots [N, G * C]. The channel from x to x_t is known, so by Bayes' rule

        E[x | x_t, c] = softmax( net(x_t, t, c) + t x_t / (std (1 - t)^2) )        std of a standardised one-hot

    and the network only predicts each code without the evidence of that code's own noisy one-hot; untrained it predicts
    a uniform. Trained by cross-entropy: Eijkelboom et al. 2024 (CatFlow), arXiv:2406.04843. The last step of a sample
    draws each code from this softmax instead of using the mean.
    """

    def __init__(self, net: VectorVelocity, latent: LatentSpec):
        super().__init__()
        self.net, self.shape = net, (latent.dim,)
        self.groups = (latent.groups, latent.classes)
        self.units = for_codes(latent.classes, latent.dim)

    def embed(self, condition: Tensor) -> Embedded:
        return self.net.embed(condition)

    def log_probs(self, x: Tensor, t: Tensor, embedded: Embedded) -> Tensor:
        """Return log P(code | x_t, c), [N, G, C]."""
        at = expand_time(t, x).clamp(max=LAST)
        seen = at * x / (self.units.std * (1 - at).square())
        return F.log_softmax((self.net(x, t, embedded) + seen).float().unflatten(-1, self.groups), -1)

    def endpoint(self, x: Tensor, t: Tensor, embedded: Embedded) -> Tensor:
        return self.units(self.log_probs(x, t, embedded).exp().flatten(1))

    def velocity(self, x: Tensor, t: Tensor, embedded: Embedded) -> Tensor:
        return (self.endpoint(x, t, embedded) - x) / (1 - expand_time(t, x).clamp(max=LAST))

    def error(self, data: Tensor, noise: Tensor, t: Tensor, embedded: Embedded) -> Tensor:
        """Return the cross-entropy of the codes given x_t, in nats."""
        log_probs = self.log_probs(interpolate(noise, data, t), t, embedded)
        return -(self.units.inverse(data).unflatten(-1, self.groups) * log_probs).sum((1, 2))

    def finish(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return straight-through one-hots: drawn with a generator, else the most likely."""
        probs = self.units.inverse(x).unflatten(-1, self.groups)
        dist = OneHot(F.log_softmax(probs.clamp(min=TINY).log(), -1))
        return dist.mode if generator is None else dist.sample(generator)

    def record_moments(self, x: Tensor, mask: Tensor) -> None:
        """Do nothing: the units of codes are fixed."""


def interpolate(noise: Tensor, data: Tensor, t: Tensor) -> Tensor:
    """Return x_t, [N, *shape], on the line from noise (t = 0) to data (t = 1). t [N]."""
    at = expand_time(t, data)
    return (1 - at) * noise + at * data


def expand_time(t: Tensor, x: Tensor) -> Tensor:
    """Reshape t [N] to [N, 1, ...] for broadcasting with x [N, ...]."""
    return t.view(-1, *[1] * (x.dim() - 1))
