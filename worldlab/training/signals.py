"""Records SIGINT, SIGTERM and SIGHUP during training, so that the loop can stop between two steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from worldlab.env.watch import forget_stop, request_stop


class SecondInterrupt(KeyboardInterrupt):
    """A second SIGINT: stop at once, without a checkpoint."""


class Stopped(Exception):
    """A signal stopped the run after a checkpoint was saved."""

    def __init__(self, number: int):
        super().__init__(number)
        self.signal = number


@contextmanager
def catch_signals() -> Iterator[list[int]]:
    """Record signals in the yielded list within the context; a SIGINT after another signal raises SecondInterrupt.

    The signals are SIGINT, SIGTERM and SIGHUP, which a process receives when its terminal closes. A SIGHUP that the caller
    ignores, as nohup does, stays ignored. After a signal an environment that hangs is not waited for any longer
    (`worldlab.env.watch.request_stop`).
    """
    seen: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield seen  # only the main thread can set handlers; a caller in another thread must stop the run itself
        return

    def note(number: int, frame: Any) -> None:
        if seen and number == signal.SIGINT:
            raise SecondInterrupt
        seen.append(number)
        request_stop()

    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield seen
    finally:
        forget_stop()
        for number, handler in before.items():
            signal.signal(number, handler)
