"""The code that runs on a node of a Ray cluster. It is shipped by value: it needs Python and the folder, but not
worldlab.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

Problem = Literal["", "folder", "program"]
NodeMessage = tuple[str, str, int, str]
"""A message of a node: "started", "ended" or "refused"; the host; an exit code; a problem, or a task's last output."""

SETTLE = 5.0
"""Seconds a node may take to see a file written on another node."""
POLL = 0.2
"""Seconds between two checks of a task."""
LINES = 15
"""Number of last output lines kept to explain a failure."""
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def check_node(marker: str, token: str, program: str) -> tuple[str, Problem]:
    """Return this host and the problem that prevents tasks from running on it. marker: a file of the driver that holds
    token.
    """
    end = time.monotonic() + SETTLE
    while not _holds(marker, token):
        if time.monotonic() > end:
            return socket.gethostname(), "folder"
        time.sleep(POLL)
    return socket.gethostname(), "" if shutil.which(program) else "program"


def _holds(marker: str, token: str) -> bool:
    try:
        return Path(marker).read_text(encoding="utf-8") == token
    except OSError:
        return False


def run_task(
    place: tuple[str, str, str], argv: Sequence[str], env: Mapping[str, str], patience: float
) -> Iterator[NodeMessage]:
    """Run a command in a folder; yield a message when it has started and when it has ended.

    place: (folder, marker, token). patience: seconds between termination and kill when Ray cancels this task, for the
    command to save its state.
    """
    folder, marker, token = place
    host, problem = check_node(marker, token, argv[0])
    if problem:
        yield "refused", host, 0, problem
        return
    with _record_interrupts() as interrupts:
        process = _start(argv, folder, env)
        last: deque[str] = deque(maxlen=LINES)
        copier = threading.Thread(target=_copy, args=(process, last), daemon=True)
        try:
            copier.start()
            yield "started", host, 0, ""
            _wait(process, interrupts, patience)
        finally:
            with suppress(ProcessLookupError):  # together with its child processes
                os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
        copier.join(1.0)
        yield "ended", host, code, "".join(last)


@contextmanager
def _record_interrupts() -> Iterator[list[int]]:
    """Record interrupts in a list instead of raising them. Ray cancels a task by an interrupt, which could hit any
    line.
    """
    interrupts: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: interrupts.append(number))
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, before)


def _start(argv: Sequence[str], folder: str, env: Mapping[str, str]) -> subprocess.Popen[str]:
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    worker = os.getpid()

    def settle() -> None:
        if libc is not None:  # the kernel kills it with this Ray worker, so that no orphan keeps writing to the folder
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != worker:
                os._exit(1)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])  # Ray's workers block SIGINT

    return subprocess.Popen(
        argv,
        cwd=folder,
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        preexec_fn=settle,
    )


def _copy(process: subprocess.Popen[str], last: deque[str]) -> None:
    """Copy a command's output to this worker's stderr, which Ray keeps, and store its last lines."""
    assert process.stdout is not None
    for line in process.stdout:
        last.append(line)
        print(line, end="", file=sys.stderr, flush=True)


def _wait(process: subprocess.Popen[str], interrupts: Sequence[int], patience: float) -> None:
    end = None
    while process.poll() is None:
        if interrupts and end is None:
            process.terminate()
            end = time.monotonic() + patience
        if end is not None and time.monotonic() > end:
            return
        time.sleep(POLL)
