"""What `vq` and `fsq` share: the network before quantisation, and codes as straight-through one-hots.

A dynamics models codes as one-hots, so z is one-hot. Its gradient must be that of the code vectors. Each entry of z
moves with the encoder's output y as the least-squares coordinates of y in the centred code vectors E do:

    z = onehot(k) + (y - sg(y)) pinv(E)

Whatever reads z through the code vectors, z E, gets exactly the straight-through gradient of VQ-VAE, d(z E)/dy = I. A
layer that reads z through weights of its own gets the slope of its best linear fit over the code vectors.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldlab.interfaces import Context, Obs
from worldlab.nn import ObsTrunk
from worldlab.specs import ObsSpec

RIDGE = 1e-6
"""Added to the mean square of the code vectors' entries, so that equal code vectors give no infinite gradient."""
MIN_STD = 1 / 30
"""Smallest std by which an output is divided: frames that hardly differ say nothing about the scale."""
RATE = 0.1
"""Rate of the running moments, as in batch normalisation."""


class TokenNet(nn.Module):
    """The network y(o) before quantisation: a trunk, a linear layer and a running standardisation of its outputs.

    The outputs of an initial network hardly differ between frames, and a deterministic code that all frames share has no
    gradient towards another code. Batch normalisation's running moments (Ioffe & Szegedy 2015, arXiv:1502.03167) keep each
    output at mean 0 and std 1 over frames; only running moments are used, so frames stay independent. On the moving dot
    of worldlab.testing, 300 updates, 3 of 4 seeds of `vq` had one code for all frames without it, none with it.
    """

    mean: Tensor
    std: Tensor
    started: Tensor

    def __init__(self, obs: ObsSpec, width: int, units: int, layers: int, outputs: int):
        super().__init__()
        self.trunk = ObsTrunk(obs, width, units, layers)
        self.linear = nn.Linear(self.trunk.size, outputs)
        self.register_buffer("mean", torch.zeros(outputs))
        self.register_buffer("std", torch.ones(outputs))
        self.register_buffer("started", torch.tensor(False))
        self._moments: tuple[Tensor, Tensor] | None = None  # of the last training batch, until `update`

    def forward(self, obs: Obs) -> Tensor:
        """Return y [N, outputs] of observations [N, ...]."""
        return (self.linear(self.trunk(obs)) - self.mean) / self.std

    @torch.no_grad()
    def measure(self, y: Tensor) -> None:
        """Measure the outputs [N, outputs] of a training batch."""
        if self.training:
            self._moments = (y.mean(0) * self.std + self.mean, y.std(0, correction=0) * self.std)

    @torch.no_grad()
    def update(self) -> bool:
        """Move the running moments after an update. Returns whether they had been set before."""
        before = bool(self.started)
        if self._moments is not None:
            rate = RATE if before else 1.0
            self.mean.lerp_(self._moments[0].to(self.mean.dtype), rate)
            self.std.lerp_(self._moments[1].to(self.std.dtype), rate).clamp_(min=MIN_STD)
            self.started.fill_(True)
            self._moments = None
        return before


def straight_through(y: Tensor, codes: Tensor, vectors: Tensor) -> Tensor:
    """Return flat one-hots [N, G * K] of codes [N, G] long, with gradients to y [N, G, d]. vectors: [G, K, d]."""
    hot = F.one_hot(codes, vectors.shape[1]).to(y.dtype)
    step = torch.einsum("ngd,gkd->ngk", y - y.detach(), coordinates(vectors).to(y.dtype))
    return (hot + step).flatten(1)


@torch.no_grad()
def coordinates(vectors: Tensor) -> Tensor:
    """Return the transposed pseudo-inverse of the centred code vectors, [G, K, d], computed in double precision."""
    centred = (vectors - vectors.mean(1, keepdim=True)).double()
    square = centred.transpose(1, 2) @ centred
    ridge = RIDGE * square.diagonal(dim1=1, dim2=2).mean(-1)[:, None] + torch.finfo(torch.float32).tiny
    inverse = torch.linalg.inv(square + torch.diag_embed(ridge.expand(-1, square.shape[-1])))
    return (centred @ inverse).to(vectors.dtype)


def perplexity(tokens: Tensor, classes: int) -> Tensor:
    """Return exp of the entropy of each token's use of its codes, [G]: 1 if all use one, `classes` if all are used alike.

    tokens: [N, G] long.
    """
    usage = F.one_hot(tokens, classes).double().mean(0).clamp(min=1e-12)
    return torch.exp(-(usage * usage.log()).sum(-1))


def code_metrics(ctx: Context, classes: int) -> dict[str, Tensor]:
    """Return `used`: the perplexity of the codes in the batch, as a share of the number of codes."""
    assert ctx.latent.tokens is not None
    return {"used": (perplexity(ctx.latent.tokens.flatten(0, 1), classes).mean() / classes).float()}
