"""Adam without the compiler that torch loads with its optimisers.

Methods of `torch.optim.Optimizer` are wrapped so that `torch.compile` leaves them alone. The wrappers import `torch._dynamo`,
which takes a second of every start, and worldlab compiles no optimiser. Here the methods are the wrapped functions
(`__wrapped__`, as Python's functools notes them); where a version of torch wraps nothing they are torch's own methods.
"""

from __future__ import annotations

from inspect import unwrap
from typing import Any, final

import torch
from torch import Tensor

_step = unwrap(torch.optim.Adam.step)


@final
class Adam(torch.optim.Adam):
    """Make the steps of `torch.optim.Adam`, bit for bit, with the same settings and the same saved state."""

    add_param_group = unwrap(torch.optim.Adam.add_param_group)
    register_load_state_dict_post_hook = unwrap(torch.optim.Adam.register_load_state_dict_post_hook)
    load_state_dict = unwrap(torch.optim.Adam.load_state_dict)
    state_dict = unwrap(torch.optim.Adam.state_dict)
    zero_grad = unwrap(torch.optim.Adam.zero_grad)

    def step_if(self, wanted: Tensor) -> None:
        """Make one step if `wanted`, a bool scalar on the device of the parameters, is true. The host does not read it.

        The fused kernels of torch change nothing where `found_inf`, made for the scaling of gradients, is 1.
        """
        self.found_inf = (~wanted).float()
        try:
            self.step()
        finally:
            del self.found_inf

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Make one step. closure: computes the loss again and returns it, or None."""
        return _step(self, closure)
