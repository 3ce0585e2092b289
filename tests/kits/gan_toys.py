"""Small worlds for the tests of the adversarial family: specs, contexts, and data whose truth is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from config_kit import configured
from family_kit import gen as gen
from family_kit import make_batch as any_batch
from model_kit import weighted_losses
from torch import Tensor, nn
from worldlab_gan.configs import GANDecoderConfig, GANDynamicsConfig, GANEncoderConfig
from worldlab_gan.decoder import GANDecoder
from worldlab_gan.dynamics import GANDynamics
from worldlab_gan.encoder import GANEncoder
from worldlab_gan.energy import distance, energy_score, spread

from worldlab.distributions import Distribution
from worldlab.interfaces import Batch, Component, Context, Latent, Obs
from worldlab.nn import frozen_parameters
from worldlab.settings import ModelSettings
from worldlab.specs import ActionSpec, ArraySpec, LatentSpec, ObsSpec, Specs
from worldlab.world_model import WorldModel

IMAGE = ("image", ArraySpec("image", (3, 16, 16)))
VECTOR = ("state", ArraySpec("vector", (5,)))


def make_specs(
    obs=(VECTOR,), latent: LatentSpec | None = None, memory: int = 6, action: int = 2, use_memory: bool = True
) -> Specs:
    return Specs(ObsSpec(tuple(obs)), ActionSpec("continuous", action), latent or LatentSpec(4), memory, use_memory)


def make_batch(specs: Specs, rows: int = 4, length: int = 6, seed: int = 0) -> Batch:
    return any_batch(specs, rows, length, seed)


def small_encoder(specs: Specs, **config) -> GANEncoder:
    sizes = dict(latent_dim=specs.latent.dim, noise=3, width=4, units=16, layers=2)
    return GANEncoder(configured(GANEncoderConfig, **sizes | config), specs)


def small_dynamics(specs: Specs, **config) -> GANDynamics:
    sizes = dict(memory=specs.memory_dim, units=16, noise=3)
    return GANDynamics(configured(GANDynamicsConfig, **sizes | config), specs)


def small_decoder(specs: Specs, **config) -> GANDecoder:
    sizes = dict(width=4, units=16, noise=3)
    return GANDecoder(configured(GANDecoderConfig, **sizes | config), specs)


def small_model(specs: Specs, **dynamics) -> WorldModel:
    torch.manual_seed(0)
    parts = (small_encoder(specs), small_dynamics(specs, **dynamics), small_decoder(specs))
    return WorldModel(specs, *parts, ModelSettings(units=16))


def context(
    z: Tensor,
    memory: Tensor | None = None,
    prior: Distribution | None = None,
    obs: Obs | None = None,
    embed: Tensor | None = None,
    seed: int = 0,
) -> Context:
    """N unrelated frames, as a context [N, 1]: latents z [N, D], memory [N, H], obs [N, ...] leaves."""
    memory = torch.zeros(len(z), 0) if memory is None else memory
    one, zero = torch.ones(len(z), 1), torch.zeros(len(z), 1)
    seen = {key: leaf[:, None] for key, leaf in (obs or {}).items()}
    row, time = torch.arange(len(z))[:, None], torch.zeros(len(z), 1, dtype=torch.long)
    batch = Batch(seen, zero[..., None], zero, one, zero.bool(), one)
    inside = (z if embed is None else embed)[:, None]
    features = torch.cat([memory, z], -1)[:, None]
    return Context(batch, inside, memory[:, None], Latent(z[:, None]), features, prior, row, time, gen(seed))


def play(
    part: Component,
    draw: Callable[[int], Context],
    steps: int,
    rate: float,
    also: Callable[[Context], Tensor] | None = None,
    modules: tuple[nn.Module, ...] = (),
) -> Iterator[int]:
    """Train as the trainer does: the critic on the detached context (Adam with beta1 = 0), then main against it.

    The rate falls linearly to a tenth. draw(step): the context. also: a further loss of main, a scalar. modules:
    trained with main. Yields after each step.
    """
    groups = {name: player.parameters for name, player in part.players().items()}
    critics = torch.optim.Adam(groups["critic"], rate, betas=(0.0, 0.999))
    main = torch.optim.Adam([*groups["main"], *(p for m in modules for p in m.parameters())], rate)
    schedules = [torch.optim.lr_scheduler.LinearLR(o, 1.0, 0.1, steps) for o in (critics, main)]
    for step in range(steps):
        ctx = draw(step)
        _descend(critics, total(weighted_losses(part, ctx.detach(), "critic")))
        part.after_step("critic")
        with frozen_parameters(groups["critic"]):
            _descend(main, total(weighted_losses(part, ctx)) + (also(ctx) if also else 0))
        part.after_step("main")
        for schedule in schedules:
            schedule.step()
        yield step


def total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack([term.mean() for term in terms.values()]).sum()


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


class Judgement(NamedTuple):
    """energy: the energy score. apart: mean distance of samples of one memory. shares: of samples near each mode."""

    energy: float
    apart: float
    shares: list[float]


class FourModes:
    """A next latent with four outcomes of weights .4, .3, .2, .1, on a circle that the memory turns.

    memory: one-hot of three contexts, [N, 3]. z: [N, 2], STD around its mode.
    """

    WEIGHTS = torch.tensor([0.4, 0.3, 0.2, 0.1])
    TURNS = torch.tensor([0.0, 0.5, 1.0])
    RADIUS, STD = 3.4, 0.15

    def memory(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.eye(3)[torch.randint(3, (n,), generator=generator)]

    def centres(self, memory: Tensor) -> Tensor:
        """[N, 3] -> [N, 4, 2]."""
        angle = (memory @ self.TURNS)[:, None] + math.pi / 4 + math.pi / 2 * torch.arange(4)
        return self.RADIUS * torch.stack([angle.cos(), angle.sin()], -1)

    def sample(self, memory: Tensor, generator: torch.Generator) -> Tensor:
        mode = torch.multinomial(self.WEIGHTS.expand(len(memory), 4), 1, generator=generator)[:, 0]
        centre = self.centres(memory)[torch.arange(len(memory)), mode]
        return centre + self.STD * torch.randn(centre.shape, generator=generator)

    def gaussian(self, memory: Tensor, generator: torch.Generator) -> Tensor:
        """The best factorised Gaussian for each memory: the true mean and std of every entry."""
        centres, weights = self.centres(memory), self.WEIGHTS[None, :, None]
        mean = (weights * centres).sum(1)
        var = (weights * (centres - mean[:, None]).square()).sum(1) + self.STD**2
        return mean + var.sqrt() * torch.randn(mean.shape, generator=generator)

    def judge(self, sampler: Callable[[Tensor], Tensor], n: int = 2000, count: int = 16) -> Judgement:
        """sampler: memory [N, 3] -> one sample each, [N, 2]."""
        g = gen(123)
        memory = self.memory(n, g)
        truth = self.sample(memory, g)
        with torch.no_grad():
            samples = torch.stack([sampler(memory) for _ in range(count)])
        away = distance(samples[:, :, None], self.centres(memory))  # [count, N, 4]
        near = away < 6 * self.STD
        energy, apart = energy_score(samples, truth).mean().item(), spread(samples).mean().item()
        return Judgement(energy, apart, near.float().mean((0, 1)).tolist())
