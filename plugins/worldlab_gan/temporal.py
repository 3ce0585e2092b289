"""Windows of three steps for the temporal critic, which tests whether a transition is consistent with state and
actions.

A critic of short sequences beside the critic of single steps: Tulyakov et al. 2017 (MoCoGAN), arXiv:1707.04993.
Rejecting true sequences under another row's actions: Kim et al. 2021 (DriveGAN), arXiv:2104.15060.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from worldlab.interfaces import Batch

WINDOW_LENGTH = 3
"""Latents in a window: a start and two successors."""


@dataclass(frozen=True)
class Windows:
    """All windows of a batch, W = B (T - 2) of them, row by row.

    condition: [W, D + 2 A], the latent z_t and the two actions after it; swapped: the same with the next row's actions.
    next_latents: [W, 2 D], z_{t+1} and z_{t+2}. memory: [W, H] at t + 1, after z_t and the first action. action: [W,
    A], the second action. valid, swappable: [B, T - 2] float, 0 where a window (or the next row's) is padded or crosses
    a reset.
    """

    condition: Tensor
    swapped: Tensor
    next_latents: Tensor
    memory: Tensor
    action: Tensor
    valid: Tensor
    swappable: Tensor


def extract_windows(z: Tensor, memory: Tensor, batch: Batch) -> Windows:
    """Cut a batch into windows. z [B, T, D], memory [B, T, H], T >= 3."""
    first, second = batch.prev_action[:, 1:-1], batch.prev_action[:, 2:]
    actions = torch.cat([first, second], -1)
    mask = batch.mask[:, :-2] * batch.mask[:, 1:-1] * batch.mask[:, 2:]
    valid = mask * ~(batch.is_first[:, 1:-1] | batch.is_first[:, 2:])
    return Windows(
        condition=torch.cat([z[:, :-2], actions], -1).flatten(0, 1),
        swapped=torch.cat([z[:, :-2], actions.roll(1, 0)], -1).flatten(0, 1),
        next_latents=torch.cat([z[:, 1:-1], z[:, 2:]], -1).flatten(0, 1),
        memory=memory[:, 1:-1].flatten(0, 1),
        action=second.flatten(0, 1),
        valid=valid,
        swappable=valid * valid.roll(1, 0) * (len(z) > 1),
    )


def place_at_start(term: Tensor, valid: Tensor) -> Tensor:
    """Return a term of each window [W] as a loss [B, T], placed at the window's first step; 0 where the window is not
    valid.
    """
    return F.pad(term.view_as(valid) * valid, (0, WINDOW_LENGTH - 1))
