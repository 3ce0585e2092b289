"""Compiles a whole update for the CPU: its forward passes, backward passes and optimiser steps become one graph of Inductor.

It is a recorder of `worldlab.training.graph`: the rules there hold, and a compiled update is compared with eager ones before
it is used. The update is traced while it runs (`make_fx`), so loops over time are unrolled, and a plugin needs no code for a
compiler: it is traced as the operations of torch that it calls. Inductor fuses what stands between the matrix products.

Two kinds of operations are not traced as they are:

    random numbers     are inputs. A call that draws is noted with its buffer, and a replay draws into the buffers first, from
                       the same generators in the same order: a compiled update sees the random numbers of an eager one
    fused Adam         stays one call of torch's kernel, with the learning rate and the flag of a bad step as inputs
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from operator import attrgetter
from typing import Any, cast, final

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing, make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from worldlab.training.graph import NotRecordedError

log = logging.getLogger("worldlab")
Compile = Callable[[fx.GraphModule, list[Tensor]], Callable[..., Sequence[Tensor]]]
"""Compiles a graph whose inputs are these tensors, some of which it changes in place."""


def compile_with_inductor(graph: fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Sequence[Tensor]]:
    """Compile a graph with torch's Inductor, which needs a C++ compiler and takes minutes."""
    from torch._inductor import compile as compile_graph  # the import takes a second

    return cast(Callable[..., Sequence[Tensor]], compile_graph(graph, list[Any](inputs)))


@final
class CompiledRecorder:
    """Records an update as one compiled graph, and replays it by calling that.

    products: returns the context of the matrix products of a replay. after: updates of a stage that run eagerly before one
    is compiled; compilation takes as long as some thousand of them.
    """

    def __init__(
        self,
        products: Callable[[], AbstractContextManager[None]] = nullcontext,
        compile_graph: Compile = compile_with_inductor,
        after: int = 500,
    ):
        self.after = after
        self._products, self._compile = products, compile_graph
        self.forget()

    def beside(self) -> AbstractContextManager[None]:
        """Return a context without effect: on the CPU there are no streams."""
        return nullcontext()

    def record(self, call: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """Run, trace and compile a call. Raises: what the call or torch raises."""
        log.info("compiling the update: this takes minutes once, and training waits for it")
        begin, tracing = time.monotonic(), _Tracing()

        def traced() -> tuple[Tensor, ...]:
            with tracing:
                return call()

        graph: fx.GraphModule = make_fx(traced)()
        self._draws, self._inputs = tracing.draws, _lift_constants(graph)
        with torch.no_grad(), self._products():
            self._graph = self._compile(graph, self._inputs)
        self._results = tuple(result.clone() for result in self._run())
        log.info("the update is compiled, after %.0f s; it is compared with eager ones now", time.monotonic() - begin)
        return self._results

    def replay(self) -> None:
        """Draw the random numbers and make the update."""
        for draw in self._draws:
            draw()
        for held, new in zip(self._results, self._run(), strict=True):
            held.copy_(new)

    def forget(self) -> None:
        """Free what a recording holds."""
        self._draws: list[Callable[[], object]] = []
        self._inputs: list[Tensor] = []
        self._results: tuple[Tensor, ...] = ()
        self._graph: Callable[..., Sequence[Tensor]] | None = None

    def _run(self) -> Sequence[Tensor]:
        assert self._graph is not None
        with torch.no_grad(), self._products():
            return self._graph(*self._inputs)


class _Tracing(TorchDispatchMode):
    """Replaces random numbers and fused Adam while an update is traced. draws: draw anew into the buffers, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.draws: list[Callable[[], object]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options: dict[str, Any] = kwargs or {}
        if any(argument.name == "generator" for argument in func._schema.arguments):
            return self._draw(func, args, options)
        if func.overloadpacket is torch.ops.aten._fused_adam_:
            func = _fused_adam
        return func(*args, **options)

    def _draw(self, func: Any, args: Sequence[Any], options: dict[str, Any]) -> Tensor:
        """Draw into a buffer, which the trace sees as a constant. Raises: NotRecordedError."""
        filled, settings = (args[0], args[1:]) if func._schema.is_mutable else (None, args)
        if any(isinstance(value, Tensor) for value in (*settings, *options.values())):
            raise NotRecordedError(f"{func} draws numbers whose distribution depends on a tensor")
        if filled is None:
            with disable_proxy_modes_tracing():
                buffer: Tensor = func(*settings, **options)
            self.draws.append(lambda: buffer.copy_(func(*settings, **options)))
            return buffer.clone()
        with disable_proxy_modes_tracing():
            buffer = torch.empty_like(filled)
            func(buffer, *settings, **options)
        self.draws.append(partial(func, buffer, *settings, **options))
        return filled.copy_(buffer)


@torch.library.custom_op("worldlab::fused_adam_", mutates_args=("weights", "firsts", "seconds", "largest"))
def _fused_adam(
    weights: list[Tensor],
    gradients: list[Tensor],
    firsts: list[Tensor],
    seconds: list[Tensor],
    largest: list[Tensor],
    steps: list[Tensor],
    lr: Tensor,
    beta1: float,
    beta2: float,
    weight_decay: float,
    eps: float,
    amsgrad: bool,
    maximize: bool,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> None:
    """Call torch's fused Adam as one operation of a graph: torch's own has no form for tracing if lr is a tensor."""
    torch._fused_adam_(  # pyright: ignore[reportPrivateImportUsage]
        weights,
        gradients,
        firsts,
        seconds,
        largest,
        steps,
        lr=lr,
        beta1=beta1,
        beta2=beta2,
        weight_decay=weight_decay,
        eps=eps,
        amsgrad=amsgrad,
        maximize=maximize,
        grad_scale=grad_scale,
        found_inf=found_inf,
    )


def _lift_constants(graph: fx.GraphModule) -> list[Tensor]:
    """Make each tensor that the graph holds an input: weights, states of optimisers, buffers. Returns them in order."""
    inputs: list[Tensor] = []
    lifted: dict[int, fx.Node] = {}
    nodes = list(graph.graph.nodes)
    first = next(node for node in nodes if node.op != "get_attr")
    for node in nodes:
        if node.op != "get_attr":
            continue
        held: Tensor = attrgetter(node.target)(graph)
        if id(held) not in lifted:
            with graph.graph.inserting_before(first):
                lifted[id(held)] = graph.graph.placeholder(f"input_{len(inputs)}")
            inputs.append(held)
        node.replace_all_uses_with(lifted[id(held)])
        graph.graph.erase_node(node)
    graph.graph.lint()
    graph.recompile()
    return [held.detach() for held in inputs]  # the same memory; a graph of autograd is part of the graph
