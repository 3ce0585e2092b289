"""One websocket: a limited number of messages comes in, and what goes out waits in a bounded queue."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from starlette.websockets import WebSocket

log = logging.getLogger("worldlab")

MESSAGE_BYTES = 64 * 1024
"""Size of the largest message that a page may send; the websocket of one that sends more is closed (1009)."""
RATE, BURST = 100.0, 200.0
"""Messages a second that a page may send over a long time, and at once. A page that sends more is closed (1008)."""
QUEUE = 64
"""Messages that may wait for a slow page. The websocket of one that leaves more unread is closed (1013)."""


@dataclass
class RateLimit:
    """A token bucket: `BURST` messages at once, `RATE` a second over time. Times are in seconds."""

    left: float = BURST
    last: float = 0.0

    def allows(self, now: float) -> bool:
        """Return whether a message at the time `now` is within the limit, and count it."""
        self.left = min(BURST, self.left + (now - self.last) * RATE)
        self.last = now
        if self.left < 1:
            return False
        self.left -= 1
        return True


@dataclass
class Outbox:
    """Messages that wait to be sent, in order; of those with one key only the newest."""

    waiting: dict[Any, str | bytes] = field(default_factory=dict)
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    empty: asyncio.Event = field(default_factory=asyncio.Event)
    sent: int = 0

    def put(self, message: str | bytes, key: str | None) -> bool:
        """Add a message; one with the same key that still waits is dropped. Returns whether there was room."""
        if key is not None:
            self.waiting.pop(key, None)
        elif len(self.waiting) >= QUEUE:
            return False
        self.sent += 1
        self.waiting[self.sent if key is None else key] = message
        self.ready.set()
        self.empty.clear()
        return True

    async def take(self) -> str | bytes:
        """Wait for the oldest message and remove it."""
        while not self.waiting:
            self.empty.set()
            self.ready.clear()
            await self.ready.wait()
        return self.waiting.pop(next(iter(self.waiting)))


class Channel:
    """The websocket of one page.

    `send` never waits, so a page that reads slowly costs nobody else time; `receive` waits for the next message. A site
    must call both from the event loop.
    """

    def __init__(self, websocket: WebSocket):
        self._websocket = websocket
        self._outbox = Outbox()
        self._rate = RateLimit(last=time.monotonic())
        self._sender = asyncio.ensure_future(self._send_all())
        self._end: tuple[int, str] | None = None

    @property
    def waiting(self) -> int:
        """The number of messages that the page has not taken yet. A site that draws can skip a picture while it is above 0."""
        return len(self._outbox.waiting)

    async def drained(self) -> None:
        """Wait until the page has taken every message, or is gone. A game that waits runs as fast as its page can follow."""
        empty = asyncio.ensure_future(self._outbox.empty.wait())
        await asyncio.wait({empty, self._sender}, return_when=asyncio.FIRST_COMPLETED)
        empty.cancel()

    def send(self, message: Mapping[str, Any] | bytes, key: str | None = None) -> None:
        """Send an object as JSON, or bytes. key: replaces a message of this key that still waits, e.g. an older picture."""
        text = message if isinstance(message, bytes) else json.dumps(message, allow_nan=False)
        if self._end is None and not self._outbox.put(text, key):
            self.end(1013, "the page reads too slowly")

    def end(self, code: int = 1000, reason: str = "") -> None:
        """Close the websocket; `receive` then returns None. code: of RFC 6455, section 7.4, which allows 123 bytes of reason."""
        if self._end is None:
            self._end = (code, reason.encode()[:123].decode(errors="ignore"))
            self._sender.cancel()

    def fail(self, error: Exception) -> None:
        """Close the websocket because of an error of ours, which the log shows."""
        log.error("a page was disconnected because of an error", exc_info=error)
        self.end(1011, "an error in worldlab; the terminal shows it")

    async def receive(self) -> dict[str, Any] | None:
        """Return the next message, a JSON object; None when the websocket is closed, by the page or for breaking a limit."""
        incoming = asyncio.ensure_future(self._websocket.receive())
        try:
            await asyncio.wait({incoming, self._sender}, return_when=asyncio.FIRST_COMPLETED)
            if self._end is not None or not incoming.done():
                return None
            return self._read(incoming.result())
        finally:
            incoming.cancel()

    async def close(self) -> None:
        """Close the websocket, if `connect` returned before the page did. The server calls this."""
        self._sender.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await self._sender
        code, reason = self._end or (1000, "")
        with suppress(Exception):  # the page may be gone, in any state
            async with asyncio.timeout(1):
                await self._websocket.close(code, reason)

    def _read(self, event: Mapping[str, Any]) -> dict[str, Any] | None:
        if event["type"] == "websocket.disconnect":
            self.end()
            return None
        if not self._rate.allows(time.monotonic()):
            return self.end(1008, "too many messages")
        text = event.get("text")
        try:
            message = json.loads(text, parse_constant=_refuse_constant) if text is not None else None
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            return self.end(1007, "a message must be a JSON object")
        return message

    async def _send_all(self) -> None:
        """Send what waits until the websocket is closed. `send` of the websocket waits for a slow page."""
        with suppress(Exception):  # the page is gone
            while True:
                message = await self._outbox.take()
                if isinstance(message, bytes):
                    await self._websocket.send_bytes(message)
                else:
                    await self._websocket.send_text(message)


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")
