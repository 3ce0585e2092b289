"""The InfoNCE loss of all three parts, and the bound on mutual information that it implies.

van den Oord, Li & Vinyals 2018, arXiv:1807.03748, eq. 4; Poole et al. 2019, arXiv:1905.06922.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from worldlab.distributions import at_least_float32

EXCLUDED = -1e30
"""Score of an excluded pair. Its exp is 0, and unlike -inf it produces no NaN in a gradient."""


@dataclass(frozen=True)
class InfoNCEResult:
    """The classification of K queries among their candidates; all leaves [..., K].

    loss: -log softmax of the positive, in nats, >= 0. log_k: log of the number of candidates, the positive included.
    correct: 1 where the positive scores highest, divided among ties, so that an uninformed critic gets 1 / K.
    """

    loss: Tensor
    log_k: Tensor
    correct: Tensor

    @property
    def bound(self) -> Tensor:
        """Return log_k - loss: its mean is a lower bound on the mutual information, and no value exceeds log_k."""
        return self.log_k - self.loss


def infonce_loss(scores: Tensor, candidates: Tensor | None = None) -> InfoNCEResult:
    """Compute the InfoNCE of each query against its candidates.

    scores: [..., K, K] in nats, query first, candidate last; the positives lie on the diagonal. candidates: bool,
    broadcast to scores: which pairs are compared; None means all. The positive is always included.
    """
    scores = at_least_float32(scores)
    diagonal = torch.eye(scores.shape[-1], dtype=torch.bool, device=scores.device)
    candidate_mask = torch.ones_like(scores, dtype=torch.bool) if candidates is None else candidates.expand_as(scores)
    candidate_mask = candidate_mask | diagonal
    scores = scores.masked_fill(~candidate_mask, EXCLUDED)
    positive = scores.diagonal(dim1=-2, dim2=-1)
    best = scores.detach() >= scores.detach().amax(-1, keepdim=True)
    return InfoNCEResult(
        loss=scores.logsumexp(-1) - positive,
        log_k=candidate_mask.sum(-1).to(scores.dtype).log(),
        correct=best.diagonal(dim1=-2, dim2=-1) / best.sum(-1),
    )


def symmetric_infonce(scores: Tensor, candidates: Tensor | None = None) -> InfoNCEResult:
    """Return the mean of both directions: rows as queries and columns as queries. Shapes as in `infonce_loss`.

    One direction determines the score only up to a function of its query; both together up to a constant.
    """
    forward = infonce_loss(scores, candidates)
    backward = infonce_loss(scores.mT, None if candidates is None else candidates.mT)
    return InfoNCEResult(
        loss=(forward.loss + backward.loss) / 2,
        log_k=(forward.log_k + backward.log_k) / 2,
        correct=(forward.correct + backward.correct) / 2,
    )


def cosine_scores(query: Tensor, key: Tensor, temperature: float) -> Tensor:
    """Return cosine similarities divided by the temperature: query, key [..., K, P] -> [..., K, K], within +- 1 /
    temperature.

    Only the critic normalises to the sphere. The latent does not, because Gaussians and flows have no density there.
    """
    return F.normalize(query, dim=-1) @ F.normalize(key, dim=-1).mT / temperature


def frame_candidates(row: Tensor, time: Tensor, mask: Tensor, exclude: int) -> Tensor:
    """Return which pairs are compared when all M frames of a batch are contrasted: [M, M] bool.

    row, time: [M] long; mask: [M], 0 where a frame is padding. Frames of the same row within `exclude` steps are false
    negatives (they look almost the same) and are left out.
    """
    near = (row[:, None] == row) & ((time[:, None] - time).abs() <= exclude)
    valid = mask > 0
    return ~near & valid[:, None] & valid


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of x where mask, of the same shape, is not 0; 0 if the mask is 0 everywhere."""
    mask = mask.to(x.dtype)
    return (x * mask).sum() / mask.sum().clamp(min=1)
