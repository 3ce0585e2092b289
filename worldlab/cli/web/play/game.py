"""One game for one page: steps a session at the person's pace and carries out what the page sends."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from worldlab.cli.web.channel import Channel
from worldlab.cli.web.play import commands as c
from worldlab.cli.web.play import frames
from worldlab.cli.web.play.film import film_bytes
from worldlab.cli.web.site import Answer, Site, page_files
from worldlab.errors import ConfigError, WorldlabError
from worldlab.evaluation.playing.futures import Futures
from worldlab.evaluation.playing.session import Moment, PlaySession

ResultT = TypeVar("ResultT")

PAGE = ("index.html", "play.css", "play.js", "keys.js", "steering.js", "charts.js", "screens.js", "fan.js", "codes.js")
"""The files of the page, in assets/play/."""
GAMES = 8
"""Pages that can be open at one time: each has an environment of its own."""
DRAWING_WAIT = 0.1
"""Seconds that a step waits for its pictures. A slower decoder draws what it can, and the dream goes on."""
SPEED = 15.0
"""Steps a second at the start."""


@dataclass
class PageGame:
    """The game of one page.

    The session lives in a thread of its own, so that the event loop serves others while a model computes; pictures are
    drawn in a second thread, so that a slow decoder does not hold up the dream.
    """

    channel: Channel
    names: list[dict[str, Any]]
    speed: float = SPEED
    key: str = field(default_factory=lambda: secrets.token_urlsafe(12))
    session: PlaySession = field(init=False)
    _playing: asyncio.Event = field(default_factory=asyncio.Event)
    _steps: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "worldlab-play-step"))
    _draws: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "worldlab-play-draw"))
    _artist: asyncio.Future[None] | None = None
    _wanted: Moment | None = None
    _draws_quickly: bool = True
    _futures: Futures | None = None

    async def run(self, make: Callable[[], PlaySession]) -> None:
        """Play until the page is gone."""
        try:
            self.session = await self._compute(make)
        except WorldlabError as error:
            self.channel.end(1011, error.message)
            return
        ticking = asyncio.ensure_future(self._tick())
        try:
            self.channel.send(frames.hello(self.session, self.names, self.key))
            await self._show(self.session.now)
            while (message := await self.channel.receive()) is not None:
                await self._reported(self._carry_out, message)
        finally:
            for task in (ticking, self._artist):
                if task is not None:
                    task.cancel()
                    with suppress(asyncio.CancelledError):
                        await task
            self._draws.shutdown(wait=False, cancel_futures=True)
            await self._compute(self.session.close)
            self._steps.shutdown(wait=False)

    def film(self) -> bytes:
        """Return the timeline as an animated WebP."""
        return self._draws.submit(film_bytes, self.session).result()

    # ---- pace ----

    async def _tick(self) -> None:
        """Take a step whenever one is due while the game is on. Nothing runs while it is paused.

        A late step is made up for by at most one earlier one, so that the pace is even.
        """
        loop = asyncio.get_running_loop()
        due = 0.0
        while True:
            if not self._playing.is_set():
                await self._playing.wait()
                due = loop.time()
            await self._reported(self._step)
            await self.channel.drained()
            due = max(due, loop.time() - 1 / self.speed) + 1 / self.speed
            await asyncio.sleep(max(0.0, due - loop.time()))

    async def _step(self) -> None:
        moment = await self._compute(self.session.step)
        if moment.ended:
            self._playing.clear()
        await self._show(moment)

    async def _show(self, moment: Moment) -> None:
        """Send a moment: with its pictures if they are drawn soon enough, else without; then they follow when they are."""
        self._wanted = moment
        if self._artist is None or self._artist.done():
            self._artist = asyncio.ensure_future(self._reported(self._draw_wanted))
        done, _ = await asyncio.wait({self._artist}, timeout=DRAWING_WAIT if self._draws_quickly else 0)
        if not done:
            self._draws_quickly = False
            undrawn = partial(frames.frame, self.session, moment, None, self._state())
            self.channel.send(await self._compute(undrawn))

    async def _draw_wanted(self) -> None:
        """Draw and send the moment that is wanted, until there is none. A slow decoder skips those in between."""
        loop = asyncio.get_running_loop()
        while (moment := self._wanted) is not None:
            self._wanted = None
            begin = loop.time()
            self.channel.send(await loop.run_in_executor(self._draws, self._drawn, moment))
            self._draws_quickly = loop.time() - begin < DRAWING_WAIT

    def _drawn(self, moment: Moment) -> bytes:
        return frames.frame(self.session, moment, self.session.draw(moment), self._state())

    def _state(self) -> dict[str, Any]:
        session = self.session
        return {"playing": self._playing.is_set(), "driver": session.driver, "plan": len(session.plan)}

    async def _compute(self, work: Callable[[], ResultT]) -> ResultT:
        return await asyncio.get_running_loop().run_in_executor(self._steps, work)

    async def _reported(self, work: Callable[..., Any], *arguments: Any) -> None:
        """Carry out work; an error that a person can act on pauses the game and is shown in the page, any other ends it."""
        try:
            await work(*arguments)
        except WorldlabError as error:
            self._playing.clear()
            self.channel.send({"type": "error", "text": str(error)})
        except Exception as error:
            self.channel.fail(error)

    # ---- commands ----

    async def _carry_out(self, message: dict[str, Any]) -> None:
        command = c.read_command(message)
        if getattr(command, "model", 0) >= len(self.session.models):
            raise ConfigError("there is no second run in this game", fix="worldlab play RUN_A RUN_B")
        match command:
            case c.Simple():
                await self._carry_out_simple(command.do)
            case c.Act():
                self.session.controls.encode(command.action)
                self.session.pressed = command.action
            case c.Change():
                await self._change(command)
            case c.Look():
                self._playing.clear()
                await self._show(self.session.at(command.at))
            case c.DreamFutures():
                await self._branch(command)
            case c.ShowCodes():
                work = partial(frames.codes, self.session, command.at, command.model, command.codes)
                self.channel.send(await asyncio.get_running_loop().run_in_executor(self._draws, work))
            case c.DreamOn():
                await self._compute(lambda: self.session.dream_on(command.model, command.codes))
                await self._show(self.session.now)
            case c.Follow():
                await self._follow(command.future)

    async def _carry_out_simple(self, do: str) -> None:
        if do == "play":
            if not self.session.now.ended:
                self._playing.set()
        elif do == "pause":
            self._playing.clear()
            await self._show(self.session.now)
        elif do == "step":
            self._playing.clear()
            await self._step()
        elif do == "reset":
            self._futures = None
            await self._show(await self._compute(self.session.reset))
        else:
            await self._compute(self.session.begin_dream)
            await self._show(self.session.now)

    async def _change(self, change: c.Change) -> None:
        self.speed = change.speed or self.speed
        if change.driver is not None:
            await self._compute(partial(self.session.drive, change.driver))
        before = self.session.noise
        noise = replace(
            before,
            kind=change.noise or before.kind,
            seed=before.seed if change.seed is None else change.seed,
            temperature=change.temperature or before.temperature,
        )
        if noise != before:
            await self._compute(partial(self.session.set_noise, noise))

    async def _branch(self, branch: c.DreamFutures) -> None:
        options = branch.model_dump(exclude={"do", "at"})
        futures = await self._compute(partial(self.session.branch, branch.at, **options))
        self._futures = futures
        work = partial(frames.fan, self.session, futures, branch.at, branch.model)
        self.channel.send(await asyncio.get_running_loop().run_in_executor(self._draws, work))

    async def _follow(self, future: int) -> None:
        if self._futures is not None and future < len(self._futures.actions):
            await self._compute(partial(self.session.drive, "plan", self._futures.actions[future]))
            self._playing.set()


def play_site(make: Callable[[], PlaySession], names: list[dict[str, Any]]) -> Site:
    """Return the site of `worldlab play`. make: a new session. names: what the page says of each run."""
    games: dict[str, PageGame] = {}

    async def connect(channel: Channel) -> None:
        game = PageGame(channel, names)
        games[game.key] = game
        try:
            await game.run(make)
        finally:
            del games[game.key]

    def film(query: Any) -> Answer | None:
        game = games.get(query.get("game", ""))
        return None if game is None else Answer(game.film(), "image/webp")

    return Site(page_files("play", PAGE), connect, {"/film.webp": film}, channels=GAMES)
