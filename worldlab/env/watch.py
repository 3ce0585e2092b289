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

from worldlab.errors import UserInterrupt

GRACE = 2.0
"""Seconds that an environment still has to finish its step after a signal asked the process to stop."""
_AGAIN = 0.5
"""Seconds after which an exception is raised once more, in case the environment has caught it."""


class TimeIsUp(BaseException):
    """The environment took too long. It is no Exception, because environments catch those."""


class StopRequested(UserInterrupt):
    """A signal asked the process to stop, and the environment did not finish its step in the time left."""


_stop_at: float | None = None
_due: float | None = None
"""When the timer rings; None if it is not set."""
_inside: Limit | None = None


def request_stop() -> None:
    """Note, in a signal handler, that the process has to stop: from now on an environment has GRACE seconds."""
    global _stop_at
    _stop_at = time.monotonic() + GRACE
    if _inside is not None:
        _set_timer(GRACE)


def forget_stop() -> None:
    """Undo `request_stop`."""
    global _stop_at
    _stop_at = None


def check_stop() -> None:
    """Raise StopRequested once, if a signal asked the process to stop GRACE seconds ago."""
    if _stop_at is not None and time.monotonic() >= _stop_at:
        forget_stop()
        raise StopRequested


class Limit:
    """A context out of which TimeIsUp is raised after `seconds`, and StopRequested GRACE seconds after a signal.

    It needs SIGALRM and the main thread. Elsewhere, or where other code uses SIGALRM, the context limits nothing. The
    timer is left on between contexts, because a system call takes longer than a step of a small environment.
    """

    def __init__(self, seconds: float):
        self.seconds = seconds
        self.until = 0.0
        self.was_suspended = False

    def __enter__(self) -> None:
        global _inside
        if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
            return
        now = time.monotonic()
        self.until = now + self.seconds
        first = self.until if _stop_at is None else min(self.until, _stop_at)
        # A timer that should have rung a second ago was taken by other code.
        if (_due is not None and now - 1 < _due <= first) or _set_timer(first - now):
            _inside = self

    def __exit__(self, *exc: object) -> None:
        global _inside
        _inside = None


def stop_timer() -> None:
    """Turn the timer off until the next `Limit`."""
    global _due
    if _due is not None:
        _due = None
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


def _set_timer(seconds: float) -> bool:
    """Let the timer ring in `seconds`. Returns whether that is possible: no other code has a handler for SIGALRM."""
    global _due
    before = signal.signal(signal.SIGALRM, _ring)
    if before not in (signal.SIG_DFL, _ring):
        signal.signal(signal.SIGALRM, before)
        _due = None
        return False
    seconds = max(seconds, 0.001)  # 0 would turn it off
    _due = time.monotonic() + seconds
    signal.setitimer(signal.ITIMER_REAL, seconds)
    return True


def _ring(number: int, frame: Any) -> None:
    limit, now = _inside, time.monotonic()
    if limit is None or _due is None:
        stop_timer()
        return
    if now - _due > 1 and not limit.was_suspended:  # the process was suspended (Ctrl-Z): the time begins once more
        limit.was_suspended = True
        limit.until = now + limit.seconds
    if now < limit.until and (_stop_at is None or now < _stop_at):
        _set_timer((limit.until if _stop_at is None else min(limit.until, _stop_at)) - now)
        return
    _set_timer(_AGAIN)
    check_stop()
    raise TimeIsUp
