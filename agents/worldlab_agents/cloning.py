"""Shared by agents that imitate recorded actions: which rows are transitions, and the loss of behaviour cloning."""

from __future__ import annotations

from torch import Tensor

from worldlab.interfaces import Batch, Context
from worldlab_agents.actor import Actor, log_prob


def transition_mask(batch: Batch) -> Tensor:
    """Return 1 where step t leads to step t + 1 of the same episode, float [B, T - 1]."""
    return batch.mask[:, :-1] * batch.mask[:, 1:] * (~batch.is_first[:, 1:])


def cloning_loss(actor: Actor, sequence: Context) -> Tensor:
    """Return the mean of -log pi(a | s) over the recorded transitions of a batch [B, T]."""
    policy = actor(sequence.features[:, :-1])
    mask = transition_mask(sequence.batch)
    fit = -log_prob(policy, sequence.batch.prev_action[:, 1:])
    return (fit * mask).sum() / mask.sum().clamp(min=1)


__all__ = ["cloning_loss", "transition_mask"]
