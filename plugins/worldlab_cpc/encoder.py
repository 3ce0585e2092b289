"""The contrastive encoder: a latent that identifies its own frame among others, a noisy point or codes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldlab.distributions import OneHot, normal_like
from worldlab.interfaces import Context, Encoder, Latent, LatentSpec, Obs, PosteriorKind, Specs
from worldlab.nn import ObsTrunk, mlp, random_shift
from worldlab.specs import ObsSpec
from worldlab_cpc.configs import UNIMIX, CPCEncoderConfig
from worldlab_cpc.infonce import InfoNCEResult, cosine_scores, frame_candidates, masked_mean, symmetric_infonce

FALSE_NEGATIVES = 5
"""Frames of one row at most this many steps apart look too similar to serve as negatives."""


@final
@dataclass(frozen=True)
class PointLatent:
    """Points z = LayerNorm(y) + noise. LayerNorm has no affine weights: z has one scale, so no other loss can shrink it."""

    noise: float
    posterior_kind: ClassVar[PosteriorKind] = "deterministic"

    def embed(self, y: Tensor) -> Tensor:
        """Return the noiseless z, rows of mean 0 and variance 1. y: [N, D]."""
        return F.layer_norm(y, y.shape[-1:])

    def infer(self, embed: Tensor, generator: torch.Generator | None) -> Latent:
        """Return z [N, D], noisy if a generator is given."""
        return Latent(embed if generator is None else embed + self.noise * normal_like(embed, generator))

    def view(self, embed: Tensor, generator: torch.Generator) -> Tensor:
        """Return what represents an augmented frame, [N, D]: the noiseless z."""
        return embed


@final
@dataclass(frozen=True)
class CodeLatent:
    """Codes z ~ q(z | o), groups of one-hots with straight-through gradients, as in DreamerV3, arXiv:2301.04104."""

    shape: tuple[int, int]
    posterior_kind: ClassVar[PosteriorKind] = "analytic"

    def embed(self, y: Tensor) -> Tensor:
        """Return the logits, [N, G * C], unchanged."""
        return y

    def infer(self, embed: Tensor, generator: torch.Generator | None) -> Latent:
        """Return z [N, G * C], a sample if a generator is given, else the most likely codes; and q."""
        dist = OneHot.with_unimix(embed.unflatten(-1, self.shape), UNIMIX)
        return Latent(dist.mode if generator is None else dist.sample(generator), dist=dist)

    def view(self, embed: Tensor, generator: torch.Generator) -> Tensor:
        """Return what represents an augmented frame, [N, G * C]: a sample."""
        return self.infer(embed, generator).z


@final
class CPCEncoder(Encoder):
    """A latent of the frame alone, trained to identify an augmented view of that frame.

    The static InfoNCE is the "iid" term of Nguyen et al. 2021 (TPC), arXiv:2106.07156, which keeps the map from
    collapsing; its view is the random shift of Kostrikov et al. 2020 (DrQ), arXiv:2004.13649. Only the contrastive
    dynamics trains points to be predictable. Codes are those of Okada & Taniguchi 2022 (DreamingV2), arXiv:2203.00494: their
    KL to the prediction trains the encoder with every dynamics that has a density.
    """

    Config = CPCEncoderConfig
    posterior_kind = "deterministic"
    uses_memory = False

    def __init__(self, config: CPCEncoderConfig, specs: Specs) -> None:
        super().__init__(config, specs)
        self.config = config
        self.loss_weights = {"static": config.static_scale}
        self.obs = specs.obs
        self.trunk = ObsTrunk(specs.obs, config.width, config.units, config.layers)
        codes, dim = config.latent == "categorical", specs.latent.dim
        self.kind = CodeLatent((config.groups, config.classes)) if codes else PointLatent(config.noise)
        self.posterior_kind = self.kind.posterior_kind
        self.linear = mlp(self.trunk.size, config.units, 1, dim) if codes else nn.Linear(self.trunk.size, dim)
        width = config.projection if codes else dim
        self.project = mlp(dim, config.units, 1, width) if config.static_scale else None

    @classmethod
    def latent_spec(cls, config: CPCEncoderConfig) -> LatentSpec:
        if config.latent == "categorical":
            return LatentSpec(config.groups * config.classes, "categorical", config.groups, config.classes)
        return LatentSpec(config.latent_dim, "point")

    def embed(self, obs: Obs) -> Tensor:
        """Return the noiseless point of each frame, or the logits of its codes, [N, E]. obs: [N, ...] leaves."""
        return self.kind.embed(self.linear(self.trunk(obs)))

    def infer(self, embed: Tensor, memory: Tensor | None, generator: torch.Generator | None) -> Latent:
        """Return z [N, D], random if a generator is given. embed [N, E] from `embed`; memory is not read."""
        return self.kind.infer(embed, generator)

    def losses(self, ctx: Context, player: str = "main") -> dict[str, Tensor]:
        """Return `static` [B, T]: the InfoNCE of random frames, 0 elsewhere, scaled so that the mean equals the mean
        over those frames.
        """
        if player != "main" or not self.config.static_scale:
            return {}
        count, total = min(self.config.static_frames, ctx.row.numel()), ctx.row.numel()
        chosen = torch.randperm(total, generator=ctx.generator, device=ctx.row.device)[:count]
        loss = self._static_infonce(ctx, chosen, ctx.generator).loss * (total / count)
        out = torch.zeros(total, dtype=loss.dtype, device=loss.device)
        return {"static": out.index_copy(0, chosen, loss).view_as(ctx.row)}

    def metrics(self, ctx: Context) -> dict[str, Tensor]:
        """Return accuracy, bound on the mutual information, and log K of the static InfoNCE, on every n-th frame."""
        if not self.config.static_scale:
            return {}
        step = max(1, ctx.row.numel() // self.config.static_frames)
        chosen = torch.arange(0, ctx.row.numel(), step, device=ctx.row.device)[: self.config.static_frames]
        # A separate generator: metrics must not advance the random stream of training.
        contrast = self._static_infonce(ctx, chosen, torch.Generator(ctx.row.device).manual_seed(0))
        mask = ctx.batch.mask.flatten()[chosen]
        return {
            "static_accuracy": masked_mean(contrast.correct, mask),
            "static_bound": masked_mean(contrast.bound, mask),
            "static_log_k": masked_mean(contrast.log_k, mask),
        }

    def _static_infonce(self, ctx: Context, chosen: Tensor, generator: torch.Generator) -> InfoNCEResult:
        """Compare z of chosen frames, [M] indices into B * T, with an augmented view of the same frames."""
        assert self.project is not None
        obs = {key: leaf.flatten(0, 1)[chosen] for key, leaf in ctx.batch.obs.items()}
        embed = self.embed(augment(obs, self.obs, self.config.shift, self.config.jitter, generator))
        view = self.kind.view(embed, generator)
        scores = cosine_scores(
            self.project(ctx.latent.z.flatten(0, 1)[chosen]), self.project(view), self.config.temperature
        )
        row, time, mask = (leaf.flatten()[chosen] for leaf in (ctx.row, ctx.time, ctx.batch.mask))
        return symmetric_infonce(scores, frame_candidates(row, time, mask, FALSE_NEGATIVES))


def augment(obs: Obs, spec: ObsSpec, shift: int, jitter: float, generator: torch.Generator) -> Obs:
    """Return an augmented view of each frame: images shifted, vectors jittered. obs: [N, ...] leaves, not modified.

    DrQ shifts 84-pixel images by 4; a smaller image is shifted by at most 1/16 of its shorter side.
    """
    out = dict(obs)
    for key, image in spec.images.items():
        pad = min(shift, max(1, min(image.shape[1:]) // 16))
        out[key] = random_shift(obs[key], pad, generator) if pad else obs[key]
    for key in spec.vectors:
        std = obs[key].std(0, correction=0)
        out[key] = obs[key] + jitter * std * normal_like(obs[key], generator)
    return out
