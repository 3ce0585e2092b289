"""Finds where an update reads a value of a tensor on the host. On a GPU that waits for all work in progress.

On a GPU, PyTorch reports such places itself (`torch.cuda.set_sync_debug_mode`). On the CPU no read waits, so the same places
are found by the operations that need one: reading a number, shapes that depend on values, and tensors made from Python
numbers, which a GPU would have to receive from the host.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

READS = {
    *("item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__", "__array__", "__format__"),
    *("nonzero", "masked_select", "unique", "unique_consecutive", "bincount", "equal", "allclose", "is_nonzero"),
}
"""Names of functions and methods of tensors whose result the host has to know."""
MADE_FROM_NUMBERS = ("tensor", "as_tensor", "from_numpy")
TORCH = str(Path(torch.__file__).parent)


@contextmanager
def watch_host_reads(device: torch.device) -> Generator[list[str]]:
    """Note where code within the block reads values on the host. Yields a list of places, "FILE:LINE: OPERATION"."""
    found: list[str] = []
    if device.type == "cuda":
        with _cuda_warnings(found):
            yield found
    else:
        with _Calls(found), _Operations(found):
            yield found


@contextmanager
def _cuda_warnings(found: list[str]) -> Generator[None]:
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(before)
    for warning in caught:
        if "called a synchronizing" in str(warning.message):
            found.append(f"{warning.filename}:{warning.lineno}: {str(warning.message).partition('(')[0].strip()}")
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


class _Calls(TorchFunctionMode):
    """Notes calls from Python."""

    def __init__(self, found: list[str]):
        super().__init__()
        self.found = found

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in READS or name in MADE_FROM_NUMBERS or _depends_on_values(name, args):
            self.found.append(f"{_place()}: {name}")
        return func(*args, **(kwargs or {}))


class _Operations(TorchDispatchMode):
    """Notes what PyTorch's own functions read."""

    def __init__(self, found: list[str]):
        super().__init__()
        self.found = found

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = str(func).removeprefix("aten.").partition(".")[0]
        if name in READS or name == "_local_scalar_dense":
            self.found.append(f"{_place()}: {name}")
        return func(*args, **(kwargs or {}))


def _depends_on_values(name: str, args: tuple[Any, ...]) -> bool:
    """Return whether the shape of a result depends on values: indexing by a mask, repeating by counts, finding places."""
    if name in ("__getitem__", "__setitem__"):
        index = args[1] if isinstance(args[1], tuple) else (args[1],)
        return any(isinstance(part, Tensor) and part.dtype in (torch.bool, torch.uint8) for part in index)
    if name == "repeat_interleave":
        return len(args) > 1 and isinstance(args[1], Tensor)
    return name == "where" and len(args) == 1


def _place() -> str:
    """Return file and line of the innermost code that is not PyTorch's nor this file's."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith((TORCH, __file__)):
        frame = frame.f_back
    return "?" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"


def shortest(places: Iterable[str], count: int = 3) -> str:
    """Return some of the places for a message, each once and without its folders."""
    short = list(dict.fromkeys("/".join(place.rsplit("/", 2)[-2:]) for place in places))
    more = f" and {len(short) - count} more" if len(short) > count else ""
    return ", ".join(short[:count]) + more
