"""A real server on loopback: what it serves, what it refuses, and that one person's trouble is nobody else's."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from worldlab.cli.web import server as server_module
from worldlab.cli.web.channel import BURST, MESSAGE_BYTES, QUEUE, RATE, Channel, RateLimit
from worldlab.cli.web.server import PACKAGES, bind, exposure_warning, require_packages, serve, served
from worldlab.cli.web.site import Answer, Site
from worldlab.errors import ConfigError

for name in PACKAGES:
    pytest.importorskip(name, reason='pip install "worldlab[play]"')

from web_kit import Visitor  # noqa: E402
from websockets.exceptions import ConnectionClosed, InvalidHandshake  # noqa: E402


async def echo(channel: Channel) -> None:
    """Send back what comes; {"flood": n, "key": k} sends n large messages."""
    while (message := await channel.receive()) is not None:
        for _ in range(message.get("flood", 0)):
            channel.send(bytes(1_000_000), message.get("key"))
        if message.get("fail"):
            raise RuntimeError("a failure of the site")
        channel.send({"echo": message, "waiting": channel.waiting})


def site(folder) -> Site:
    page = folder / "index.html"
    page.write_text("<!doctype html><title>page</title>")
    (folder / "secret.txt").write_text("secret")
    answers = {"/data": lambda query: Answer(json.dumps(query).encode()) if query.get("run") == "a" else None}
    return Site({"/": page}, echo, answers, channels=24)


@pytest.fixture(scope="module")
def visitor(tmp_path_factory):
    with served(site(tmp_path_factory.mktemp("site"))) as address:
        yield Visitor(address)


def replies(websocket, message: dict | None = None) -> dict:
    websocket.send(json.dumps(message or {"n": 1}))
    return json.loads(websocket.recv(10))


def test_the_printed_address_leads_to_the_page(visitor):
    status, _, reply = visitor.get(f"/?token={visitor.token}", Cookie="")
    assert status == 303 and reply.headers["Set-Cookie"].startswith(visitor.cookie)
    status, body, reply = visitor.get("/")
    assert status == 200 and b"<title>page" in body and reply.headers["Content-Type"].startswith("text/html")
    assert "default-src 'none'" in reply.headers["Content-Security-Policy"]


def test_answers_are_computed_from_the_query(visitor):
    status, body, reply = visitor.get("/data?run=a")
    assert (status, body) == (200, b'{"run": "a"}') and reply.headers["Content-Type"] == "application/json"
    assert visitor.get("/data?run=../a")[0] == 404


@pytest.mark.parametrize(
    "path",
    [
        "/secret.txt",
        "/../secret.txt",
        "/..%2fsecret.txt",
        "/%2e%2e/secret.txt",
        "//etc/passwd",
        "/./../etc/passwd",
        "/\\..\\x",
    ],
)
def test_no_path_reaches_a_file_that_is_not_listed(visitor, path):
    status, body, _ = visitor.get(path)
    assert status == 404 and b"secret" not in body


def test_strangers_get_nothing(visitor):
    assert visitor.get("/", Cookie="")[0] == 403
    assert visitor.get("/", Host="evil.example")[0] == 421
    assert visitor.get("/", Origin="http://evil.example")[0] == 403
    assert visitor.get("/", method="POST")[0] == 405
    for attempt in ({"origin": "http://evil.example"}, {"cookie": ""}, {"cookie": f"worldlab-{visitor.port}=guess"}):
        with pytest.raises(InvalidHandshake):
            visitor.websocket(**attempt)


def test_messages_come_back(visitor):
    with visitor.websocket() as one:
        assert replies(one)["echo"] == {"n": 1}


@pytest.mark.parametrize(
    "text, code",
    [
        ("x" * (MESSAGE_BYTES + 1), 1009),
        ("[" * 60_000, 1007),
        ("9" * 60_000, 1007),
        ("[1]", 1007),
        ('{"a": NaN}', 1007),
        (b"{}", 1007),
    ],
)
def test_a_wrong_message_ends_its_own_websocket_only(visitor, text, code):
    with visitor.websocket() as other, visitor.websocket() as one:
        one.send(text)
        with pytest.raises(ConnectionClosed) as caught:
            one.recv(10)
        assert caught.value.rcvd is not None and caught.value.rcvd.code == code
        assert replies(other)["echo"] == {"n": 1}


def test_too_many_messages_end_the_websocket(visitor):
    with visitor.websocket() as one, pytest.raises(ConnectionClosed) as caught:
        for _ in range(int(BURST) + 200):
            one.send("{}")
        while True:
            one.recv(10)
    assert caught.value.rcvd is not None and caught.value.rcvd.code == 1008


def test_the_rate_recovers_with_time():
    limit = RateLimit(last=0.0)
    assert sum(limit.allows(0.0) for _ in range(1000)) == BURST
    assert sum(limit.allows(1.0) for _ in range(1000)) == RATE


def test_an_error_of_the_site_ends_one_websocket_only(visitor):
    with visitor.websocket() as other, visitor.websocket() as one:
        one.send('{"fail": 1}')
        with pytest.raises(ConnectionClosed) as caught:
            one.recv(10)
        assert caught.value.rcvd is not None and caught.value.rcvd.code == 1011
        assert replies(other)["echo"] == {"n": 1}


def test_200_connections_at_once_are_held_or_refused(visitor):
    """The one that was there first still gets its replies, and afterwards there is room again."""
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(visitor.websocket())

        def attempt(_: int) -> bool:
            try:
                stack.enter_context(visitor.websocket())
            except (InvalidHandshake, OSError):
                return False
            return True

        with ThreadPoolExecutor(50) as pool:
            opened = sum(pool.map(attempt, range(200)))
        assert opened == 23
        assert replies(first)["echo"] == {"n": 1}
    until = time.monotonic() + 10
    while time.monotonic() < until:
        with contextlib.suppress(InvalidHandshake), visitor.websocket() as again:
            assert replies(again)["echo"] == {"n": 1}
            return
    pytest.fail("no websocket opens after the others were closed")


def test_a_page_that_reads_nothing_holds_up_nobody_and_is_closed(visitor):
    """Of messages with a key only the newest waits; those without a key are bounded."""
    stalled = socket.create_connection((visitor.host, visitor.port), timeout=10)
    lines = [
        "GET /live HTTP/1.1", f"Host: {visitor.netloc}", f"Origin: http://{visitor.netloc}", f"Cookie: {visitor.cookie}",
        "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
    ]  # fmt: skip
    stalled.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
    assert stalled.recv(200).startswith(b"HTTP/1.1 101")

    def say(message: dict) -> None:
        payload = json.dumps(message).encode()
        stalled.sendall(bytes([0x81, 0x80 | len(payload), 0, 0, 0, 0]) + payload)  # masked with zeros

    say({"flood": 200, "key": "picture"})
    say({"flood": 200, "key": "picture"})
    with visitor.websocket() as other:
        before = time.monotonic()
        assert replies(other)["echo"] == {"n": 1}
        assert time.monotonic() - before < 2
        say({"flood": QUEUE + 40})
        assert replies(other)["echo"] == {"n": 1}
    received, end = 0, b""
    while b"the page reads too slowly" not in end and (data := stalled.recv(1 << 20)):
        received, end = received + len(data), (end + data)[-1000:]
    assert received < 50_000_000  # of 504 messages of 1 MB each
    stalled.close()


def test_a_channel_keeps_the_newest_of_a_key_and_closes_when_too_much_waits():
    class Stuck:
        closed = None

        async def send_bytes(self, data: bytes) -> None:
            await asyncio.sleep(3600)

        async def close(self, code: int, reason: str) -> None:
            self.closed = code

        async def receive(self) -> dict:
            await asyncio.sleep(3600)
            return {}

    async def fill() -> tuple[int, int, object, int | None]:
        stuck = Stuck()
        channel = Channel(stuck)  # pyright: ignore[reportArgumentType]
        channel.send(b"first")
        await asyncio.sleep(0)  # it is on its way, and stuck
        for _ in range(100):
            channel.send(b"picture", "picture")
        few = channel.waiting
        for _ in range(QUEUE + 1):
            channel.send(b"event")
        many = channel.waiting
        got = await channel.receive()
        await channel.close()
        return few, many, got, stuck.closed

    assert asyncio.run(fill()) == (1, QUEUE, None, 1013)


def test_ctrl_c_ends_the_server(tmp_path):
    """`serve` returns, the websocket of the page is closed, and the port is free again."""
    found: dict[str, str] = {}

    def visit(address: str) -> None:
        with contextlib.suppress(ConnectionClosed), Visitor(address).websocket() as one:
            found["reply"] = json.dumps(replies(one))
            os.kill(os.getpid(), signal.SIGINT)
            one.recv(10)
        found["closed"] = "yes"

    def announce(address: str) -> None:
        found["address"] = address
        threading.Thread(target=visit, args=(address,), daemon=True).start()

    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals reach the main thread only")
    serve(site(tmp_path), host="127.0.0.1", port=0, open_browser=False, announce=announce)
    assert "reply" in found
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", Visitor(found["address"]).port), timeout=1)


def test_the_browser_is_opened_unless_told_otherwise(tmp_path, monkeypatch):
    opened: list[str] = []
    monkeypatch.setattr(server_module, "_open", opened.append)

    class Quick:
        def run(self, sockets: list[socket.socket]) -> None:
            time.sleep(0.05)
            sockets[0].close()

    monkeypatch.setattr(server_module, "_uvicorn_server", lambda app: Quick())
    shown: list[str] = []
    for wanted in (False, True):
        serve(site(tmp_path), host="127.0.0.1", port=0, open_browser=wanted, announce=shown.append)
        assert len(opened) == wanted
    assert opened[0].partition("?token=")[0] == shown[-1].partition("?token=")[0] and opened[0] != shown[-1]


def test_a_port_in_use_is_an_error_with_a_fix():
    with bind("127.0.0.1", 0) as taken, pytest.raises(ConfigError) as caught:
        bind("127.0.0.1", taken.getsockname()[1])
    assert "cannot listen on 127.0.0.1 port" in str(caught.value) and "fix:" in str(caught.value)
    with pytest.raises(ConfigError):
        bind("no.such.host.invalid", 0)


def test_other_hosts_get_a_warning_that_says_what_it_means(tmp_path, monkeypatch, capsys):
    class Quick:
        def run(self, sockets: list[socket.socket]) -> None:
            sockets[0].close()

    monkeypatch.setattr(server_module, "_uvicorn_server", lambda app: Quick())
    serve(site(tmp_path), host="0.0.0.0", port=0, open_browser=False, announce=lambda _: None)
    printed = capsys.readouterr().err
    assert "--host 0.0.0.0 lets other machines connect" in printed and "fix: leave --host out" in printed
    assert "ssh -L 8000:127.0.0.1:8000" in exposure_warning("0.0.0.0", 8000)
    serve(site(tmp_path), host="127.0.0.1", port=0, open_browser=False, announce=lambda _: None)
    assert capsys.readouterr().err == ""


def test_missing_packages_are_an_error_with_the_command_that_installs_them(monkeypatch):
    monkeypatch.setattr(server_module, "PACKAGES", (*PACKAGES, "no_such_package"))
    with pytest.raises(ConfigError) as caught:
        require_packages("play")
    assert caught.value.fix == 'pip install "worldlab[play]"'
    assert "worldlab play needs no_such_package, which is not installed" in str(caught.value)
