"""Runs a site: binds the address, prints what it means, opens the browser, and ends with Ctrl-C."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import secrets
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from worldlab.cli.web.channel import MESSAGE_BYTES, Channel
from worldlab.cli.web.gate import Gate, is_loopback
from worldlab.cli.web.site import MEDIA_TYPES, Site
from worldlab.errors import ConfigError, one_line

if TYPE_CHECKING:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.websockets import WebSocket

PACKAGES = ("starlette", "uvicorn", "websockets")
"""What the extra `play` installs."""
LOOPBACK = "127.0.0.1"
CLOSING = 3
"""Seconds that open connections have to end after Ctrl-C."""
PING = 20.0
"""Seconds between two pings of a websocket, and for the reply; a page that reads nothing is closed after both."""


def require_packages(command: str) -> None:
    """Check that the packages of the extra are installed. Raises: ConfigError with the command that installs them."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"worldlab {command} needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed",
            cause="the web server is an extra of worldlab",
            fix='pip install "worldlab[play]"',
        )


def serve(site: Site, *, host: str, port: int, open_browser: bool, announce: Callable[[str], None]) -> None:
    """Serve a site until Ctrl-C. port: 0 takes a free one. announce: called with the address once it is bound.

    Raises: ConfigError if the address cannot be bound.
    """
    bound = bind(host, port)
    token = secrets.token_urlsafe(24)
    if not is_loopback(host):
        print(exposure_warning(host, bound.getsockname()[1]), file=sys.stderr)
    gate = application(site, token, host, bound.getsockname()[1])
    server = _uvicorn_server(gate)
    announce(address_of(bound, host, token))
    if open_browser:
        address = address_of(bound, host, gate.single_use_token())
        threading.Thread(target=_open, args=(address,), daemon=True).start()
    with suppress(KeyboardInterrupt):  # Ctrl-C is how a server is stopped
        server.run(sockets=[bound])


@contextmanager
def served(site: Site, host: str = LOOPBACK) -> Iterator[str]:
    """Serve a site from a thread on a free port, as the tests and the benchmark do. Yields the address."""
    bound = bind(host, 0)
    token = secrets.token_urlsafe(24)
    server = _uvicorn_server(application(site, token, host, bound.getsockname()[1]))
    thread = threading.Thread(target=partial(server.run, sockets=[bound]), daemon=True)
    thread.start()
    try:
        yield address_of(bound, host, token)
    finally:
        server.should_exit = True
        thread.join(2 * CLOSING)


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raises: ConfigError if the port is taken, or the host is not an address of this machine."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        bound = socket.create_server((host, port), family=family, backlog=256)
    except (OSError, OverflowError) as error:
        raise ConfigError(
            one_line(f"cannot listen on {one_line(host, 40)} port {port}"),
            cause=one_line(error),
            fix="leave --host and --port out, or choose another port: 0 takes a free one",
        ) from error
    bound.setblocking(False)
    return bound


def address_of(bound: socket.socket, host: str, token: str) -> str:
    """Return the address to open: with the token, and with loopback for a host that stands for every address."""
    name = LOOPBACK if host in ("", "0.0.0.0", "::") else host
    return f"http://{f'[{name}]' if ':' in name else name}:{bound.getsockname()[1]}/?token={token}"


def exposure_warning(host: str, port: int) -> str:
    """Return what it means to listen on an address that other machines reach."""
    return (
        f"warning: --host {one_line(host, 40)} lets other machines connect to port {port}.\n"
        "cause: whoever has the address below can do all that you can do in the page, and nothing is encrypted on the way,"
        " the token included.\n"
        f"fix: leave --host out and use a tunnel: ssh -L {port}:{LOOPBACK}:{port} THIS-MACHINE, then open the address there"
    )


def application(site: Site, token: str, host: str, port: int) -> Gate:
    """Return the ASGI application of a site behind its gate."""
    from starlette.applications import Starlette
    from starlette.routing import Route, WebSocketRoute

    contents = {path: (file.read_bytes(), MEDIA_TYPES[file.suffix]) for path, file in site.files.items()}
    routes: list[Any] = [Route(path, partial(_send_file, *content)) for path, content in contents.items()]
    routes += [Route(path, partial(_send_answer, compute)) for path, compute in site.answers.items()]
    routes.append(WebSocketRoute("/live", partial(_connect, site, set())))
    app: Starlette = Starlette(routes=routes)
    # Cookies do not know ports, so the name of the cookie does.
    return Gate(app, token=token, cookie=f"worldlab-{port}", host=host)


async def _send_file(content: bytes, media_type: str, request: Request) -> Response:
    from starlette.responses import Response

    return Response(content, media_type=media_type)


async def _send_answer(compute: Callable[..., Any], request: Request) -> Response:
    from starlette.responses import Response

    answer = await asyncio.to_thread(compute, dict(request.query_params))
    return Response("not there\n", 404) if answer is None else Response(answer.content, media_type=answer.media_type)


async def _connect(site: Site, taken: set[WebSocket], websocket: WebSocket) -> None:
    if len(taken) >= site.channels:
        await websocket.close(1013, "too many pages are open")  # before it is accepted: HTTP 403
        return
    taken.add(websocket)
    try:
        await websocket.accept()
        channel = Channel(websocket)
        try:
            await site.connect(channel)
        except Exception as error:  # one page's failure ends its websocket, not the server
            channel.fail(error)
        finally:
            await channel.close()
    finally:
        taken.discard(websocket)


def _uvicorn_server(app: Gate) -> uvicorn.Server:
    import uvicorn

    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # a page that goes away is no news
    return uvicorn.Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="websockets-sansio",
            ws_max_size=MESSAGE_BYTES,
            ws_ping_interval=PING,
            ws_ping_timeout=PING,
            ws_per_message_deflate=False,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=CLOSING,
        )
    )


def _open(address: str) -> None:
    """Open the browser, unless it would take over the terminal."""
    with suppress(webbrowser.Error):
        browser = webbrowser.get()
        in_terminal = isinstance(browser, webbrowser.GenericBrowser) and not isinstance(
            browser, webbrowser.BackgroundBrowser
        )
        if not in_terminal:
            browser.open(address)
