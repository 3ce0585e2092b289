"""The contrastive observation model: p(o | h, z) as p(o) times a learned density ratio."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor

from worldlab import tree
from worldlab.distributions import Distribution
from worldlab.interfaces import Context, Decoder, Obs, Specs
from worldlab.nn import ObsTrunk, mlp
from worldlab_cpc.configs import CPCDecoderConfig
from worldlab_cpc.infonce import InfoNCEResult, frame_candidates, masked_mean, symmetric_infonce


@final
class CPCDecoder(Decoder):
    """The score f(o, s) = g(o)^T q(s) / sqrt(P), which symmetric InfoNCE trains to log p(o | s) / p(o) + constant.

    It is the likelihood-free observation term of Dreamer: Ma et al. 2020 (CVRL), arXiv:2008.02430; Okada & Taniguchi
    2020 (Dreaming), arXiv:2007.14535. By Bayes' rule it is a decoder: over a bank of observations it gives p(o | s) up
    to the bank's own frequencies. It draws no pixels; the core's probe does.
    """

    Config = CPCDecoderConfig
    score_kind = "contrastive"
    renders = False

    def __init__(self, config: CPCDecoderConfig, specs: Specs) -> None:
        super().__init__(config, specs)
        self.config, self.frames = config, config.frames
        self.loss_weights = {"infonce": config.scale}
        self.trunk = ObsTrunk(specs.obs, config.width, config.units, config.layers)
        self.key = mlp(self.trunk.size, config.units, 1, config.projection)
        self.query = mlp(specs.feature_dim, config.units, 1, config.projection)

    def decode(self, features: Tensor) -> dict[str, Distribution]:
        """Return nothing: a density ratio cannot be rendered."""
        return {}

    def score(self, features: Tensor, obs: Obs) -> Tensor:
        """Return f(o, s), [N] in nats: log p(o | s) / p(o) up to one constant. features [N, F]; obs [N, ...] leaves."""
        return (self.query(features) * self.key(self.trunk(obs))).sum(-1) / math.sqrt(self.config.projection)

    def log_ratio(self, features: Tensor, bank: Obs) -> Tensor:
        """Return log p(o | s) / p(o) of every observation of a bank, in nats: [N, M].

        features [N, F]; bank: [M, ...] leaves, a sample of p(o). InfoNCE leaves a constant undetermined. The bank fixes
        it: the ratio's mean over the bank is set to 1, which is the mean of p(o | s) / p(o) under p(o).
        """
        scores = self._pairwise_scores(features, bank)
        return scores - scores.logsumexp(1, keepdim=True) + math.log(scores.shape[1])

    def retrieve(self, features: Tensor, bank: Obs) -> Tensor:
        """Return the index [N] of the bank's most likely observation. features [N, F]; bank: [M, ...] leaves."""
        return self._pairwise_scores(features, bank).argmax(1)

    def sample(self, features: Tensor, bank: Obs, generator: torch.Generator) -> Obs:
        """Draw from p(o | s) restricted to the bank: members of the bank, weighted by the ratio. [N, ...] leaves."""
        probabilities = torch.softmax(self._pairwise_scores(features, bank), 1)
        index = torch.multinomial(probabilities, 1, generator=generator)[:, 0]
        return tree.select(bank, index)

    def losses(self, ctx: Context, player: str = "main") -> dict[str, Tensor]:
        """Return `infonce` in nats, shaped as ctx.row: [B, T], or [M, 1] for chosen frames."""
        if player != "main":
            return {}
        return {"infonce": (self._compute_infonce(ctx).loss * ctx.batch.mask.flatten()).view_as(ctx.row)}

    def metrics(self, ctx: Context) -> dict[str, Tensor]:
        """Return accuracy, the bound on the mutual information of observations and features, and the maximum of the
        bound, log K.
        """
        contrast, mask = self._compute_infonce(ctx), ctx.batch.mask.flatten()
        return {
            "infonce_accuracy": masked_mean(contrast.correct, mask),
            "infonce_bound": masked_mean(contrast.bound, mask),
            "infonce_log_k": masked_mean(contrast.log_k, mask),
        }

    def _compute_infonce(self, ctx: Context) -> InfoNCEResult:
        scores = self._pairwise_scores(ctx.features.flatten(0, 1), tree.flatten_time(ctx.batch.obs))
        candidates = frame_candidates(
            ctx.row.flatten(), ctx.time.flatten(), ctx.batch.mask.flatten(), self.config.exclude
        )
        return symmetric_infonce(scores, candidates)

    def _pairwise_scores(self, features: Tensor, bank: Obs) -> Tensor:
        return self.query(features) @ self.key(self.trunk(bank)).mT / math.sqrt(self.config.projection)
