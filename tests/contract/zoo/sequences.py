"""Dynamics whose bugs need a sequence: the parallel pass, resets inside it, windows that end."""

from __future__ import annotations

import torch
from torch import nn

from worldlab.testing.reference import ReferenceDynamics, ReferenceParallelDynamics
from zoo.animals import broken


@broken("T3", "looks ahead")
class NonCausal(ReferenceParallelDynamics):
    """Forgot the causal mask."""

    def mask(self, is_first):
        past = super().mask(is_first)
        return past | past.transpose(1, 2)


@broken("T2", "in advance_sequence")
class IgnoresResets(ReferenceParallelDynamics):
    """Runs straight through episode ends when it trains in parallel."""

    def mask(self, is_first):
        return super().mask(torch.zeros_like(is_first))


@broken("T2", "in advance_sequence")
class LateReset(ReferenceParallelDynamics):
    """Applies each reset one step late."""

    def mask(self, is_first):
        return super().mask(torch.cat([torch.zeros_like(is_first[:, :1]), is_first[:, :-1]], 1))


@broken("T4", "from a warm state")
class ColdSequence(ReferenceParallelDynamics):
    """Starts its parallel pass from zeros, whatever state it is given."""

    def advance_sequence(self, state, z, action, is_first):
        return super().advance_sequence({"h": torch.zeros_like(state["h"])}, z, action, is_first)


@broken("T6", "differently from copies")
class ShuffledFutures(ReferenceDynamics):
    """Hands its futures out in turn, not row by row."""

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
        """Where the step at pos [N] is written, and its position."""
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
    """Its table of positions ends after 8 steps."""


@broken("T5", "drops new entries")
class FullCache(Window):
    """Once full it no longer writes."""

    limit = Window.SIZE

    def place(self, pos):
        return pos.clamp(max=self.SIZE - 1)
