"""How many network calls follow each other until a picture, or a step, is there: what sampling costs on any machine.

A call is a matrix product, a convolution or an attention, counted as torch's functions are called: each waits for the one before, so
their number is the length of the chain. A masked network that is run once a pixel counts once a pixel; a layer that is run for all
rows of a batch counts once.
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
from worldlab.study.measures.intervals import measurement
from worldlab.study.measures.specimen import Specimen
from worldlab.study.measures.undefined import Undefined
from worldlab.study.results import Measurement
from worldlab.world_model import WorldModel

_NAMES = """
    linear bilinear matmul __matmul__ __rmatmul__ mm bmm mv addmm addbmm baddbmm addmv einsum tensordot linalg_multi_dot
    conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d scaled_dot_product_attention multi_head_attention_forward
    gru_cell lstm_cell rnn_tanh_cell rnn_relu_cell gru lstm rnn_tanh rnn_relu
"""
PRODUCTS = frozenset(_NAMES.split())
"""Last names of the functions that count."""


class CallCount(TorchFunctionMode):
    """Within: `calls` grows with every product of a network."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", None) or resolve_name(func) or ""
        self.calls += name.rpartition(".")[2] in PRODUCTS
        # What a function does inside is not seen again: the mode is off within, and linear is no addmm beside.
        return func(*args, **(kwargs or {}))


def measured(specimen: Specimen) -> dict[str, Measurement]:
    """calls/..."""
    model = specimen.model
    works = {
        "frame": drawing(model, 1),
        "step": imagining(model, 1),
        "naive_step": naively(model, 1, specimen.sizes.past),
    }
    return {f"calls/{name}": _counted(work) for name, work in works.items()}


Work = Callable[[], object] | Undefined
"""Something to be done, again and again; or why it cannot be."""


def _counted(work: Work) -> Measurement:
    if isinstance(work, Undefined):
        return Measurement(None, why=str(work))
    with torch.no_grad(), CallCount() as count:
        work()
    return measurement(count.calls)


def drawing(model: WorldModel, rows: int) -> Work:
    """Sampling `rows` observations from the decoder, at features as they are before anything was seen."""
    if not model.decoder.renders:
        return Undefined("the decoder does not draw: its pictures come from a probe outside of the model")
    features, generator = model.features(model.initial(rows)), torch.Generator(model.device).manual_seed(0)
    return lambda: [dist.sample(generator) for dist in model.decoder.decode(features).values()]


def imagining(model: WorldModel, rows: int) -> Work:
    """One step of `rows` dreams, as the model does it: no picture, no reward."""
    carry, generator = {"now": model.initial(rows)}, torch.Generator(model.device).manual_seed(0)
    action = torch.zeros(rows, model.specs.action.dim, device=model.device)

    def step() -> Tensor:
        carry["now"], features = rollout.prior_step(model.dynamics, carry["now"], action, generator)
        return features

    return step


def naively(model: WorldModel, rows: int, past: int) -> Work:
    """The same with nothing kept: the whole past of `past` steps is gone through again."""
    dynamics, specs = model.dynamics, model.specs
    if not isinstance(dynamics, ParallelDynamics):
        return Undefined("the dynamics is recurrent: its state is the past, there is nothing to compute again")
    parallel: ParallelDynamics = dynamics
    start: Carry = model.initial(rows)
    z = torch.zeros(rows, past, specs.latent.dim, device=model.device)
    action = torch.zeros(rows, past, specs.action.dim, device=model.device)
    first = torch.zeros(rows, past, dtype=torch.bool, device=model.device)
    generator = torch.Generator(model.device).manual_seed(0)
    return lambda: dynamics.predict(parallel.advance_sequence(start.state, z, action, first).memory[:, -1]).sample(
        generator
    )
