"""A trainer of any mix at the smallest size, and recorders that stand in for a GPU's."""

from __future__ import annotations

from contextlib import nullcontext
from functools import cache
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from worldlab.config.resolve import resolve
from worldlab.interfaces import Batch
from worldlab.model.noise import noise_batch, stream
from worldlab.registry import Registry, load_registry
from worldlab.training.compose import compose
from worldlab.training.graph import EAGER, _state_of
from worldlab.training.streams import Streams
from worldlab.training.trainer import Generators, Trainer

CPU = torch.device("cpu")
MIXES = [
    ("vae", "vae", "vae", "dreamer", False),
    ("vae", "vae", "vae", "tdmpc", True),
    ("flow", "flow", "flow", "tdmpc", False),
    ("gan", "gan", "gan", "dreamer", True),
    ("cpc", "cpc", "cpc", "dreamer", False),
    ("vq", "imle", "vae", "cem", True),
    ("autoregressive", "autoregressive", "autoregressive", "tdmpc", True),
]
"""Encoder, dynamics, decoder, agent, and whether images are observed: every family and kind of agent once."""


@cache
def registry() -> Registry:
    return load_registry([])


def made(encoder: str, dynamics: str, decoder: str, agent: str = "dreamer", *, image: bool = False, **flags) -> Trainer:
    """Compose a mix as a run does. image: observe one and choose discrete actions; else a vector and continuous ones."""
    box = (
        gymnasium.spaces.Box(0, 255, (16, 16, 3), np.uint8) if image else gymnasium.spaces.Box(-1, 1, (3,), np.float32)
    )
    action = gymnasium.spaces.Discrete(3) if image else gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    parts = {"encoder": encoder, "dynamics": dynamics, "decoder": decoder, "agent": agent}
    chosen = {role: {"name": name} for role, name in parts.items()}
    train = {"batch_size": 3, "batch_length": 6, "starts": 8}
    config = resolve(registry(), presets=["debug"], flags={"size": "nano", "train": train, **chosen, **flags})
    streams = Streams(0)
    space = gymnasium.spaces.Dict({"image" if image else "vector": box})
    composed = compose(config, registry(), space, action, streams, CPU)
    generators = Generators(streams.torch("model"), streams.torch("agent"))
    return Trainer(composed.model, composed.agent, config.core.train, generators)


def batch_of(trainer: Trainer, seed: int = 0, resets: bool = False) -> Batch:
    """Noise [3, 6]. resets: row 0 begins an episode at every step, so that no step is without a reset."""
    batch = noise_batch(trainer.model.specs.obs, trainer.model.specs.action, 3, 6, stream(seed))
    if resets:
        batch.is_first[0], batch.prev_action[0] = True, 0
    return batch


def state_of(trainer: Trainer) -> dict[str, Tensor]:
    """All that an update changes, copied."""
    found = {name: tensor.detach().clone() for name, tensor in _state_of(trainer)}
    for name in ("model", "agent"):
        found[f"stream {name}"] = getattr(trainer.generators, name).get_state()
    return found


def different(a: dict[str, Tensor], b: dict[str, Tensor]) -> list[str]:
    assert a.keys() == b.keys()
    same = {key: torch.equal(a[key], b[key]) or bool((a[key].isnan() & b[key].isnan()).all()) for key in a}
    return [key for key, equal in same.items() if not equal]


class Echo:
    """Records a call by keeping it, and replays by calling it again: what a graph is for a device.

    spoil: changes something before a replay, as a recording does that lacks it.
    """

    def __init__(self, spoil: Any = None, after: int = EAGER):
        self.after = after
        self.spoil = spoil
        self.replays, self.call, self.results = 0, None, ()

    def beside(self) -> Any:
        return nullcontext()

    def record(self, call: Any) -> tuple[Tensor, ...]:
        self.call, self.results = call, call()
        return self.results

    def replay(self) -> None:
        assert self.call is not None
        self.replays += 1
        after = None if self.spoil is None else self.spoil()
        for held, new in zip(self.results, self.call(), strict=True):
            held.copy_(new)
        if after is not None:
            after(self.results)

    def forget(self) -> None:
        self.call = None
