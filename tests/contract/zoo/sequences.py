"""Dynamics with bugs that show in a sequence: in the parallel pass, at resets, or when a window is full."""

from __future__ import annotations

import torch
from torch import nn

from worldlab.testing.reference import ReferenceDynamics, ReferenceParallelDynamics
from zoo.registry import broken


@broken("T3", "looks ahead")
class NonCausal(ReferenceParallelDynamics):
    """Has no causal mask."""

    def mask(self, is_first):
        past = super().mask(is_first)
        return past | past.transpose(1, 2)


@broken("T2", "in advance_sequence")
class IgnoresResets(ReferenceParallelDynamics):
    """Ignores resets in the parallel pass."""

    def mask(self, is_first):
        return super().mask(torch.zeros_like(is_first))


@broken("T2", "in advance_sequence")
class LateReset(ReferenceParallelDynamics):
    """Applies each reset one step late."""

    def mask(self, is_first):
        return super().mask(torch.cat([torch.zeros_like(is_first[:, :1]), is_first[:, :-1]], 1))


@broken("T4", "from a warm state")
class ColdSequence(ReferenceParallelDynamics):
    """Starts its parallel pass from zeros instead of the given state."""

    def advance_sequence(self, state, z, action, is_first):
        return super().advance_sequence({"h": torch.zeros_like(state["h"])}, z, action, is_first)


@broken("T6", "differently from copies")
class ShuffledFutures(ReferenceDynamics):
    """Returns its futures in the wrong order."""

    def fork(self, state, count):
        return {"h": state["h"].repeat(count, 1)}


class Window(ReferenceDynamics):
    """Averages the last 8 inputs, each with a learned absolute position."""

    SIZE = 8

    def __init__(self, config, specs):
        super().__init__(config, specs)
        self.inputs = nn.Linear(specs.latent.dim + specs.action.dim, config.memory)
        self.position = nn.Embedding(self.SIZE, config.memory)

    def initial(self, n):
        return {"cache": torch.zeros(n, self.SIZE, self.width), "pos": torch.zeros(n, dtype=torch.long)}

    def place(self, pos):
        """Return the cache index of the step at pos [N]."""
        return pos

    def advance(self, state, z, action):
        place = self.place(state["pos"])
        entry = self.inputs(torch.cat([z, action], -1)) + self.position(place)
        here = nn.functional.one_hot(place, self.SIZE)[..., None] * (state["pos"] < self.limit)[:, None, None]
        return {"cache": state["cache"] * (1 - here) + entry[:, None] * here, "pos": state["pos"] + 1}

    limit = 10**6

    def memory(self, state):
        return torch.tanh(state["cache"].sum(1))


@broken("T5", "position table ends there")
class LearnedPositions(Window):
    """Has a table of positions for 8 steps only."""


@broken("T5", "drops new entries")
class FullCache(Window):
    """Does not write into its cache once the cache is full."""

    limit = Window.SIZE

    def place(self, pos):
        return pos.clamp(max=self.SIZE - 1)
