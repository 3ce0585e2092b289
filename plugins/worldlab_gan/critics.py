"""Critics of vectors, given a condition."""

from __future__ import annotations

import math

from torch import Tensor, nn

from worldlab.nn import mlp


def leaky_mlp(inputs: int, units: int, layers: int) -> nn.Sequential:
    """Build Linear + LeakyReLU blocks. They have no normalisation, because a critic must see the magnitude of x and its
    gradient penalty is differentiated twice.
    """
    blocks: list[nn.Module] = []
    for _ in range(layers):
        blocks += [nn.Linear(inputs, units), nn.LeakyReLU(0.2)]
        inputs = units
    return nn.Sequential(*blocks)


class Projection(nn.Module):
    """The projection critic D(x, c) = v phi(x) + psi(c) phi(x) / sqrt(P). Miyato & Koyama 2018, arXiv:1802.05637.

    phi(x) [N, P] and the condition c [N, C] -> [N]. The condition enters only through an inner product with phi(x), so
    no value depends on c alone.
    """

    def __init__(self, features: int, condition: int, units: int):
        super().__init__()
        self.scale = 1 / math.sqrt(features)
        self.plain = nn.Linear(features, 1, bias=False)  # in a pair under one condition a bias would cancel
        self.embed = mlp(condition, units, 1, features) if condition else None

    def forward(self, phi: Tensor, condition: Tensor) -> Tensor:
        value = self.plain(phi)[:, 0]
        if self.embed is None:
            return value
        return value + self.scale * (self.embed(condition) * phi).sum(-1)


class VectorCritic(nn.Module):
    """A projection critic of x [N, D] under c [N, C] -> [N]."""

    def __init__(self, inputs: int, condition: int, units: int, layers: int):
        super().__init__()
        self.trunk = leaky_mlp(inputs, units, layers)
        self.head = Projection(units, condition, units)

    def embed(self, x: Tensor) -> Tensor:
        return self.trunk(x)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return self.head(self.embed(x), condition)
