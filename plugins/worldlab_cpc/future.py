"""Action-conditioned contrastive predictions of several future latents, for dynamics of any kind.

    f(s_t, a_t .. a_{t+k-1}; z_{t+k}) = cos(query_k(s_t, a_t .. a_{t+k-1}), key(z_{t+k})) / temperature

Each query must identify its own z_{t+k} among those of the batch's rows at t + k: van den Oord et al. 2018,
arXiv:1807.03748, eq. 3 and 4, given the actions in between: Burchi & Timofte 2025 (TWISTER), arXiv:2503.04416.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldlab.interfaces import Batch
from worldlab.nn import mlp
from worldlab_cpc.infonce import InfoNCEResult, cosine_scores, infonce_loss


class FutureCritic(nn.Module):
    """Critics of the latents k steps ahead. weights: the weight of the loss of each k, whose sum is 1."""

    def __init__(
        self,
        inputs: int,
        latent: int,
        action: int,
        weights: Mapping[int, float],
        units: int,
        size: int,
        temperature: float,
    ):
        super().__init__()
        self.weights = dict(weights)
        self.temperature = temperature
        self.queries = nn.ModuleList(mlp(inputs + k * action, units, 1, size) for k in weights)
        self.key = nn.Linear(latent, size, bias=False)

    def loss(self, inputs: Tensor, z: Tensor, batch: Batch) -> Tensor:
        """Return the weighted sum of the losses of all k, [B, T] in nats, at the time of the query.

        inputs [B, T, I], z [B, T, D]. Pairs that a reset separates, or that leave the batch, cost 0.
        """
        keys = self.key(z)
        total = torch.zeros_like(batch.mask)
        for index, (k, weight) in enumerate(self.weights.items()):
            if k >= batch.mask.shape[1]:
                break
            contrast = self.contrast(index, k, inputs, keys, batch)
            loss = contrast.loss * horizon_mask(batch.is_first, batch.mask, k)
            total = total + weight * F.pad(loss, (0, k))
        return total

    def contrast(self, index: int, k: int, inputs: Tensor, keys: Tensor, batch: Batch) -> InfoNCEResult:
        """Compare the query of (b, t) with the keys of all rows at t + k: leaves [B, T - k]. index: of the query network."""
        length = inputs.shape[1] - k
        query = self.queries[index](torch.cat([inputs[:, :length], actions_between(batch.prev_action, k)], -1))
        scores = cosine_scores(query.transpose(0, 1), keys[:, k:].transpose(0, 1), self.temperature)
        contrast = infonce_loss(scores, (batch.mask[:, k:] > 0).T[:, None, :])  # [T - k, B, B]
        return InfoNCEResult(contrast.loss.T, contrast.log_k.T, contrast.correct.T)


def actions_between(prev_action: Tensor, k: int) -> Tensor:
    """Return the k actions that lead from t to t + k: prev_action [B, T, A] -> [B, T - k, k * A], oldest first."""
    length = prev_action.shape[1]
    steps = [prev_action[:, i : length - k + i] for i in range(1, k + 1)]
    return torch.cat(steps, -1) if steps else prev_action[..., :0]


def horizon_mask(is_first: Tensor, mask: Tensor, k: int) -> Tensor:
    """Return where t and t + k are valid steps of the same episode: is_first bool, mask [B, T] -> float [B, T - k]."""
    episode, length = is_first.cumsum(1), mask.shape[1] - k
    return mask[:, :length] * mask[:, k:] * (episode[:, k:] == episode[:, :length])
