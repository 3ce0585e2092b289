"""Starts and ends worker processes: signals, threads, and death with the parent."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker

BLAS_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Environment variables that numpy's BLAS libraries read when they are loaded."""
_GROUP_SIGNALS = {getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)}
"""Signals that a terminal or a scheduler sends to the whole process group."""
_PR_SET_PDEATHSIG = 1


@contextmanager
def blocked_signals() -> Iterator[None]:
    """Block SIGINT, SIGTERM and SIGHUP: processes started inside inherit the mask; this one gets pending ones later.

    A terminal or a cluster scheduler signals the whole process group, but only the parent should react. A worker killed
    in the seconds before it installs its own handlers would look like a crash of the environment.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # if the first worker started it, it would undo the mask
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _GROUP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit processes started inside to one BLAS thread, unless the user's environment variables say otherwise.

    numpy's BLAS would start a thread per core to shrink an image of 96 pixels. These threads spin and slow everything
    else down: on CarRacing, two workers then deliver a third of the decisions per second (benchmarks/env_threads.py).
    """
    ours = {name: "1" for name in BLAS_THREADS if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


def leave_signals_to_parent() -> None:
    """Ignore the signals of the process group in a worker; see `blocked_signals`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A handler, not SIG_IGN: handlers are not inherited, so processes that an environment starts can be terminated.
    for number in _GROUP_SIGNALS - {signal.SIGINT}:
        signal.signal(number, lambda *_: None)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _GROUP_SIGNALS)


def die_with_parent(parent: int) -> None:
    """Let Linux kill this process when its parent ends, even while it hangs; other systems have no such request.

    parent: the parent's process id. The parent has started this process in its main thread: Linux watches the thread.
    """
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the request
        os._exit(1)


def describe_exit(exitcode: int | None) -> str:
    """Return an exit code of multiprocessing in words."""
    if exitcode is None or exitcode >= 0:
        return f"exit code {exitcode}"
    return f"killed by {signal.Signals(-exitcode).name}" + (", out of memory?" if exitcode == -signal.SIGKILL else "")
