"""Builds noise batches in the form of preprocessed replay, to check parts before data is collected."""

from __future__ import annotations

import torch
from torch import Tensor

from worldlab.interfaces import Batch, Obs
from worldlab.specs import ActionSpec, ObsSpec


def stream(seed: int) -> torch.Generator:
    """Return a CPU generator with this seed."""
    return torch.Generator().manual_seed(seed)


def noise_obs(spec: ObsSpec, shape: tuple[int, ...], gen: torch.Generator, scale: float = 1.0) -> Obs:
    """Return noise observations {key: [*shape, ...]}: uniform pixels and normal vectors, both multiplied by scale."""
    return {
        key: scale
        * (
            torch.rand(*shape, *entry.shape, generator=gen) - 0.5
            if entry.kind == "image"
            else torch.randn(*shape, *entry.shape, generator=gen)
        )
        for key, entry in spec.entries
    }


def actions(spec: ActionSpec, shape: tuple[int, ...], gen: torch.Generator) -> Tensor:
    """Return random encoded actions [*shape, A]."""
    if spec.kind == "discrete":
        return torch.eye(spec.dim)[torch.randint(spec.dim, shape, generator=gen)]
    return 2 * torch.rand(*shape, spec.dim, generator=gen) - 1


def noise_batch(
    obs: ObsSpec, action: ActionSpec, rows: int, length: int, gen: torch.Generator, scale: float = 1.0
) -> Batch:
    """Return a noise batch with a reset in the middle of row 0 and a termination before it."""
    is_first = torch.zeros(rows, length, dtype=torch.bool)
    is_first[:, 0] = True
    is_first[0, length // 2] = True
    cont = torch.ones(rows, length)
    cont[0, length // 2 - 1] = 0
    free = (~is_first).float()
    return Batch(
        obs=noise_obs(obs, (rows, length), gen, scale),
        prev_action=actions(action, (rows, length), gen) * free[..., None],
        reward=scale * torch.randn(rows, length, generator=gen) * free,
        cont=cont,
        is_first=is_first,
        mask=torch.ones(rows, length),
    )
