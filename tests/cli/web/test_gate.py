"""Who is served: decided from a request's headers alone, so no server runs here."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from worldlab.cli.web.gate import Gate, is_loopback, serves_name

TOKEN = "s3cret"
HOME = "127.0.0.1:8000"


def scope(kind: str = "http", path: str = "/play.js", query: str = "", method: str = "GET", **headers: str) -> dict:
    named = {"host": HOME, "cookie": f"worldlab-8000={TOKEN}", **headers}
    encoded = [(key.encode(), value.encode()) for key, value in named.items() if value]
    return {"type": kind, "path": path, "query_string": query.encode(), "method": method, "headers": encoded}


def gate(host: str = "127.0.0.1") -> Gate:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"inside"})

    return Gate(app, token=TOKEN, cookie="worldlab-8000", host=host)


def refused(**changes: Any) -> int:
    """The status of a refusal; 0 where the request is served."""
    found = gate().refusal(scope(**changes))
    return found.status if found else 0


def reply_to(asked: dict, door: Gate | None = None) -> tuple[dict[str, str], list[dict]]:
    sent: list[dict] = []

    async def send(message: dict) -> None:
        sent.append(message)

    asyncio.run((door or gate())(asked, None, send))
    return {key.decode(): value.decode() for key, value in sent[0].get("headers", [])}, sent


@pytest.mark.parametrize("header", [HOME, "localhost:8000", "LOCALHOST", "[::1]:8000", "127.0.0.1:9001"])
def test_names_of_this_machine_are_served(header):
    assert refused(host=header, origin=f"http://{header}") == 0


@pytest.mark.parametrize(
    "header", ["", "evil.example:8000", "127.0.0.1.evil.example", "8.8.8.8:8000", "[::2]:1", "localhost."]
)
def test_other_hosts_are_refused(header):
    assert refused(host=header) == 421


def test_two_host_headers_are_refused():
    twice = scope()
    twice["headers"].append((b"Host", b"evil.example"))
    refusal = gate().refusal(twice)
    assert refusal and refusal.status == 421


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:9999", "http://localhost:8000", "file://"]
)
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_foreign_origins_are_refused(origin, kind):
    assert refused(kind=kind, origin=origin) == 403


def test_a_websocket_needs_an_origin_and_a_file_none():
    assert refused(kind="websocket") == 403
    assert refused(kind="websocket", origin=f"http://{HOME}") == 0
    assert refused() == 0 and refused(origin=f"https://{HOME}") == 0


@pytest.mark.parametrize(
    "cookie",
    ["", "worldlab-8000=", "worldlab-8000=guess", f"worldlab-9000={TOKEN}", f"x=worldlab-8000={TOKEN}", "\xff=\xff"],
)
def test_without_the_token_everything_is_refused(cookie):
    assert refused(cookie=cookie) == 403
    assert refused(cookie=cookie, path="/", query="token=guess") == 403
    assert refused(cookie=cookie, kind="websocket", origin=f"http://{HOME}") == 403


def test_cookies_of_other_servers_do_not_hide_ours():
    assert refused(cookie=f'odd={{"a": [1, "b"]}}; worldlab-8000={TOKEN}; z') == 0


def test_the_token_counts_in_the_address_of_the_page_only():
    assert refused(cookie="", path="/", query=f"token={TOKEN}") == 0
    assert refused(cookie="", path="/play.js", query=f"token={TOKEN}") == 403
    assert refused(cookie="", kind="websocket", path="/live", origin=f"http://{HOME}", query=f"token={TOKEN}") == 403


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_the_server_is_only_read(method):
    assert refused(method=method) == 405


def test_the_address_is_exchanged_for_a_cookie_that_scripts_cannot_read():
    headers, sent = reply_to(scope(path="/", query=f"token={TOKEN}", cookie=""))
    assert sent[0]["status"] == 303 and headers["location"] == "/"
    assert headers["set-cookie"] == f"worldlab-8000={TOKEN}; Path=/; HttpOnly; SameSite=Strict"


def test_a_browser_that_is_started_opens_the_page_once_and_gets_the_cookie():
    """Its address is an argument of a process, which others of the machine can read."""
    door = gate()
    once = door.single_use_token()
    asked = scope(path="/", query=f"token={once}", cookie="")
    headers, sent = reply_to(asked, door)
    assert sent[0]["status"] == 303 and headers["set-cookie"].startswith(f"worldlab-8000={TOKEN};")
    assert reply_to(asked, door)[1][0]["status"] == 403
    assert reply_to(scope(cookie=f"worldlab-8000={once}"), door)[1][0]["status"] == 403


@pytest.mark.parametrize("changes", [{}, {"host": "evil.example"}, {"cookie": ""}])
def test_every_reply_restricts_the_page(changes):
    headers, sent = reply_to(scope(**changes))
    assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
    assert headers["x-frame-options"] == "DENY" and headers["referrer-policy"] == "no-referrer"
    assert (sent[1]["body"] == b"inside") == (not changes)


def test_a_refused_websocket_is_closed_before_it_opens():
    _, sent = reply_to(scope(kind="websocket", path="/live", origin="http://evil.example"))
    assert [message["type"] for message in sent] == ["websocket.close"]


def test_which_hosts_are_loopback():
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.8.8.8", "::1")))
    assert not any(map(is_loopback, ("", "0.0.0.0", "::", "192.168.0.2", "localhost.evil.example")))


def test_a_server_for_other_machines_knows_addresses_and_its_own_name():
    assert serves_name("192.168.0.2:8000", "0.0.0.0") and serves_name("[fe80::1]:8000", "::")
    assert serves_name("lab.example:8000", "lab.example") and serves_name("localhost:8000", "lab.example")
    assert not serves_name("evil.example:8000", "0.0.0.0") and not serves_name("", "0.0.0.0")
