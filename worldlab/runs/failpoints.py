"""Breaks one durable operation on purpose, so that tests can show that no moment to fail is a bad one.

Without WORLDLAB_FAILPOINTS nothing happens here. Its form is POINT:COUNT=ACTION:

    rename.before:2=kill              SIGKILL the process before its second rename
    *:17=kill                         at the 17th point of any kind
    write.half:1=errno:ENOSPC         fail the first write after half of its bytes
    *:0=trace:/tmp/points             append the name of every point to a file; nothing fails

A point is an operation (create, write, fsync, rename, ...) and a place: before, after, or for writes half.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

VARIABLE = "WORLDLAB_FAILPOINTS"


class _Plan:
    def __init__(self, text: str):
        where, _, self.action = text.partition("=")
        self.point, _, count = where.rpartition(":")
        self.count, self.seen = int(count), 0

    def reach(self, point: str) -> None:
        kind, _, detail = self.action.partition(":")
        if kind == "trace":
            with open(detail, "a") as file:
                file.write(f"{point}\n")
            return
        if self.point not in ("*", point):
            return
        self.seen += 1
        if self.seen != self.count:
            return
        if kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        number = getattr(errno, detail)
        raise OSError(number, os.strerror(number))


@cache
def _plan() -> _Plan | None:
    text = os.environ.get(VARIABLE)
    return _Plan(text) if text else None


def failpoint(point: str) -> None:
    """Do what WORLDLAB_FAILPOINTS plans for a point. Raises: OSError if it plans an error."""
    plan = _plan()
    if plan is not None:
        plan.reach(point)


@contextmanager
def durable(operation: str) -> Iterator[None]:
    """Surround an operation on a file by its two failpoints."""
    failpoint(f"{operation}.before")
    yield
    failpoint(f"{operation}.after")


def pieces(data: memoryview) -> Iterator[memoryview]:
    """Yield the bytes of one write: all at once, or with WORLDLAB_FAILPOINTS in two halves around a failpoint."""
    if _plan() is None:
        yield data
        return
    yield data[: len(data) // 2]
    failpoint("write.half")
    yield data[len(data) // 2 :]
