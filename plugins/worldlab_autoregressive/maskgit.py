"""A dynamics that draws the codes of the next step in a few parallel passes, the most confident first."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, cast, final

import torch
from torch import Tensor, nn

from worldlab.interfaces import ActionSpec, Context, Dynamics, LatentSpec, Specs, State
from worldlab.nn import RecurrentMemory
from worldlab_autoregressive.configs import MaskGITDynamicsConfig
from worldlab_autoregressive.mixtures import spread_means
from worldlab_autoregressive.priors import block_conditional, blocks_of
from worldlab_autoregressive.transformer import Block


class MaskedNet(nn.Module):
    """p(z_i | the known blocks of z, h) for all blocks i at once: a transformer over the blocks without a causal mask."""

    def __init__(self, config: MaskGITDynamicsConfig, latent: LatentSpec):
        super().__init__()
        self.config, self.coded = config, latent.kind == "categorical"
        self.blocks, self.block_width = blocks_of(latent)
        outputs = self.block_width if self.coded else 3 * config.components
        width = 4 * (config.units // 4)  # the rotary positions of two heads need even halves
        bound = width**-0.5
        # An embedding for each block and class: class 3 of one group is unrelated to class 3 of another.
        self.embed = nn.Parameter(torch.empty(self.blocks, self.block_width, width).uniform_(-bound, bound))
        self.masked = nn.Parameter(torch.empty(self.blocks, width).uniform_(-bound, bound))
        self.condition = nn.Linear(config.memory, width)
        self.layers = nn.ModuleList(Block(width, config.heads, config.layers) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Parameter(torch.empty(self.blocks, width, outputs).uniform_(-bound, bound))
        self.direct = nn.Linear(config.memory, self.blocks * outputs)
        if not self.coded:
            bias = self.direct.bias.data.view(self.blocks, 3, -1)
            for block in bias:
                spread_means(block[1], 0, config.components)

    def forward(self, memory: Tensor, blocks: Tensor, known: Tensor, temperature: float = 1.0) -> Any:
        """Return the conditionals over rows [N, G]. memory [N, H]; blocks [N, G, width]; known [N, G] bool."""
        told = torch.einsum("ngc,gcw->ngw", blocks.masked_fill(~known[..., None], 0), self.embed)
        x = torch.where(known[..., None], told, self.masked.to(told.dtype)) + self.condition(memory)[:, None]
        none = x[:, :0]
        everywhere = torch.ones(1, self.blocks, self.blocks, dtype=torch.bool, device=x.device)
        for layer in self.layers:
            x, _, _ = layer(x, none, none, everywhere)
        out = torch.einsum("ngw,gwo->ngo", self.norm(x), self.out) + self.direct(memory).unflatten(
            -1, (self.blocks, -1)
        )
        dist = block_conditional(out, self.coded, self.config.unimix, self.config.min_std)
        return dist if temperature == 1 else dist.tempered(temperature)


def cosine_schedule(blocks: int, passes: int) -> list[int]:
    """Return how many blocks are still masked after each pass; every pass fixes at least one. arXiv:2202.04200, 3.3."""
    left = [blocks]
    for i in range(1, min(passes, blocks) + 1):
        kept = math.floor(blocks * math.cos(math.pi / 2 * i / min(passes, blocks)))
        left.append(max(0, min(kept, left[-1] - 1)))
    return left[1:]


@dataclass(frozen=True)
class MaskedPrior:
    """Samples of p(z | h) by masked parallel decoding. memory: [N, H]. It has no density."""

    memory: Tensor
    net: MaskedNet
    temperature: float = 1.0

    def tempered(self, temperature: float) -> MaskedPrior:
        """Return the prior whose conditionals have this temperature."""
        return replace(self, temperature=self.temperature * temperature)

    def sample(self, generator: torch.Generator) -> Tensor:
        """Draw z [N, D], with straight-through gradients of codes and pathwise ones of real entries."""
        return self._draw(generator)

    @property
    def mode(self) -> Tensor:
        """Return [N, D]: the mode of every conditional, the most confident first, without noise."""
        return self._draw(None)

    def _draw(self, generator: torch.Generator | None) -> Tensor:
        net, count = self.net, self.net.config.passes
        blocks = self.memory.new_zeros(len(self.memory), net.blocks, net.block_width)
        known = torch.zeros(blocks.shape[:2], dtype=torch.bool, device=blocks.device)
        schedule = cosine_schedule(net.blocks, count)
        for i, left in enumerate(schedule):
            dist = net(self.memory, blocks, known, self.temperature)
            values = (dist.mode if generator is None else dist.sample(generator)).to(blocks.dtype)
            confidence = dist.log_prob(values).detach()
            if generator is not None:
                uniform = torch.empty_like(confidence).uniform_(generator=generator).clamp(1e-10, 1 - 1e-7)
                share = 1 - (i + 1) / len(schedule)
                confidence = confidence - net.config.choice * share * torch.log(-torch.log(uniform))
            rank = confidence.masked_fill(known, math.inf).argsort(1, descending=True).argsort(1)
            fixed = (rank < net.blocks - left) & ~known
            blocks = torch.where(fixed[..., None], values, blocks)
            known = known | fixed
        return blocks.flatten(1)


@final
class MaskGITDynamics(Dynamics):
    """The transition h' = GRU(h, mlp(z, a)) with masked parallel decoding of the codes of z given h.

    Chang et al. 2022, arXiv:2202.04200: training predicts masked codes from the others, with a share of masked codes of
    cos(pi u / 2); a sample starts with all codes masked and fixes the most confident in each of a few passes. As the
    dynamics of a world model: Burchi & Timofte 2025 (EMERALD), arXiv:2507.04075. There is no density, so the dynamics
    trains by its own loss, and an encoder by the likelihood of the first pass (`score_latent`). Deviations: the memory is a
    GRU instead of a transformer over time; the codes have no grid; a real z is decoded entry by entry, with mixtures of
    Gaussians.
    """

    Config = MaskGITDynamicsConfig
    prior_kind = "sampler"

    def __init__(self, config: MaskGITDynamicsConfig, specs: Specs) -> None:
        super().__init__(config, specs)
        self.recurrence = RecurrentMemory(specs.latent.dim + specs.action.dim, config.units, config.memory)
        self.net = MaskedNet(config, specs.latent)

    @classmethod
    def memory_size(cls, config: MaskGITDynamicsConfig, latent: LatentSpec, action: ActionSpec) -> int:
        return config.memory

    def initial(self, n: int) -> State:
        return self.recurrence.initial(n)

    def advance(self, state: State, z: Tensor, action: Tensor) -> State:
        return self.recurrence.step(state, z, action)

    def memory(self, state: State) -> Tensor:
        return state["h"]

    def predict(self, memory: Tensor) -> MaskedPrior:
        return MaskedPrior(memory, self.net)

    def score_latent(self, memory: Tensor, z: Tensor) -> Tensor:
        """Return log p(z | h) of the first pass, in which all codes are masked and independent: [N] in nats."""
        blocks = z.unflatten(1, (self.net.blocks, -1))
        known = torch.zeros(blocks.shape[:2], dtype=torch.bool, device=z.device)
        return cast(Tensor, self.net(memory, torch.zeros_like(blocks), known).log_prob(blocks).sum(1))

    def losses(self, ctx: Context, player: str = "main") -> dict[str, Tensor]:
        """Return `masked`: -log p of the masked codes given the others, times all / masked, in nats per frame.

        The latent is a target and an input without a gradient; the memory has one.
        """
        if player != "main":
            return {}
        blocks = ctx.latent.z.detach().flatten(0, 1).unflatten(1, (self.net.blocks, -1))
        known = self.draw_mask(len(blocks), ctx.generator)
        each = self.net(ctx.memory.flatten(0, 1), blocks, known).log_prob(blocks) * ~known
        return {"masked": (-each.sum(1) * self.net.blocks / (~known).sum(1)).view_as(ctx.row)}

    def draw_mask(self, rows: int, generator: torch.Generator) -> Tensor:
        """Draw which blocks are known, [rows, G] bool; at least one is not."""
        device = self.device
        share = torch.cos(math.pi / 2 * torch.rand(rows, 1, generator=generator, device=device))
        count = (share * self.net.blocks).ceil().clamp(1, self.net.blocks)
        order = torch.rand(rows, self.net.blocks, generator=generator, device=device).argsort(1)
        return order >= count
