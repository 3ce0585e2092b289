"""Sets up the process for training: device, threads, determinism, memory."""

from __future__ import annotations

import ctypes
import sys

import torch

from worldlab.errors import ConfigError
from worldlab.runs.machine import available_cores
from worldlab.settings import CoreSettings

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt (malloc.h)."""
_LARGEST = (1 << 31) - 1


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
    if core.strict != torch.are_deterministic_algorithms_enabled():  # the call imports torch._inductor: seconds
        torch.use_deterministic_algorithms(core.strict)
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
