"""Describes what a server offers. Nothing else can be requested."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from worldlab.cli.web.channel import Channel

ASSETS = Path(__file__).parent / "assets"
MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".webp": "image/webp",
}
"""The media type of each kind of file that a site may hold."""
SHARED = ("theme.css", "socket.js", "icon.svg")
"""Files in `assets/` that every page uses."""


@dataclass(frozen=True)
class Answer:
    """The content of a reply, and its media type."""

    content: bytes
    media_type: str = MEDIA_TYPES[".json"]


@dataclass(frozen=True)
class Site:
    """The pieces of one command's server.

    files: the file behind each path, among them "/". They are read once, when the server starts, so no path of a request
    ever reaches the file system. connect: serves one websocket at "/live", and returns when the person or the site has
    had enough. answers: computes the reply to a path from the query, in a thread; None is "not there" (404).
    channels: websockets at one time; a further one is refused.
    """

    files: Mapping[str, Path]
    connect: Callable[[Channel], Awaitable[None]]
    answers: Mapping[str, Callable[[Mapping[str, str]], Answer | None]] = field(default_factory=dict)
    channels: int = 32


def page_files(folder: str, names: tuple[str, ...]) -> dict[str, Path]:
    """Return the files of a page: its own in `assets/FOLDER/`, of which "index.html" is "/", and the shared ones."""
    own = {f"/{name}": ASSETS / folder / name for name in names}
    own["/"] = own.pop("/index.html")
    return own | {f"/{name}": ASSETS / name for name in SHARED}
