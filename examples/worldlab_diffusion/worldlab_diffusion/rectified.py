"""Rectified flow for latents, codes, vectors and images: the loss, the ODE, and the information in a condition.

Lipman et al. 2022 (flow matching), arXiv:2210.02747, with their optimal-transport path, sigma_min = 0; Liu et al. 2022
(rectified flow), arXiv:2209.03003, eq. 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn
from worldlab.distributions import normal_like

from worldlab_diffusion.configs import Solver
from worldlab_diffusion.denoisers import Denoiser, Embedded, interpolate

COARSEST, FINEST = -3.0, 5.0
"""Range of noise levels of `information`, as log t / (1 - t). Detail finer than e^-5 of the data's std is not counted,
because a value that the condition determines exactly would have an infinite ratio."""


class FlowSettings(NamedTuple):
    """Settings of a flow. steps, solver: from noise to data. shift: see `shift_times`. unconditional: share of hidden
    conditions. draws: random times per sample in an update. nodes: noise levels of `information`.
    """

    steps: int
    solver: Solver
    unconditional: float
    draws: int
    nodes: int
    shift: float = 1.0


@final
class RectifiedFlow(nn.Module):
    """A distribution p(x | c) of data x [N, *shape] given conditions c [N, C]: noise transported along a denoiser's
    velocity.
    """

    def __init__(self, denoiser: Denoiser, condition: int, settings: FlowSettings):
        super().__init__()
        self.denoiser = denoiser
        self.settings = settings
        self.null = nn.Parameter(torch.randn(condition))

    def condition_on(self, condition: Tensor) -> FlowSamples:
        """Return p(x | c) for conditions [N, C]."""
        return FlowSamples(self.denoiser.embed(condition), self)

    def noise(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """Draw N(0, I), [N, *shape], in the weights' precision for any precision of `like` [N, ...]."""
        return self.null.new_empty(len(like), *self.denoiser.shape).normal_(generator=generator)

    # ---- the ODE dx = v dt ----

    def times(self) -> list[float]:
        """Return the solver's times, from 0 to 1."""
        even = torch.linspace(0, 1, self.settings.steps + 1, dtype=torch.float64)
        return shift_times(even, self.settings.shift).tolist()

    def trajectory(self, noise: Tensor, embedded: Embedded) -> list[Tensor]:
        """Integrate from noise [N, *shape] to standardised data; return the state at each of `times`.

        The last step is Euler's with either solver: it ends at E[x | x_t, c], and codes have no velocity at t = 1.
        """
        times, path = self.times(), [noise]
        for now, then in pairwise(times[:-1]):
            x, step = path[-1], then - now
            v = self.denoiser.velocity(x, _constant_time(now, x), embedded)
            ahead = x + step * v
            if self.settings.solver == "heun":
                ahead = x + step / 2 * (v + self.denoiser.velocity(ahead, _constant_time(then, x), embedded))
            path.append(ahead)
        return [*path, self.denoiser.endpoint(path[-1], _constant_time(times[-2], noise), embedded)]

    def bend(self, condition: Tensor, generator: torch.Generator) -> Tensor:
        """Return the curvature of trajectories relative to their length: 0 if one step is enough. A scalar.

        Liu et al. 2022, arXiv:2209.03003, eq. 7, along the solver's own steps.
        """
        path = self.trajectory(self.noise(condition, generator), self.denoiser.embed(condition))
        chord = path[-1] - path[0]
        bends = [
            (then - now) * (chord - (b - a) / (then - now)).square().mean()
            for (now, then), (a, b) in zip(pairwise(self.times()), pairwise(path))
        ]
        return torch.stack(bends).sum() / chord.square().mean().clamp(min=1e-8)

    # ---- training ----

    def loss(self, x: Tensor, condition: Tensor, generator: torch.Generator) -> Tensor:
        """Return the conditional flow-matching loss, [N], at `draws` times. x [N, *shape], in its own units; condition
        [N, C].

        A share of the conditions is hidden (classifier-free: Ho & Salimans 2022, arXiv:2207.12598), so that the same
        network learns the marginal p(x), which `information` needs.
        """
        draws = self.settings.draws
        hidden = torch.rand(len(x), generator=generator, device=x.device) < self.settings.unconditional
        embedded = self.denoiser.embed(torch.where(hidden[:, None], self.null, condition))
        embedded = tuple(part.repeat(draws, *[1] * (part.dim() - 1)) for part in embedded)
        data = self.denoiser.units(x).repeat(draws, *[1] * (x.dim() - 1))
        t = shift_times(stratified_times(len(data), data, generator), self.settings.shift)
        return self.denoiser.error(data, normal_like(data, generator), t, embedded).view(draws, -1).mean(0)

    def guide_loss(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return the loss at t = 0 and noise 0, [N]; there the optimal velocity is E[x | c], for any noise."""
        data = self.denoiser.units(x)
        nothing = torch.zeros_like(data)
        return self.denoiser.error(data, nothing, _constant_time(0.0, data), self.denoiser.embed(condition))

    # ---- information in a condition ----

    def information(self, x: Tensor, condition: Tensor) -> Tensor:
        """Estimate log p(x | c) / p(x), [N] in nats, from the reduction of denoising errors given the condition:

            integral over r = log t / (1 - t) of  e^(2 r) ( |x - E[x | x_t]|^2 - |x - E[x | x_t, c]|^2 ) dr

        This is exact for ideal denoisers, in the mean over noise and over all r: Kong et al. 2023
        (information-theoretic diffusion), arXiv:2302.03792, whose identity for log p is applied with and without a
        condition. Here it is evaluated at `nodes` levels with the same noises in every call, in antithetic pairs: an
        estimate, not a bound.
        """
        known, unknown = self.denoiser.embed(condition), self.denoiser.embed(self.null[None])
        unknown = tuple(part.expand(len(x), *part.shape[1:]) for part in unknown)
        data = self.denoiser.units(x)
        step = (FINEST - COARSEST) / self.settings.nodes
        total = data.new_zeros(len(x))
        for i, noise in enumerate(self._fixed_noise(data)):
            rate = torch.tensor(COARSEST + (i + 0.5) * step)
            t = _constant_time(float(rate.sigmoid()), data)
            noisy = interpolate(noise.expand_as(data), data, t)
            saved = self._squared_error(data, noisy, t, unknown) - self._squared_error(data, noisy, t, known)
            total = total + step * float((2 * rate).exp()) * saved
        return total

    def _squared_error(self, data: Tensor, noisy: Tensor, t: Tensor, embedded: Embedded) -> Tensor:
        return (data - self.denoiser.endpoint(noisy, t, embedded)).float().square().flatten(1).sum(1)

    def _fixed_noise(self, like: Tensor) -> Tensor:
        """Return [nodes, *shape], equal for every row and call, in antithetic pairs.

        All noises lie on the sphere that contains most of N(0, I), so that squared errors have the correct mean.
        """
        # Drawn on the CPU: random streams differ between devices, and a score should not depend on the device.
        nodes, generator = self.settings.nodes, torch.Generator().manual_seed(0)
        half = torch.randn((nodes + 1) // 2, *self.denoiser.shape, generator=generator)
        half = half / half.flatten(1).square().mean(1).sqrt().view(-1, *[1] * len(self.denoiser.shape))
        return torch.stack([half, -half], 1).flatten(0, 1)[:nodes].to(like)


@dataclass(frozen=True)
class FlowSamples:
    """The distribution p(x | c) as samples. embedded: the embedded conditions; width: std of the noise.

    The mode is the image of noise 0: a plausible value, neither the most likely one nor the mean.
    """

    embedded: Embedded
    flow: Any
    width: float = 1.0

    def sample(self, generator: torch.Generator) -> Tensor:
        """Draw [N, *shape], differentiable: pathwise, codes straight-through."""
        noise = self.width * self.flow.noise(self.embedded[0], generator)
        return self.flow.denoiser.finish(self.flow.trajectory(noise, self.embedded)[-1], generator)

    @property
    def mode(self) -> Tensor:
        """The image of noise 0, [N, *shape]."""
        noise = self.flow.null.new_zeros(len(self.embedded[0]), *self.flow.denoiser.shape)
        return self.flow.denoiser.finish(self.flow.trajectory(noise, self.embedded)[-1], None)

    def tempered(self, temperature: float) -> FlowSamples:
        """Scale the variance of the noise by `temperature`, as Glow does (arXiv:1807.03039, section 6)."""
        return FlowSamples(self.embedded, self.flow, self.width * temperature**0.5)


def stratified_times(count: int, like: Tensor, generator: torch.Generator) -> Tensor:
    """Draw uniform times [count] in [0, 1), one in each of `count` equal intervals, in random order."""
    order = torch.randperm(count, generator=generator, device=like.device)
    return (order + torch.rand(count, generator=generator, device=like.device)) / count


def shift_times(t: Tensor, shift: float) -> Tensor:
    """Move t towards the noise at 0: the signal-to-noise ratio t / (1 - t) is divided by `shift`.

    Images need it: their pixels are correlated, so content is determined early. Esser et al. 2024, arXiv:2403.03206,
    eq. 23.
    """
    return t / (t + shift * (1 - t))


def _constant_time(time: float, x: Tensor) -> Tensor:
    return x.new_full((len(x),), time)
