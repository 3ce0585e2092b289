"""Limits what a plugin can do to worldlab while it registers: take for ever, or look like a Ctrl-C of the user.

Python code is interrupted after LIMIT seconds. Native code that does not return, and `os._exit`, hold up or end every
command; nothing in the same process can prevent that (`WORLDLAB_PLUGINS=off` leaves such a plugin out).
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from worldlab.errors import UserInterrupt, is_from_user
from worldlab.registry.faults import Fault, OwnInterrupt

LIMIT = 20.0
"""Seconds that a plugin has to register. Ours take 0.1 s together; one that imports torch takes a few."""
AGAIN = 0.5
"""Seconds after which a plugin that caught the interruption is interrupted again."""


class TooSlow(BaseException):
    """Interrupts a plugin that takes too long. It is no Exception, because plugins may catch those."""


@contextmanager
def guard_registration() -> Iterator[None]:
    """Interrupt the block after LIMIT seconds, and let Ctrl-C raise UserInterrupt in it.

    Raises: Fault for a plugin that takes too long. Both need the main thread and a system with SIGALRM; elsewhere the
    block just runs.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGALRM"):
        with _own_interrupts():
            yield
        return
    ours = {signal.SIGALRM: _too_slow}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        ours[signal.SIGINT] = _user_interrupt
    before = {number: signal.signal(number, handler) for number, handler in ours.items()}
    timer = signal.setitimer(signal.ITIMER_REAL, LIMIT, AGAIN)
    try:
        with _own_interrupts():
            yield
    except TooSlow:
        raise Fault(
            f"takes longer than {LIMIT:g} s to register", fix="move slow work into the modules of its components"
        ) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        for number, handler in ours.items():
            if signal.getsignal(number) is handler:  # a handler that the plugin set is reported by restore_globals
                signal.signal(number, before[number])


@contextmanager
def _own_interrupts() -> Iterator[None]:
    """Turn a KeyboardInterrupt that the plugin raises itself into an OwnInterrupt, while the handler tells them apart."""
    try:
        yield
    except KeyboardInterrupt as error:
        if is_from_user(error):
            raise
        raise OwnInterrupt(type(error).__name__).with_traceback(error.__traceback__) from None


def _too_slow(number: int, frame: FrameType | None) -> None:
    raise TooSlow


def _user_interrupt(number: int, frame: FrameType | None) -> None:
    raise UserInterrupt
