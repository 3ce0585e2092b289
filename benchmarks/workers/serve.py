"""The protocol of a worker: it answers the requests of benchmarks/interleave.py, one line each.

A worker imports this module first, builds what it measures, and calls `serve`. Only torch is needed, so that a worker
runs in the environment of any package. The answers leave through the original standard output; whatever a library
prints goes to standard error instead.

    run NAME COUNT SECONDS     the durations in seconds of at least COUNT calls, repeated until SECONDS have passed
    flops NAME                 the floating-point operations of one call
    memory                     the resident memory of this process now and at its highest, in bytes
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

_ANSWERS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

Calls = Mapping[str, Callable[[], object]]
"""The calls of a worker, by name. One call is the unit that is timed."""


class CountFlops(TorchDispatchMode):
    """Counts operations with the formulas of torch.utils.flop_counter.

    FlopCounterMode also records which module made each call. That needs hooks that some models do not allow.
    """

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.total += int(formula(*args, **(kwargs or {}), out_val=out))
        return out


def serve(calls: Calls, facts: Mapping[str, Any], finish: Callable[[], object] | None = None) -> None:
    """Print the facts, then answer requests until standard input ends.

    finish: completes what the calls of a block have left to other processes; its time belongs to the last call.
    """
    _answer({"torch": torch.__version__, **facts})
    for line in sys.stdin:
        request, *words = line.split()
        if request == "run":
            _answer(time_calls(calls[words[0]], int(words[1]), float(words[2]), finish))
        elif request == "flops":
            with CountFlops() as counter:
                calls[words[0]]()
            _answer(counter.total)
        elif request == "memory":
            _answer({"now": resident_bytes(), "peak": peak_bytes()})
        else:
            raise SystemExit(f"unknown request {line!r}")


def time_calls(
    call: Callable[[], object], count: int, seconds: float, finish: Callable[[], object] | None = None
) -> list[float]:
    """Return the durations in seconds of at least `count` calls, repeated until `seconds` have passed."""
    durations: list[float] = []
    start = time.perf_counter()
    while len(durations) < count or time.perf_counter() - start < seconds:
        begin = time.perf_counter()
        call()
        durations.append(time.perf_counter() - begin)
    if finish is not None:
        begin = time.perf_counter()
        finish()
        durations[-1] += time.perf_counter() - begin
    return durations


def resident_bytes() -> int:
    """Return the resident memory of this process (Linux)."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak_bytes() -> int:
    """Return the highest resident memory of this process so far (Linux).

    Not that of `resource.getrusage`: a child begins there with the peak of the process that started it.
    """
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith("VmHWM"))


def trained(*modules: torch.nn.Module) -> int:
    """Return the number of parameters that learn."""
    return sum(p.numel() for module in modules for p in module.parameters() if p.requires_grad)


def _answer(value: Any) -> None:
    print(json.dumps(value), file=_ANSWERS, flush=True)
