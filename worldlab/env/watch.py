"""Limits how long this process waits for an environment: to `env.timeout`, and to GRACE seconds after a signal.

Python runs signal handlers in the main thread, between two of its instructions. So a handler can raise out of Python code
that hangs, also out of a sleep or a read that blocks. It cannot raise out of native code that never returns: only a worker
process can be ended there.
"""

from __future__ import annotations

import signal
import threading
import time
from typing import Any

GRACE = 2.0
"""Seconds that an environment still has to finish its step after a signal asked the process to stop."""
_TICKS = 4
"""Ticks of the timer in a time limit. A suspended process (Ctrl-Z) gets one tick for the whole time it was suspended."""


class TimeIsUp(BaseException):
    """The environment took too long. It is no Exception, because environments catch those."""


class StopRequested(BaseException):
    """A signal asked the process to stop, and the environment did not finish its step in the time left."""


_stop_at: float | None = None
_current: Limit | None = None


def request_stop() -> None:
    """Note, in a signal handler, that the process has to stop: from now on an environment has GRACE seconds."""
    global _stop_at
    _stop_at = time.monotonic() + GRACE
    if _current is not None:
        signal.setitimer(signal.ITIMER_REAL, GRACE, 0.5)


def forget_stop() -> None:
    """Undo `request_stop`."""
    global _stop_at
    _stop_at = None


def check_stop() -> None:
    """Raise StopRequested once, if a signal asked the process to stop GRACE seconds ago."""
    if _stop_at is not None and time.monotonic() >= _stop_at:
        forget_stop()
        raise StopRequested


def is_from_user(error: BaseException) -> bool:
    """Return whether an exception out of an environment comes from a signal to this process, not from the environment.

    Where worldlab handles SIGINT, its handler raises subclasses of KeyboardInterrupt. Elsewhere a KeyboardInterrupt of the
    environment cannot be distinguished from Ctrl-C, and Ctrl-C is more likely.
    """
    if not isinstance(error, KeyboardInterrupt):
        return isinstance(error, StopRequested)
    return type(error) is not KeyboardInterrupt or signal.getsignal(signal.SIGINT) is signal.default_int_handler


class Limit:
    """A context out of which TimeIsUp is raised after `seconds`, and StopRequested GRACE seconds after a signal.

    It needs SIGALRM and the main thread. Elsewhere, or where other code uses SIGALRM, the context limits nothing.
    """

    def __init__(self, seconds: float):
        self._seconds = seconds
        self._ticks = 0
        self._on = False

    def __enter__(self) -> None:
        global _current
        if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
            return
        before = signal.signal(signal.SIGALRM, self._tick)
        if before is not signal.SIG_DFL:
            signal.signal(signal.SIGALRM, before)
            return
        self._on, _current = True, self
        tick = self._seconds / _TICKS
        first = tick if _stop_at is None else min(tick, max(_stop_at - time.monotonic(), 0.01))
        signal.setitimer(signal.ITIMER_REAL, first, tick)

    def __exit__(self, *exc: object) -> None:
        global _current
        if self._on:
            self._on, _current = False, None
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)

    def _tick(self, number: int, frame: Any) -> None:
        if not self._on:
            return
        check_stop()
        self._ticks += 1
        if self._ticks >= _TICKS:
            raise TimeIsUp
