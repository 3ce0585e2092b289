"""Talks to a server of ours as a browser does, with the standard library and `websockets`."""

from __future__ import annotations

import http.client
from typing import Any
from urllib.parse import parse_qs, urlsplit

from websockets.sync.client import ClientConnection, connect


class Visitor:
    """One browser: it opened the printed address and keeps the cookie. `headers` replace those it would send."""

    def __init__(self, address: str):
        parts = urlsplit(address)
        self.host, self.port = parts.hostname or "", parts.port or 0
        self.netloc, self.token = parts.netloc, parse_qs(parts.query)["token"][0]
        self.cookie = f"worldlab-{self.port}={self.token}"

    def get(self, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes, http.client.HTTPResponse]:
        """Request a path exactly as it is written. Returns status, body and the reply."""
        line = http.client.HTTPConnection(self.host, self.port, timeout=10)
        sent = {"Host": self.netloc, "Cookie": self.cookie, **headers}
        line.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for key, value in sent.items():
            line.putheader(key, value)
        line.endheaders()
        reply = line.getresponse()
        body = reply.read()
        line.close()
        return reply.status, body, reply

    def websocket(self, origin: str | None = None, cookie: str | None = None, **options: Any) -> ClientConnection:
        """Open the websocket of the page."""
        return connect(
            f"ws://{self.netloc}/live",
            origin=f"http://{self.netloc}" if origin is None else origin,  # pyright: ignore[reportArgumentType]
            additional_headers={"Cookie": self.cookie if cookie is None else cookie},
            compression=None,
            max_size=None,
            open_timeout=20,
            proxy=None,
            **options,
        )
