"""Toy data with known solutions, in the format of replayed batches."""

from __future__ import annotations

import torch
from torch import Tensor

from worldlab.interfaces import Batch, Obs
from worldlab.model.noise import actions
from worldlab.specs import ActionSpec, ArraySpec, LatentSpec, ObsSpec


def image(side: int) -> tuple[str, ArraySpec]:
    """Return the entry of an RGB image of side x side pixels."""
    return "image", ArraySpec("image", (3, side, side))


VECTOR = ("vector", ArraySpec("vector", (3,)))
OBS: dict[str, ObsSpec] = {
    "dict": ObsSpec((image(16), VECTOR)),
    "image": ObsSpec((image(16),)),
    "vector": ObsSpec((VECTOR,)),
    "scalar": ObsSpec((("vector", ArraySpec("vector", (1,))),)),
    "image64": ObsSpec((image(64),)),
    "image96": ObsSpec((image(96),)),
    "grey": ObsSpec((("image", ArraySpec("image", (1, 8, 8))),)),
}
"""Observations by name, in the order in which checks try them."""
ACTIONS = {"continuous": ActionSpec("continuous", 2), "discrete": ActionSpec("discrete", 3)}


def latents(spec: LatentSpec, shape: tuple[int, ...], gen: torch.Generator) -> Tensor:
    """Return random latents [*shape, D] of the declared kind."""
    if spec.kind == "categorical":
        codes = torch.randint(spec.classes, (*shape, spec.groups), generator=gen)
        return torch.eye(spec.classes)[codes].flatten(-2)
    return torch.randn(*shape, spec.dim, generator=gen)


def moving_dot(obs: ObsSpec, action: ActionSpec, rows: int, length: int, gen: torch.Generator) -> Batch:
    """Return sequences of a bright dot that the first action entry moves; the reward on arrival is its x, in [-1, 1].

    Vectors hold (x, y, x * y), or the first entries of it; y never changes. The only reset is at the start, and no
    episode terminates.
    """
    push = actions(action, (rows, length), gen)
    push[:, 0] = 0
    x = [1.6 * torch.rand(rows, generator=gen) - 0.8]
    y = 1.6 * torch.rand(rows, generator=gen) - 0.8
    for t in range(1, length):
        x.append((x[-1] + 0.5 * (push[:, t, 0] - (0.33 if action.kind == "discrete" else 0))).clamp(-1, 1))
    xs, ys = torch.stack(x, 1), y[:, None].expand(rows, length)
    return _batch({key: _image_or_vector(entry, xs, ys) for key, entry in obs.entries}, push, xs)


def rewarded_action(obs: ObsSpec, action: ActionSpec, rows: int, length: int, gen: torch.Generator) -> Batch:
    """Return sequences with blank observations; the reward on arrival is the first entry of the preceding action."""
    push = actions(action, (rows, length), gen)
    push[:, 0] = 0
    blank = {key: torch.zeros(rows, length, *entry.shape) for key, entry in obs.entries}
    return _batch(blank, push, push[..., 0].clone())


def _batch(obs: Obs, prev_action: Tensor, reward: Tensor) -> Batch:
    is_first = torch.zeros(reward.shape, dtype=torch.bool)
    is_first[:, 0] = True
    ones = torch.ones(reward.shape)
    return Batch(obs, prev_action, reward * (~is_first), ones, is_first, ones)


def _image_or_vector(entry: ArraySpec, x: Tensor, y: Tensor) -> Tensor:
    if entry.kind == "vector":
        return torch.stack([x, y, x * y], -1)[..., : entry.shape[0]]
    _, height, side = entry.shape
    rows = torch.linspace(-1, 1, height)[:, None]
    columns = torch.linspace(-1, 1, side)
    distance = (columns - x[..., None, None]).square() + (rows - y[..., None, None]).square()
    bump = torch.exp(-distance / 0.08) - 0.5
    return bump[:, :, None].expand(*x.shape, *entry.shape).contiguous()
