"""The contrastive encoder: a deterministic latent that identifies its own frame among others."""

from __future__ import annotations

from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldlab.distributions import normal_like
from worldlab.interfaces import Context, Encoder, Latent, LatentSpec, Obs, Specs
from worldlab.nn import ObsTrunk, mlp, random_shift
from worldlab.specs import ObsSpec
from worldlab_cpc.configs import CPCEncoderConfig
from worldlab_cpc.infonce import InfoNCEResult, cosine_scores, frame_candidates, masked_mean, symmetric_infonce

FALSE_NEGATIVES = 5
"""Frames of one row at most this many steps apart look too similar to serve as negatives."""


@final
class CPCEncoder(Encoder):
    """The encoder z = LayerNorm(W trunk(o)) + noise; the noise is added only if a generator is given.

    The static InfoNCE is the "iid" term of Nguyen et al. 2021 (TPC), arXiv:2106.07156, which keeps the map from
    collapsing; its view is the random shift of Kostrikov et al. 2020 (DrQ), arXiv:2004.13649. LayerNorm has no affine
    weights: the scale of z is fixed, so no other loss can shrink it.
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
        self.linear = nn.Linear(self.trunk.size, config.latent_dim)
        self.project = mlp(config.latent_dim, config.units, 1, config.latent_dim) if config.static_scale else None

    @classmethod
    def latent_spec(cls, config: CPCEncoderConfig) -> LatentSpec:
        return LatentSpec(config.latent_dim, "point")

    def embed(self, obs: Obs) -> Tensor:
        """Return the noiseless latent of each frame, [N, D], rows of mean 0 and variance 1. obs: [N, ...] leaves."""
        return F.layer_norm(self.linear(self.trunk(obs)), (self.config.latent_dim,))

    def infer(self, embed: Tensor, memory: Tensor | None, generator: torch.Generator | None) -> Latent:
        """Return z [N, D], noisy if a generator is given. embed [N, D] from `embed`; memory is not read."""
        if generator is None:
            return Latent(embed)
        return Latent(embed + self.config.noise * normal_like(embed, generator))

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
        """Compare the noisy z of chosen frames, [M] indices into B * T, with z of an augmented view of the same
        frames.
        """
        assert self.project is not None
        obs = {key: leaf.flatten(0, 1)[chosen] for key, leaf in ctx.batch.obs.items()}
        view = self.embed(augment(obs, self.obs, self.config.shift, self.config.jitter, generator))
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
