"""Sends each open page what it lacks. A page says which run it shows, and when nobody looks at it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from worldlab.cli.web.channel import Channel
from worldlab.cli.web.site import MEDIA_TYPES, Answer, Site, page_files
from worldlab.cli.web.watch.runs import WatchedRun, WatchedRuns, points_of
from worldlab.runs.follow import Curve

INTERVAL = 2.0
"""Seconds between two looks at the files while a page is open."""
BEHIND = 0.05
"""Seconds between two looks while there is more to read."""
FILES = (
    "index.html",
    "watch.css",
    "watch.js",
    "overview.js",
    "details.js",
    "chart.js",
    "store.js",
    "elements.js",
    "text.js",
)
"""Files of the page in `assets/watch/`."""


@dataclass
class Cursor:
    """What a page has been sent. run: the number of the run it shows. sent: of each curve its version and length."""

    look: int = -1
    run: int | None = None
    run_look: int = -1
    sent: dict[str, tuple[int, int, int]] = field(default_factory=dict)

    def show(self, run: int | None) -> None:
        """Note that the page shows another run, or the list."""
        self.run, self.run_look = run, -1
        self.sent.clear()

    def messages(self, watched: WatchedRuns) -> list[dict[str, Any]]:
        """Return the messages that bring the page up to date."""
        found = [message for message in (self._rows(watched), self._shown(watched)) if message]
        self.look = watched.look
        return found

    def _rows(self, watched: WatchedRuns) -> dict[str, Any] | None:
        rows = [run.summary() for run in watched.runs.values() if run.version > self.look]
        gone = [number for number, look in watched.gone.items() if look > self.look]
        first = self.look < 0
        if not (rows or gone or first or watched.problem):
            return None
        about = {"folder": str(watched.root), "problem": watched.problem, "reading": watched.behind}
        return {"type": "runs", "rows": rows, "gone": gone, "first": first, "now": time.time(), **about}

    def _shown(self, watched: WatchedRuns) -> dict[str, Any] | None:
        run = watched.runs.get(-1 if self.run is None else self.run)
        if run is None or run.version <= self.run_look:
            return None
        self.run_look = watched.look
        tails = {"": run.metrics, "perf/": run.perf}
        known = {f"{kind}{name}": (tail, curve) for kind, tail in tails.items() for name, curve in tail.curves.items()}
        self.sent = {name: state for name, state in self.sent.items() if name in known}
        curves = {name: self._new_points(name, tail.version, curve) for name, (tail, curve) in known.items()}
        curves = {name: points for name, points in curves.items() if points}
        return {"type": "run", "id": run.number, **run.details(), "curves": curves, "names": sorted(known)}

    def _new_points(self, key: str, restarts: int, curve: Curve) -> dict[str, Any] | None:
        before = self.sent.get(key, (-1, -1, 0))
        self.sent[key] = (restarts, curve.version, len(curve.steps))
        if before[:2] != (restarts, curve.version):
            return points_of(curve)
        return points_of(curve, before[2]) if len(curve.steps) > before[2] else None


@final
class WatchPages:
    """All open pages of one folder. They share the looks at its files: a second page costs no second look."""

    def __init__(self, folder: Path):
        self.watched = WatchedRuns(folder)
        self._lock = asyncio.Lock()
        self._looked = float("-inf")
        self._cursors: list[Cursor] = []

    async def connect(self, channel: Channel) -> None:
        """Keep a page up to date until it is closed."""
        cursor, awake = Cursor(), asyncio.Event()
        awake.set()
        wake = asyncio.Event()
        self._cursors.append(cursor)
        listening = asyncio.ensure_future(self._listen(channel, cursor, awake, wake))
        try:
            while not listening.done():
                if awake.is_set() and not channel.waiting:
                    for message in await self._news(cursor):
                        channel.send(message)
                await _pause(listening, wake, awake, BEHIND if self.watched.behind else INTERVAL)
        finally:
            self._cursors.remove(cursor)
            listening.cancel()

    async def _news(self, cursor: Cursor) -> list[dict[str, Any]]:
        """Return what a page lacks. The work is done in a thread, for one page after the other."""
        async with self._lock:
            return await asyncio.to_thread(self._look, cursor)

    def _look(self, cursor: Cursor) -> list[dict[str, Any]]:
        """Read what changed, unless another page has had it read just now, and return what a page lacks of it."""
        now = time.monotonic()
        if now - self._looked >= (BEHIND if self.watched.behind else INTERVAL) / 2:
            self.watched.refresh(time.time(), [other.run for other in self._cursors if other.run is not None])
            self._looked = time.monotonic()
        return cursor.messages(self.watched)

    async def _listen(self, channel: Channel, cursor: Cursor, awake: asyncio.Event, wake: asyncio.Event) -> None:
        """Receive {"run": number or null} and {"hidden": true or false}; all else is left out."""
        while (message := await channel.receive()) is not None:
            if "run" in message:
                number = message["run"]
                cursor.show(number if type(number) is int else None)
            if "hidden" in message:
                awake.clear() if message["hidden"] is True else awake.set()
            wake.set()

    def picture(self, query: Mapping[str, str]) -> Answer | None:
        """Answer a request for a picture: {"run": number, "name": a name that the page was sent}."""
        run = self._run(query.get("run", ""))
        name = query.get("name", "")
        content = None if run is None else run.picture(name)
        return None if content is None else Answer(content, MEDIA_TYPES[name[name.rindex(".") :]])

    def _run(self, text: str) -> WatchedRun | None:
        known = text.isdecimal() and text.isascii() and len(text) < 10
        return self.watched.runs.get(int(text)) if known else None


async def _pause(listening: asyncio.Future[None], wake: asyncio.Event, awake: asyncio.Event, seconds: float) -> None:
    """Wait for the next look: some seconds, or, while nobody looks at the page, until it says otherwise."""
    woken = asyncio.ensure_future(wake.wait())
    try:
        timeout = seconds if awake.is_set() else None
        await asyncio.wait({woken, listening}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        woken.cancel()
        wake.clear()


def watch_site(folder: Path) -> Site:
    """Return the site that shows the runs of a folder."""
    pages = WatchPages(folder)
    return Site(page_files("watch", FILES), pages.connect, {"/picture": pages.picture})
