"""Finite scalar quantisation: a frame as a few tokens, without a codebook."""

from __future__ import annotations

import itertools
from typing import final

import torch
from torch import Tensor

from worldlab.interfaces import Context, Encoder, Latent, LatentSpec, Obs, Specs
from worldlab_vae.configs import FSQEncoderConfig
from worldlab_vae.quantise import TokenNet, code_metrics, straight_through


def bound(y: Tensor, levels: int) -> Tensor:
    """Return y bounded to (-1/2, levels - 1/2), where rounding gives 0 .. levels - 1 over intervals of equal width."""
    return levels * (torch.tanh(y) + 1) / 2 - 0.5


def to_index(digits: Tensor, levels: int) -> Tensor:
    """Return the code of digits [*, d], each 0 .. levels - 1: [*] long. The first digit counts most."""
    place = levels ** torch.arange(digits.shape[-1] - 1, -1, -1, device=digits.device)
    return (digits.long() * place).sum(-1)


def grid(levels: int, dims: int) -> Tensor:
    """Return the vector of each code, [levels ** dims, dims], the digits of the code."""
    return torch.tensor(list(itertools.product(range(levels), repeat=dims)), dtype=torch.float32)


@final
class FSQEncoder(Encoder):
    """A deterministic posterior over G tokens: each entry of y(o) is bounded and rounded to one of L levels, and d
    entries make a token of L^d codes.

    Mentzer et al. 2023, arXiv:2309.15505: the codes are a fixed grid, so none dies and no loss of its own is needed; the
    gradient passes the rounding unchanged. A discrete codebook world model for control: Scannell et al. 2025,
    arXiv:2503.00653. Deviations: z is the one-hots of the codes, with the gradient of the grid's vectors (`quantise`); all
    entries have equally many levels, of intervals of equal
    width; y is standardised (`TokenNet`).
    """

    Config = FSQEncoderConfig
    posterior_kind = "deterministic"
    uses_memory = False
    vectors: Tensor

    def __init__(self, config: FSQEncoderConfig, specs: Specs) -> None:
        super().__init__(config, specs)
        self.levels, self.shape = config.levels, (config.tokens, config.dims)
        self.net = TokenNet(specs.obs, config.width, config.units, config.layers, config.tokens * config.dims)
        self.register_buffer("vectors", grid(config.levels, config.dims)[None], persistent=False)

    @classmethod
    def latent_spec(cls, config: FSQEncoderConfig) -> LatentSpec:
        codes = config.levels**config.dims
        return LatentSpec(config.tokens * codes, "categorical", config.tokens, codes)

    def embed(self, obs: Obs) -> Tensor:
        """Return y, the entries of all tokens before rounding, [N, G * d]. obs: [N, ...] leaves."""
        return self.net(obs)

    def infer(self, embed: Tensor, memory: Tensor | None, generator: torch.Generator | None) -> Latent:
        """Return z [N, G * L^d] and tokens [N, G]; there is no noise, and memory is not read."""
        y = bound(embed, self.levels).unflatten(1, self.shape)
        codes = to_index(y.round().clamp(0, self.levels - 1), self.levels)
        return Latent(straight_through(y, codes, self.vectors.expand(self.shape[0], -1, -1)), tokens=codes)

    def losses(self, ctx: Context, player: str = "main") -> dict[str, Tensor]:
        """Return no terms: the decoder trains the encoder. Measures the training batch for `after_step`."""
        if player == "main" and torch.is_grad_enabled():
            self.net.moments.measure(ctx.embed.flatten(0, 1))
        return {}

    def after_step(self, player: str) -> None:
        """Move the running moments of y."""
        if player == "main":
            self.net.moments.update()

    def metrics(self, ctx: Context) -> dict[str, Tensor]:
        """Return `used` (see `code_metrics`)."""
        return code_metrics(ctx, len(self.vectors[0]))
