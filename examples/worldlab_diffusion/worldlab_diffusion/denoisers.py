"""What is expected of data, given a look at it through noise: for real numbers, and for codes.

    x_t = (1 - t) noise + t x         from noise N(0, I) at t = 0 to data, standardised, at t = 1

Both kinds answer exactly, before any training, for the simplest data of their kind, and ask the network only for what
differs from it.
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
"""What a network made of the conditions, once for all steps: leaves [N, ...]."""

LAST = 0.99
"""Codes: largest t at which noise is told from data, so that what x_t says of its own code stays finite."""
TINY = 1e-6


class Denoiser(Protocol):
    """E[x | x_t, c] of data [N, *shape] in standardised units, in each of the forms that a flow needs."""

    shape: tuple[int, ...]
    units: Standardiser

    def embed(self, condition: Tensor) -> Embedded:
        """What does not change from step to step. condition [N, C]."""
        ...

    def velocity(self, x: Tensor, t: Tensor, embedded: Embedded) -> Tensor:
        """E[x - noise | x_t, c], [N, *shape]. x: x_t, [N, *shape]; t [N] in [0, 1]."""
        ...

    def endpoint(self, x: Tensor, t: Tensor, embedded: Embedded) -> Tensor:
        """E[x | x_t, c], [N, *shape]: where the velocity points."""
        ...

    def error(self, data: Tensor, noise: Tensor, t: Tensor, embedded: Embedded) -> Tensor:
        """A loss [N] that is smallest, in the mean, at the expectation."""
        ...

    def finish(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """From the end of the ODE to data in its own units; generator None: the likeliest."""
        ...

    def record_moments(self, x: Tensor, mask: Tensor) -> None:
        """Note the moments of x [N, *shape], in its own units, where mask [N] is not 0; `units.follow` takes them over."""
        ...


@final
class RealDenoiser(nn.Module):
    """Of real vectors and pictures:

        v = (2 t - 1) s^2 x_t + s (gain s x_t + offset),        s = 1 / sqrt(t^2 + (1 - t)^2)

    The first term is the answer for x ~ N(0, I), and s the std of what it leaves open: the preconditioning of Karras et
    al. 2022, arXiv:2206.00364, table 1, for this path. gain and offset are the network's; an entry that c gives away
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
        """Half the squared error of the velocity, summed over entries."""
        v = self.velocity(interpolate(noise, data, t), t, embedded)
        return 0.5 * (v - (data - noise)).float().square().flatten(1).sum(1)

    def finish(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        return self.units.inverse(x)

    def record_moments(self, x: Tensor, mask: Tensor) -> None:
        self.units.record_moments(x, mask)


@final
class CodeDenoiser(nn.Module):
    """Of codes, rows of flat one-hots [N, G * C]. The channel from x to x_t is known, so by Bayes' rule

        E[x | x_t, c] = softmax( net(x_t, t, c) + t x_t / (std (1 - t)^2) )        std of a standardised one-hot

    and the network need only say what it expects of each code before it sees that code's own noisy one-hot: all alike,
    untrained. Learned by cross-entropy: Eijkelboom et al. 2024 (CatFlow), arXiv:2406.04843. The last step of a sample
    draws each code from this softmax instead of taking the mean.
    """

    def __init__(self, net: VectorVelocity, latent: LatentSpec):
        super().__init__()
        self.net, self.shape = net, (latent.dim,)
        self.groups = (latent.groups, latent.classes)
        self.units = for_codes(latent.classes, latent.dim)

    def embed(self, condition: Tensor) -> Embedded:
        return self.net.embed(condition)

    def log_probs(self, x: Tensor, t: Tensor, embedded: Embedded) -> Tensor:
        """log P(code | x_t, c), [N, G, C]."""
        at = expand_time(t, x).clamp(max=LAST)
        seen = at * x / (self.units.std * (1 - at).square())
        return F.log_softmax((self.net(x, t, embedded) + seen).float().unflatten(-1, self.groups), -1)

    def endpoint(self, x: Tensor, t: Tensor, embedded: Embedded) -> Tensor:
        return self.units(self.log_probs(x, t, embedded).exp().flatten(1))

    def velocity(self, x: Tensor, t: Tensor, embedded: Embedded) -> Tensor:
        return (self.endpoint(x, t, embedded) - x) / (1 - expand_time(t, x).clamp(max=LAST))

    def error(self, data: Tensor, noise: Tensor, t: Tensor, embedded: Embedded) -> Tensor:
        """Cross-entropy of the codes given what is seen of them, in nats."""
        log_probs = self.log_probs(interpolate(noise, data, t), t, embedded)
        return -(self.units.inverse(data).unflatten(-1, self.groups) * log_probs).sum((1, 2))

    def finish(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """Straight-through one-hots: drawn where a generator is given, else the likeliest."""
        probs = self.units.inverse(x).unflatten(-1, self.groups)
        dist = OneHot(F.log_softmax(probs.clamp(min=TINY).log(), -1))
        return dist.mode if generator is None else dist.sample(generator)

    def record_moments(self, x: Tensor, mask: Tensor) -> None:
        """Nothing: the units of codes are fixed."""


def interpolate(noise: Tensor, data: Tensor, t: Tensor) -> Tensor:
    """x_t, [N, *shape]: straight from noise (t = 0) to data (t = 1). t [N]."""
    at = expand_time(t, data)
    return (1 - at) * noise + at * data


def expand_time(t: Tensor, x: Tensor) -> Tensor:
    """t [N] as [N, 1, ...], to be multiplied with x [N, ...]."""
    return t.view(-1, *[1] * (x.dim() - 1))
