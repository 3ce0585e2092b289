"""The recurrent memory of World Models."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worldlab import tree
from worldlab.interfaces import State, Unrolled


class LSTMMemory(nn.Module):
    """A long short-term memory. Hochreiter & Schmidhuber 1997, with the forget bias of 1 of World Models' code.

    State: "h" and "c", [N, H] each. Ha & Schmidhuber 2018, arXiv:1803.10122: one layer of 256.
    """

    def __init__(self, inputs: int, width: int):
        super().__init__()
        self.width = width
        self.inputs = nn.Linear(inputs, 4 * width)
        self.recurrent = nn.Linear(width, 4 * width, bias=False)
        with torch.no_grad():
            self.inputs.bias[width : 2 * width] += 1

    def initial(self, n: int) -> State:
        zero = self.inputs.weight.new_zeros(n, self.width)
        return {"h": zero, "c": zero}

    def step(self, state: State, x: Tensor) -> State:
        """Advance by one step with input x [N, I]; return the next state."""
        return self._cell(state, self.inputs(x))

    def sequence(self, state: State, x: Tensor, is_first: Tensor) -> Unrolled:
        """Advance by T steps with resets. x [N, T, I], is_first [N, T] bool. Input products take one pass, the
        recurrence a loop.
        """
        inputs, fresh, states = self.inputs(x), self.initial(len(x)), []
        for t in range(x.shape[1]):
            state = self._cell(tree.where(is_first[:, t], fresh, state), inputs[:, t])
            states.append(state)
        stacked = tree.stack(states)
        return Unrolled(stacked["h"], state, lambda row, time: tree.select(stacked, (row, time)))

    def _cell(self, state: State, inputs: Tensor) -> State:
        gate, forget, candidate, output = (inputs + self.recurrent(state["h"])).chunk(4, -1)
        c = torch.sigmoid(forget) * state["c"] + torch.sigmoid(gate) * torch.tanh(candidate)
        h = torch.sigmoid(output) * torch.tanh(c)
        return {"h": h.to(state["h"].dtype), "c": c.to(state["c"].dtype)}
