"""Networks that turn a condition and noise into a sample; noise enters at every level, not only at the input."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldlab.distributions import OneHot, one_hot
from worldlab.specs import LatentSpec


class Generator(Protocol):
    """A network that maps a condition [N, C] and noise from `draw` to a sample [N, ...]. noise None: the sample at
    noise 0.
    """

    def draw(self, condition: Tensor, generator: torch.Generator, temperature: float = 1.0) -> Tensor: ...

    def __call__(self, condition: Tensor, noise: Tensor | None) -> Tensor: ...


@dataclass(frozen=True)
class Generated:
    """An implicit distribution: samples of a generator under a condition [N, C], and no density.

    The mode is the sample without noise: a plausible value, not the most likely one, which is unknown.
    """

    condition: Tensor
    network: Any
    temperature: float = 1.0

    def sample(self, generator: torch.Generator) -> Tensor:
        return self.network(self.condition, self.network.draw(self.condition, generator, self.temperature))

    def tempered(self, temperature: float) -> Generated:
        """Scale the variance of the noise by t, as BigGAN trades variety for quality (arXiv:1809.11096, 3.1)."""
        return replace(self, temperature=self.temperature * temperature)

    @property
    def mode(self) -> Tensor:
        return self.network(self.condition, None)


def normal_noise(condition: Tensor, width: int, generator: torch.Generator, temperature: float = 1.0) -> Tensor:
    """Draw normal noise [*, width] for a condition [*, C]; its variance is the temperature."""
    noise = condition.new_empty(*condition.shape[:-1], width).normal_(generator=generator)
    return noise if temperature == 1.0 else noise * temperature**0.5


class NoisyMLP(nn.Module):
    """Linear + noise + LayerNorm + SiLU blocks and a linear output. inputs [*, I], noise [*, layers * noise] -> [*, O].

    gain: initial scale of the noise relative to the signal, which a layer receives with variance 1/3.
    """

    def __init__(self, inputs: int, noise: int, units: int, layers: int, outputs: int, gain: float = 1.0):
        super().__init__()
        self.noise = noise
        widths = [inputs] + [units] * (layers - 1)
        self.linears = nn.ModuleList(nn.Linear(width, units) for width in widths)
        self.inject = nn.ModuleList(nn.Linear(noise, units, bias=False) for _ in widths)
        self.norms = nn.ModuleList(nn.LayerNorm(units) for _ in widths)
        self.last = nn.Linear(units, outputs)
        with torch.no_grad():
            for layer in self.inject:
                layer.weight.mul_(gain)  # type: ignore[operator, union-attr]

    def draw(self, condition: Tensor, generator: torch.Generator, temperature: float = 1.0) -> Tensor:
        return normal_noise(condition, len(self.linears) * self.noise, generator, temperature)

    def forward(self, condition: Tensor, noise: Tensor | None) -> Tensor:
        x = condition
        parts = [None] * len(self.linears) if noise is None else noise.split(self.noise, -1)
        for linear, inject, norm, part in zip(self.linears, self.inject, self.norms, parts):
            x = linear(x)
            if part is not None:
                x = x + inject(part)
            x = F.silu(norm(x))
        return self.last(x)


class LatentGenerator(nn.Module):
    """The generator G(h, eps): memory [*, H] -> latent [*, D] of the encoder's kind.

    A categorical latent is a hard one-hot with the gradient of its relaxation (straight-through Gumbel-softmax, Jang et
    al. 2016, arXiv:1611.01144, temperature 1). The Gumbel noise is the last part of eps; groups depend on each other
    through the rest of eps.
    """

    def __init__(self, memory: int, noise: int, units: int, layers: int, latent: LatentSpec, unimix: float):
        super().__init__()
        self.latent = latent
        self.unimix = unimix
        self.net = NoisyMLP(memory, noise, units, layers, latent.dim)

    @property
    def discrete(self) -> bool:
        return self.latent.kind == "categorical"

    def draw(self, condition: Tensor, generator: torch.Generator, temperature: float = 1.0) -> Tensor:
        """Draw the noise. For codes the Gumbel noise is multiplied by the temperature, which equals dividing the logits
        by it.
        """
        noise = self.net.draw(condition, generator, temperature)
        if not self.discrete:
            return noise
        uniform = condition.new_empty(*condition.shape[:-1], self.latent.dim).uniform_(generator=generator)
        gumbel = -torch.log(-torch.log(uniform.clamp(1e-10, 1 - 1e-7)))
        return torch.cat([noise, gumbel if temperature == 1.0 else gumbel * temperature], -1)

    def forward(self, condition: Tensor, noise: Tensor | None) -> Tensor:
        if not self.discrete:
            return self.net(condition, noise)
        split = -self.latent.dim
        logits = self.net(condition, None if noise is None else noise[..., :split])
        logits = logits.unflatten(-1, (self.latent.groups, self.latent.classes))
        logits = OneHot.with_unimix(logits, self.unimix).logits
        if noise is not None:
            logits = logits + noise[..., split:].view_as(logits)
        relaxed = F.softmax(logits, -1)
        hard = one_hot(logits.argmax(-1), self.latent.classes, relaxed.dtype)
        return (hard + (relaxed - relaxed.detach())).flatten(-2)
