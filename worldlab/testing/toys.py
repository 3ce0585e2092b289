"""Toy data with known answers, in the shape of replayed batches."""

from __future__ import annotations

import torch
from torch import Tensor

from worldlab import tree
from worldlab.interfaces import Batch, Obs
from worldlab.specs import ActionSpec, ArraySpec, LatentSpec, ObsSpec


def image(side: int) -> tuple[str, ArraySpec]:
    """An RGB picture entry of side x side pixels."""
    return "image", ArraySpec("image", (3, side, side))


VECTOR = ("vector", ArraySpec("vector", (3,)))
OBS: dict[str, ObsSpec] = {
    "dict": ObsSpec((image(16), VECTOR)),
    "image": ObsSpec((image(16),)),
    "vector": ObsSpec((VECTOR,)),
    "scalar": ObsSpec((("vector", ArraySpec("vector", (1,))),)),
    "image64": ObsSpec((image(64),)),
    "image96": ObsSpec((image(96),)),
}
"""Observations by name; the first are tried first."""
ACTIONS = {"continuous": ActionSpec("continuous", 2), "discrete": ActionSpec("discrete", 3)}


def stream(seed: int) -> torch.Generator:
    """A CPU random stream."""
    return torch.Generator().manual_seed(seed)


def noise_obs(spec: ObsSpec, shape: tuple[int, ...], gen: torch.Generator, scale: float = 1.0) -> Obs:
    """Observations without structure, {key: [*shape, ...]}: uniform pixels, normal vectors; scale multiplies both."""
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
    """Random encoded actions [*shape, A]."""
    if spec.kind == "discrete":
        return torch.eye(spec.dim)[torch.randint(spec.dim, shape, generator=gen)]
    return 2 * torch.rand(*shape, spec.dim, generator=gen) - 1


def latents(spec: LatentSpec, shape: tuple[int, ...], gen: torch.Generator) -> Tensor:
    """Random latents [*shape, D] of the declared kind."""
    if spec.kind == "categorical":
        codes = torch.randint(spec.classes, (*shape, spec.groups), generator=gen)
        return torch.eye(spec.classes)[codes].flatten(-2)
    return torch.randn(*shape, spec.dim, generator=gen)


def noise_batch(
    obs: ObsSpec, action: ActionSpec, rows: int, length: int, gen: torch.Generator, scale: float = 1.0
) -> Batch:
    """A batch without structure: a reset in the middle of row 0, a termination before it."""
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


def moving_dot(obs: ObsSpec, action: ActionSpec, rows: int, length: int, gen: torch.Generator) -> Batch:
    """A bright dot pushed by the first action entry; the reward on arrival is its x, in [-1, 1].

    Vectors hold (x, y, x * y), or the first of these; y never changes. No resets but at the start, no terminations.
    """
    push = actions(action, (rows, length), gen)
    push[:, 0] = 0
    x = [1.6 * torch.rand(rows, generator=gen) - 0.8]
    y = 1.6 * torch.rand(rows, generator=gen) - 0.8
    for t in range(1, length):
        x.append((x[-1] + 0.5 * (push[:, t, 0] - (0.33 if action.kind == "discrete" else 0))).clamp(-1, 1))
    xs, ys = torch.stack(x, 1), y[:, None].expand(rows, length)
    return _batch({key: _picture_or_vector(entry, xs, ys) for key, entry in obs.entries}, push, xs)


def rewarded_action(obs: ObsSpec, action: ActionSpec, rows: int, length: int, gen: torch.Generator) -> Batch:
    """Nothing to see; the reward on arrival is the first entry of the action that led there."""
    push = actions(action, (rows, length), gen)
    push[:, 0] = 0
    dull = {key: torch.zeros(rows, length, *entry.shape) for key, entry in obs.entries}
    return _batch(dull, push, push[..., 0].clone())


def _batch(obs: Obs, prev_action: Tensor, reward: Tensor) -> Batch:
    is_first = torch.zeros(reward.shape, dtype=torch.bool)
    is_first[:, 0] = True
    ones = torch.ones(reward.shape)
    return Batch(obs, prev_action, reward * (~is_first), ones, is_first, ones)


def _picture_or_vector(entry: ArraySpec, x: Tensor, y: Tensor) -> Tensor:
    if entry.kind == "vector":
        return torch.stack([x, y, x * y], -1)[..., : entry.shape[0]]
    _, height, side = entry.shape
    rows = torch.linspace(-1, 1, height)[:, None]
    columns = torch.linspace(-1, 1, side)
    distance = (columns - x[..., None, None]).square() + (rows - y[..., None, None]).square()
    bump = torch.exp(-distance / 0.08) - 0.5
    return bump[:, :, None].expand(*x.shape, *entry.shape).contiguous()


def rows_of(batch: Batch, count: int) -> Batch:
    """The first rows of a batch."""
    return tree.select(batch, slice(0, count))
