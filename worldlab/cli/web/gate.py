"""Decides who is served: every request and websocket must name this server, come from its own page and know the token.

A web page that somebody opens elsewhere can send requests to a server on the same machine. The Host header tells apart
a name that an attacker points at this machine (DNS rebinding), the Origin header a page of another server, and the token
another user of the machine. The token is in the printed address; the page's first request exchanges it for a cookie.
"""

from __future__ import annotations

import ipaddress
import secrets
import socket
from typing import Any, NamedTuple
from urllib.parse import parse_qs

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}
"""Headers of every reply: the page runs its own files only, is in no frame, and leaves nothing behind."""


class Refusal(NamedTuple):
    """The status and the text of a refused request."""

    status: int
    text: str


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches a host: "localhost" or an address as 127.0.0.1 and ::1."""
    return host.lower() == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def serves_name(header: str, host: str) -> bool:
    """Return whether a Host header names a server that listens on `host`, whatever the port.

    On loopback only loopback names do. Elsewhere an address does, too, because no attacker points one somewhere else,
    and so do `host` itself and this machine's name. The port may be that of a tunnel (ssh -L).
    """
    name = _without_port(header).lower()
    if is_loopback(host):
        return is_loopback(name)
    return is_loopback(name) or _is_address(name) or name in {host.lower(), socket.gethostname().lower()}


class Gate:
    """Wraps an ASGI application and passes on only what may be served.

    token: what the address must contain. cookie: the name under which a browser keeps it. host: where the server listens.
    """

    def __init__(self, app: Any, *, token: str, cookie: str, host: str):
        self._app, self._token, self._cookie, self._host = app, token, cookie, host
        self._single_use: set[str] = set()

    def single_use_token(self) -> str:
        """Return a token that opens the page once. Others may see the arguments of a browser that is started with it."""
        token = secrets.token_urlsafe(24)
        self._single_use.add(token)
        return token

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Serve one request or websocket. The arguments are those of ASGI."""
        refusal = self.refusal(scope)
        if scope["type"] == "websocket":
            if refusal:
                await send({"type": "websocket.close", "code": 1008, "reason": refusal.text})
            else:
                await self._app(scope, receive, send)
        elif refusal:
            await _reply(send, refusal.status, refusal.text)
        elif scope["path"] == "/" and self._opens(_query_token(scope)):
            self._single_use.discard(_query_token(scope))
            cookie = f"{self._cookie}={self._token}; Path=/; HttpOnly; SameSite=Strict"
            await _reply(send, 303, "", {"Location": "/", "Set-Cookie": cookie})
        else:
            await self._app(scope, receive, _with_headers(send))

    def refusal(self, scope: dict[str, Any]) -> Refusal | None:
        """Return why a request is refused; None if it may be served."""
        hosts, origins = _header(scope, b"host"), _header(scope, b"origin")
        if len(hosts) != 1 or not serves_name(hosts[0], self._host):
            return Refusal(421, "this server has another name: open the address that the command printed")
        allowed = {f"http://{hosts[0]}", f"https://{hosts[0]}"}
        if len(origins) > 1 or not set(origins) <= allowed or (scope["type"] == "websocket" and not origins):
            return Refusal(403, "this request comes from another page")
        if scope["type"] == "http" and scope["method"] not in ("GET", "HEAD"):
            return Refusal(405, "this server is only read")
        in_address = _query_token(scope) if scope["path"] == "/" else ""
        if not self._opens(in_address) and not self._knows(self._cookie_token(scope)):
            return Refusal(403, "the token is missing or old: open the address that the command printed")
        return None

    def _opens(self, token: str) -> bool:
        """Return whether a token in the address opens the page."""
        return self._knows(token) or token in self._single_use

    def _knows(self, token: str) -> bool:
        return secrets.compare_digest(token.encode(), self._token.encode())

    def _cookie_token(self, scope: dict[str, Any]) -> str:
        """Return the value of our cookie, or "". Other servers of this machine may have set cookies of any form."""
        pairs = (pair.strip().partition("=") for line in _header(scope, b"cookie") for pair in line.split(";"))
        return next((value for name, _, value in pairs if name == self._cookie), "")


def _header(scope: dict[str, Any], name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key.lower() == name]


def _query_token(scope: dict[str, Any]) -> str:
    return parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]


def _without_port(header: str) -> str:
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0]


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _encoded(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(key.lower().encode(), value.encode()) for key, value in headers.items()]


def _with_headers(send: Any) -> Any:
    """Return a `send` that adds our headers to the reply."""

    async def add(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", []), *_encoded(HEADERS)]}
        await send(message)

    return add


async def _reply(send: Any, status: int, text: str, headers: dict[str, str] | None = None) -> None:
    body = f"{text}\n".encode() if text else b""
    own = {"Content-Type": "text/plain; charset=utf-8", "Content-Length": str(len(body)), **(headers or {}), **HEADERS}
    await send({"type": "http.response.start", "status": status, "headers": _encoded(own)})
    await send({"type": "http.response.body", "body": body})
