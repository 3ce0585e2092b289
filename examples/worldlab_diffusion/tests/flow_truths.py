"""Data whose truth is known, denoisers that are exact for it, and a plain training loop."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from worldlab.interfaces import ActionSpec, Batch, Context, Latent, LatentSpec, ObsSpec, Specs
from worldlab.specs import ArraySpec

from worldlab_diffusion.denoisers import RealDenoiser
from worldlab_diffusion.networks import VectorVelocity
from worldlab_diffusion.rectified import FlowSettings, RectifiedFlow
from worldlab_diffusion.standardise import Standardiser

SETTINGS = FlowSettings(steps=4, solver="heun", unconditional=0.2, draws=4, nodes=16)
SIDE = 16


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_specs(obs: ArraySpec | None = None, latent: LatentSpec | None = None, memory: int = 1) -> Specs:
    entry = obs or ArraySpec("vector", (3,))
    latent = latent or LatentSpec(1)
    return Specs(ObsSpec((("seen", entry),)), ActionSpec("continuous", 2), latent, memory, True)


def context(obs: dict[str, Tensor], z: Tensor, memory: Tensor, action: Tensor, generator: torch.Generator) -> Context:
    """One forward pass, as the core would hand it over. obs leaves, z, memory, action: [B, T, ...]; no resets inside."""
    rows, length = z.shape[:2]
    ones, is_first = torch.ones(rows, length), torch.zeros(rows, length, dtype=torch.bool)
    is_first[:, 0] = True
    row, time = torch.meshgrid(torch.arange(rows), torch.arange(length), indexing="ij")
    batch = Batch(obs, action, torch.zeros(rows, length), ones, is_first, ones)
    features = torch.cat([memory, z], -1)
    return Context(batch, z, memory, Latent(z), features, None, row, time, generator)


def vector_flow(dim: int, condition: int, units: int = 64, settings: FlowSettings = SETTINGS) -> RectifiedFlow:
    torch.manual_seed(0)
    return RectifiedFlow(RealDenoiser(VectorVelocity(dim, 2 * dim, condition, units, 2), (dim,)), condition, settings)


def train(part: nn.Module, loss: Callable[[int], Tensor], steps: int, rate: float = 3e-3) -> None:
    """Adam with a rate that falls to 0; loss(step) is a scalar."""
    optimizer = torch.optim.Adam(part.parameters(), rate)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
        optimizer.zero_grad()
        loss(step).backward()
        optimizer.step()


def fit(flow: RectifiedFlow, draw: Callable[[], tuple[Tensor, Tensor]], steps: int, seed: int = 1) -> None:
    """Flow matching on batches (condition, x) of `draw`."""
    g = gen(seed)

    def loss(step: int) -> Tensor:
        condition, x = draw()
        flow.denoiser.units.update()
        flow.denoiser.record_moments(x, torch.ones(len(x)))
        return flow.loss(x, condition, g).mean()

    train(flow, loss, steps)


def energy_distance(a: Tensor, b: Tensor) -> float:
    """2 E|a - b| - E|a - a'| - E|b - b'|: 0 only for equal distributions. Szekely & Rizzo 2013. a [N, D], b [M, D]."""
    within = [torch.cdist(x, x).sum() / (len(x) * (len(x) - 1)) for x in (a, b)]
    return float(2 * torch.cdist(a, b).mean() - within[0] - within[1])


def four_modes(condition: Tensor, g: torch.Generator) -> Tensor:
    """x [N, 2] around four points of the unit circle, turned by condition [N, 1]; weights .4 .3 .2 .1, std .1."""
    mode = torch.multinomial(torch.tensor([0.4, 0.3, 0.2, 0.1]), len(condition), True, generator=g)
    angle = mode * math.pi / 2 + condition[:, 0]
    return torch.stack([angle.cos(), angle.sin()], -1) + 0.1 * torch.randn(len(condition), 2, generator=g)


class CorrelatedNormals:
    """x | c ~ N(rho c, 1 - rho^2), entry by entry, with c and x standard normal: what the best denoiser knows of it."""

    def __init__(self, dim: int, rho: float):
        self.shape, self.rho, self.units = (dim,), rho, Standardiser((dim,))

    def embed(self, condition: Tensor) -> tuple[Tensor, ...]:
        """A condition of NaN is a hidden one."""
        return (condition,)

    def endpoint(self, x: Tensor, t: Tensor, embedded: tuple[Tensor, ...]) -> Tensor:
        hidden, at = embedded[0].isnan(), t[:, None]
        mean = torch.where(hidden, 0.0, self.rho * embedded[0])
        variance = torch.where(hidden, 1.0, 1 - self.rho**2)
        return mean + at * variance / (at**2 * variance + (1 - at) ** 2) * (x - at * mean)

    def velocity(self, x: Tensor, t: Tensor, embedded: tuple[Tensor, ...]) -> Tensor:
        return (self.endpoint(x, t, embedded) - x) / (1 - t[:, None])

    def finish(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        return x

    def flow(self, settings: FlowSettings) -> RectifiedFlow:
        flow = RectifiedFlow(self, len(self.shape), settings)  # type: ignore[arg-type]
        flow.null = nn.Parameter(torch.full(self.shape, float("nan")))
        return flow


def striped_sprites(where: Tensor, phase: Tensor) -> Tensor:
    """A striped blob at `where` [N, 2]; phase [N] long, 0 or 1, swaps dark and bright stripes. [N, 1, SIDE, SIDE]."""
    line = torch.linspace(-1, 1, SIDE)
    distance = (line[:, None] - where[:, :1, None]).square() + (line - where[:, 1:, None]).square()
    stripes = ((torch.arange(SIDE) // 2 + phase[:, None]) % 2) * 2.0 - 1
    return (0.5 * torch.exp(-distance / 0.15) * stripes[:, None, :])[:, None]
