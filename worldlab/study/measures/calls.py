"""The number of sequential network calls per drawn image or imagined step: the cost of sampling on any machine.

A call is a matrix product, a convolution or an attention, counted as torch's functions are called. Each call waits for
the one before it, so the count is the length of the chain. A masked network that runs once per pixel counts once per
pixel; a layer that runs on all rows of a batch counts once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name

from worldlab import rollout
from worldlab.interfaces import ParallelDynamics
from worldlab.rollout import Carry
from worldlab.study.measures.measured_model import MeasuredModel
from worldlab.study.measures.standard_errors import make_measurement
from worldlab.study.measures.undefined import Undefined
from worldlab.study.results import Measurement
from worldlab.world_model import WorldModel

_NAMES = """
    linear bilinear matmul __matmul__ __rmatmul__ mm bmm mv addmm addbmm baddbmm addmv einsum tensordot linalg_multi_dot
    conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d scaled_dot_product_attention
    multi_head_attention_forward gru_cell lstm_cell rnn_tanh_cell rnn_relu_cell gru lstm rnn_tanh rnn_relu
"""
PRODUCTS = frozenset(_NAMES.split())
"""Last names of the functions that count as a call."""


class CallCounter(TorchFunctionMode):
    """Counts network calls in `calls` while the context is active."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", None) or resolve_name(func) or ""
        self.calls += name.rpartition(".")[2] in PRODUCTS
        # The mode is off inside a function, so nothing counts twice: linear is not an addmm as well.
        return func(*args, **(kwargs or {}))


def measure(subject: MeasuredModel) -> dict[str, Measurement]:
    """Measure calls/..."""
    model = subject.model
    works = {
        "frame": build_frame_work(model, 1),
        "step": build_step_work(model, 1),
        "naive_step": build_naive_step_work(model, 1, subject.sizes.past),
    }
    return {f"calls/{name}": _count_calls(work) for name, work in works.items()}


Work = Callable[[], object] | Undefined
"""A computation that can be repeated, or the reason why this model does not support it."""


def _count_calls(work: Work) -> Measurement:
    if isinstance(work, Undefined):
        return Measurement(None, why=str(work))
    with torch.no_grad(), CallCounter() as count:
        work()
    return make_measurement(count.calls)


def build_frame_work(model: WorldModel, rows: int) -> Work:
    """Build the work of sampling `rows` observations from the decoder, at the features of the initial state."""
    if not model.decoder.renders:
        return Undefined("the decoder does not draw: its images come from a probe outside of the model")
    features, generator = model.features(model.initial(rows)), torch.Generator(model.device).manual_seed(0)
    return lambda: [dist.sample(generator) for dist in model.decoder.decode(features).values()]


def build_step_work(model: WorldModel, rows: int) -> Work:
    """Build the work of one imagined step for `rows` dreams, as the model imagines: no image, no reward."""
    carry, generator = {"now": model.initial(rows)}, torch.Generator(model.device).manual_seed(0)
    action = torch.zeros(rows, model.specs.action.dim, device=model.device)

    def step() -> Tensor:
        carry["now"], features = rollout.prior_step(model.dynamics, carry["now"], action, generator)
        return features

    return step


def build_naive_step_work(model: WorldModel, rows: int, past: int) -> Work:
    """Build the work of one imagined step without a cache: the whole past of `past` steps is recomputed."""
    dynamics, specs = model.dynamics, model.specs
    if not isinstance(dynamics, ParallelDynamics):
        return Undefined("the dynamics is recurrent: its state summarises the past, nothing is recomputed")
    parallel: ParallelDynamics = dynamics
    start: Carry = model.initial(rows)
    z = torch.zeros(rows, past, specs.latent.dim, device=model.device)
    action = torch.zeros(rows, past, specs.action.dim, device=model.device)
    first = torch.zeros(rows, past, dtype=torch.bool, device=model.device)
    generator = torch.Generator(model.device).manual_seed(0)
    return lambda: dynamics.predict(parallel.advance_sequence(start.state, z, action, first).memory[:, -1]).sample(
        generator
    )
