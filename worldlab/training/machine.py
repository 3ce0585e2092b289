"""Sets up the process for training: device, threads, determinism, memory, and the library of matrix products.

What makes an update faster without being part of its definition stands here and in `worldlab.training.agent_process`,
with what it gained (docs/log.md).
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import cache

import torch

from worldlab.distributions import exact
from worldlab.errors import ConfigError
from worldlab.runs.machine import available_cores
from worldlab.settings import CoreSettings

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt (malloc.h)."""
_LARGEST = (1 << 31) - 1
ROUNDS = 12
"""Measurements of each library of products, in turn. The fastest of each counts, since other processes slow the rest."""
LARGE = 3_000_000
"""Multiplications from which on a matrix product repays the time, about 25 us, that oneDNN needs to prepare it."""


def set_up_machine(core: CoreSettings) -> torch.device:
    """Set the global state of the process and return the device. Nothing else sets it. Raises: ConfigError."""
    if core.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "device 'cuda' is not available here",
            cause="torch is the CPU build" if not torch.backends.cuda.is_built() else "torch finds no GPU",
            fix="--device cpu, or install the CUDA build of torch",
        )
    use_cuda = core.device == "cuda" or (core.device == "auto" and torch.cuda.is_available() and not core.strict)
    if core.strict and use_cuda:
        raise ConfigError("--strict promises the same bits on the CPU only", fix="--device cpu, or leave --strict out")
    threads = 1 if core.strict else core.train.threads or available_cores()
    torch.set_num_threads(threads)
    # Not torch.use_deterministic_algorithms: it imports torch._inductor, which takes a second and compiles nothing here.
    torch.set_deterministic_debug_mode("error" if core.strict else "default")
    keep_memory()
    return torch.device("cuda" if use_cuda else "cpu")


def keep_memory() -> None:
    """Let glibc keep freed memory instead of returning it to the kernel, where there is a glibc.

    An update allocates and frees the same blocks again and again. By default glibc maps large ones anew each time, and
    the kernel then clears every page.
    """
    if sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library
        return
    mallopt(_M_MMAP_THRESHOLD, 1 << 30)
    mallopt(_M_TRIM_THRESHOLD, _LARGEST)


@contextmanager
def large_products(multiplications: int) -> Generator[None]:
    """Within the block, compute matrix products with oneDNN if they are large and `has_faster_products`.

    multiplications: those of a typical product of the block. Results then differ by rounding, so exact mode stays as it
    is. An update of vectors takes 0.74 [0.73, 0.76] of the time on an AMD processor (docs/log.md).
    """
    if multiplications < LARGE or exact() or not has_faster_products():
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@cache
def has_faster_products() -> bool:
    """Return whether oneDNN multiplies at least 1.3 times as fast here as torch's default, with the same accuracy.

    torch calls oneDNN for float32 at the precision "medium". Where the processor has units for bfloat16 matrices, it uses
    them, and the answer is False. It takes 0.2 s.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several wait for the slowest of them, so on a busy machine the answer was chance
    try:
        rounds = [(_multiply("highest"), _multiply("medium")) for _ in range(ROUNDS)]
    finally:
        torch.set_num_threads(threads)
    (error, _), (other_error, _) = rounds[0]  # the same in every round
    seconds = min(plain for (_, plain), _ in rounds)
    other_seconds = min(other for _, (_, other) in rounds)
    return other_error <= 4 * error and 1.3 * other_seconds <= seconds


def _multiply(precision: str) -> tuple[float, float]:
    """Return the largest error and the seconds of a product at a precision of torch."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(512, 256, generator=generator) for _ in range(2))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        error = float((a @ b.T - a.double() @ b.double().T).abs().max())
        return error, min(_time(lambda: a @ b.T) for _ in range(3))
    finally:
        torch.set_float32_matmul_precision(before)


def _time(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin
