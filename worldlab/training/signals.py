"""SIGINT and SIGTERM during training: noted when they come, acted on between two steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Stopped(Exception):
    """A signal asked the run to end; its checkpoint is saved."""

    def __init__(self, number: int):
        super().__init__(number)
        self.signal = number


@contextmanager
def catch_signals() -> Iterator[list[int]]:
    """Within: SIGINT and SIGTERM are noted in the list that is yielded; a second SIGINT interrupts at once."""
    seen: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield seen  # only the main thread may set handlers; whoever trains in another one has its own way to end it
        return

    def note(number: int, frame: Any) -> None:
        if seen and number == signal.SIGINT:
            raise KeyboardInterrupt
        seen.append(number)

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
