"""A game over a real websocket: what the page sends and gets."""

from __future__ import annotations

import io
import json
import time
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
from PIL import Image
from play_kit import VECTOR, Dot, names, played, session

from worldlab.cli.web.play import film, frames
from worldlab.cli.web.play.commands import read_command
from worldlab.cli.web.play.export import export_page
from worldlab.cli.web.server import PACKAGES, served
from worldlab.errors import ConfigError
from worldlab.evaluation.playing.session import PlaySession
from worldlab.settings import ModelSettings

for name in PACKAGES:
    pytest.importorskip(name, reason='pip install "worldlab[play]"')

from web_kit import Visitor  # noqa: E402
from websockets.exceptions import ConnectionClosed, InvalidHandshake  # noqa: E402

from worldlab.cli.web.play import game as game_module  # noqa: E402
from worldlab.cli.web.play.game import play_site  # noqa: E402


class Page:
    """The page of a game, without a browser."""

    def __init__(self, websocket: Any):
        self.websocket = websocket
        self.hello = self.next("hello")
        self.first = self.next("frame")

    def send(self, do: str, **arguments: Any) -> None:
        self.websocket.send(json.dumps({"do": do, **arguments}))

    def next(self, kind: str) -> dict[str, Any]:
        """The next message of a kind."""
        while True:
            message = unpack(self.websocket.recv(20))
            if message["type"] == kind:
                return message

    def after(self, kind: str, do: str, **arguments: Any) -> dict[str, Any]:
        """The next message of a kind after a command."""
        self.send(do, **arguments)
        return self.next(kind)


def unpack(data: str | bytes) -> dict[str, Any]:
    if isinstance(data, str):
        return json.loads(data)
    length = int.from_bytes(data[:4], "big")
    message = json.loads(data[4 : 4 + length])
    at, blobs = 4 + length, []
    for size in message["sizes"]:
        blobs.append(data[at : at + size])
        at += size
    assert at == len(data)
    return {**message, "blobs": blobs}


def pixels(blob: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(blob)))


def picture(message: dict[str, Any], what: str) -> np.ndarray:
    return pixels(message["blobs"][[entry["what"] for entry in message["pictures"]].index(what)])


@pytest.fixture(scope="module")
def visitor():
    with served(play_site(session, names())) as address:
        yield Visitor(address)


@pytest.fixture
def page(visitor):
    with visitor.websocket() as websocket:
        yield Page(websocket)


def test_the_page_learns_what_it_plays_and_sees_the_first_moment(page):
    assert page.hello["controls"]["choices"][2] == {"name": "action 2 (right)", "needs": ["right"]}
    assert page.hello["models"][0]["codes"]["count"] == 4 and page.hello["models"][0]["by"] == "decoder"
    assert page.first["at"] == 0 and not page.first["playing"]
    assert picture(page.first, "real").shape == (16, 16, 3)


def test_keys_change_the_real_picture_and_the_dream(page):
    page.send("act", action=2)
    shown = [page.after("frame", "step") for _ in range(8)]
    assert [frame["at"] for frame in shown] == list(range(1, 9)) and shown[-1]["dreamt_for"] == 4
    assert not np.array_equal(picture(shown[0], "real"), picture(page.first, "real"))
    page.send("reset")
    assert page.next("frame")["at"] == 0
    page.send("act", action=0)
    other = [page.after("frame", "step") for _ in range(8)]
    assert not np.array_equal(picture(other[-1], "real"), picture(shown[-1], "real"))
    assert not np.array_equal(picture(other[-1], "dream"), picture(shown[-1], "dream"))
    assert other[-1]["action"] == [1, 0, 0]


def test_a_running_game_steps_by_itself_until_it_is_paused(page):
    page.send("change", speed=60)
    assert page.after("frame", "play")["playing"]
    steps = [page.next("frame")["at"] for _ in range(10)]
    assert steps == list(range(steps[0], steps[0] + 10))
    page.send("pause")
    while (last := page.next("frame"))["playing"]:
        pass
    time.sleep(0.1)
    assert page.after("frame", "step")["at"] <= last["at"] + 2


def test_futures_come_as_strips_that_differ_and_temperature_changes_them(page):
    page.after("frame", "step")
    message = page.after("futures", "futures", at=1, count=3, horizon=6)
    strips = [pixels(blob) for blob in message["blobs"]]
    assert [strip.shape for strip in strips] == [(16, 7 * 16, 3)] * 3 and message["steps"] == list(range(7))
    assert not np.array_equal(strips[0], strips[1]) and not np.array_equal(strips[1], strips[2])
    assert np.array_equal(strips[0][:, :16], strips[1][:, :16])  # they begin at the same moment
    again = page.after("futures", "futures", at=1, count=3, horizon=6)
    assert again["blobs"] == message["blobs"]
    page.send("change", temperature=3.0)
    hot = page.after("futures", "futures", at=1, count=3, horizon=6)
    assert hot["blobs"] != message["blobs"]


def test_a_changed_code_changes_the_picture(page):
    before = page.after("codes", "codes", at=0)
    assert before["blobs"][0] == before["blobs"][1] and len(before["values"]) == 4
    changed = page.after("codes", "codes", at=0, codes={"2": 3.0})
    assert changed["blobs"][0] == before["blobs"][0] != changed["blobs"][1]
    assert changed["changed"] == {"2": 3.0} and set(changed["numbers"]) == {"reward", "cont", "value"}
    page.send("dream-on", codes={"2": 3.0})
    assert picture(page.next("frame"), "dream").tolist() == pixels(changed["blobs"][1]).tolist()


def test_a_future_can_be_driven(page):
    page.after("futures", "futures", at=0, count=1, horizon=3)
    page.send("change", speed=60)
    page.send("follow", future=0)
    driven = [page.next("frame") for _ in range(4)]
    assert [frame["action"] for frame in driven[:3]] == [[0, 0, 1]] * 3  # the agent always goes to the right
    assert [frame["driver"] for frame in driven] == ["plan", "plan", "plan", "person"]
    page.send("pause")


def test_the_past_can_be_looked_at(page):
    first = page.after("frame", "step")
    page.after("frame", "step")
    looked = page.after("frame", "look", at=1)
    assert (looked["at"], looked["last"]) == (1, 2) and looked["blobs"] == first["blobs"]


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"do": "eval", "code": "1"},
        {"do": "play", "more": 1},
        {"do": "act", "action": 7},
        {"do": "act", "action": "left"},
        {"do": "act", "action": [1e9]},
        {"do": "look", "at": 99},
        {"do": "look", "at": -1},
        {"do": "futures", "at": 0, "count": 1000},
        {"do": "futures", "at": 0, "horizon": 10**9},
        {"do": "futures", "at": 0, "codes": {"99": 1}},
        {"do": "futures", "at": 0, "actions": "../../etc/passwd"},
        {"do": "codes", "at": 0, "codes": {"x": 1}},
        {"do": "change", "speed": 1e6},
        {"do": "change", "temperature": -1},
        {"do": "change", "seed": 2**40},
    ],
)
def test_what_is_no_command_is_refused_and_the_game_goes_on(page, message):
    page.websocket.send(json.dumps(message))
    assert page.next("error")["text"]
    assert page.after("frame", "step")["at"] == 1


def test_a_model_that_is_not_there_is_refused(page):
    page.send("futures", at=0, model=1)
    assert "no second run" in page.next("error")["text"]
    page.send("dream-on", model=1)
    assert "no second run" in page.next("error")["text"]


def test_each_page_has_a_game_of_its_own_up_to_a_number(visitor, page):
    page.after("frame", "step")
    with visitor.websocket() as websocket:
        assert Page(websocket).first["at"] == 0
    with ExitStack() as stack, pytest.raises(InvalidHandshake):
        for _ in range(game_module.GAMES):
            stack.enter_context(visitor.websocket())


def test_the_episode_is_saved_as_a_film(visitor, page):
    for _ in range(4):
        page.after("frame", "step")
    status, body, reply = visitor.get(f"/film.webp?game={page.hello['game']}")
    shown = Image.open(io.BytesIO(body))
    assert status == 200 and reply.headers["Content-Type"] == "image/webp" and shown.n_frames == 5
    assert visitor.get("/film.webp?game=../../x")[0] == 404 and visitor.get("/film.webp")[0] == 404


def test_the_environment_is_closed_when_the_page_is_gone():
    made: list[Any] = []

    def make():
        made.append(session())
        return made[-1]

    with served(play_site(make, names())) as address:
        with Visitor(address).websocket() as websocket:
            Page(websocket).send("play")
        until = time.monotonic() + 10
        while not made[0].env.closed and time.monotonic() < until:
            time.sleep(0.01)
        assert made[0].env.closed


def test_an_environment_that_fails_pauses_the_game_and_says_why():
    with served(play_site(lambda: session(fail_at=2), names())) as address, Visitor(address).websocket() as websocket:
        page = Page(websocket)
        page.send("play")
        assert "the environment failed in step: ValueError" in page.next("error")["text"]
        page.send("reset")
        assert page.next("frame")["at"] == 0


def test_an_environment_that_cannot_begin_is_reported_and_closed():
    envs: list[Dot] = []

    def make():
        envs.append(Dot())
        envs[-1].reset = lambda **_: 1 / 0  # type: ignore[method-assign]
        return PlaySession(lambda: envs[-1], [played()])

    with served(play_site(make, names())) as address, Visitor(address).websocket() as websocket:
        with pytest.raises(ConnectionClosed) as caught:
            websocket.recv(20)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.reason == "the environment failed in reset: ZeroDivisionError" and envs[0].closed


def test_a_probe_that_stands_in_for_the_decoder_is_named(monkeypatch):
    probed = played(settings=ModelSettings(units=8, probe="yes"))
    monkeypatch.setattr(type(probed.model.decoder), "renders", False)
    assert frames.hello(session(probed), names(), "")["models"][0]["by"] == "probe"
    monkeypatch.setattr(probed.model, "probe", None)
    hello = frames.hello(session(probed), names(), "")["models"][0]
    assert hello["by"] == "" and not hello["draws"]


def test_a_slow_decoder_draws_when_it_can_and_the_dream_goes_on(monkeypatch):
    """At 60 steps a second and half a second for each picture, many steps pass without pictures, and some have them."""
    game = session()
    draw = game.draw

    def slow(moment):
        time.sleep(0.5)
        return draw(moment)

    monkeypatch.setattr(game, "draw", slow)
    with served(play_site(lambda: game, names())) as address, Visitor(address).websocket() as websocket:
        page = Page(websocket)
        page.send("change", speed=60)
        page.send("play")
        shown = [page.next("frame") for _ in range(60)]
        page.send("pause")
    drawn = [frame["at"] for frame in shown if frame["drawn"]]
    assert 1 <= len(drawn) < 20
    assert {entry["what"] for frame in shown if not frame["drawn"] for entry in frame["pictures"]} == {"real"}
    assert shown[-1]["at"] > 30


def test_a_failure_while_drawing_is_shown(monkeypatch):
    game = session()

    def fail(moment):
        raise ConfigError("it cannot be drawn")

    monkeypatch.setattr(game, "draw", fail)
    with served(play_site(lambda: game, names())) as address, Visitor(address).websocket() as websocket:
        while (message := unpack(websocket.recv(20)))["type"] != "error":
            pass
        assert message["text"] == "it cannot be drawn"


@pytest.mark.parametrize("where", ["step", "draw"])
def test_an_error_of_ours_ends_the_game_and_is_logged(monkeypatch, caplog, where):
    game = session()
    monkeypatch.setattr(game, where, lambda *_: 1 / 0)
    with served(play_site(lambda: game, names())) as address, Visitor(address).websocket() as websocket:
        websocket.send('{"do": "play"}')
        with pytest.raises(ConnectionClosed) as caught:
            while True:
                websocket.recv(20)
    assert caught.value.rcvd is not None and caught.value.rcvd.code == 1011
    assert "ZeroDivisionError" in caplog.text and game.env.closed


def test_numbers_are_sent_for_a_model_of_numbers():
    game = session(played(obs=VECTOR), vector=True)
    message = unpack(frames.frame(game, game.now, game.draw(game.now), {}))
    assert message["vectors"]["real"] == [float(game.env.x), 0.0] and len(message["models"][0]["dream"]) == 2
    assert [entry["what"] for entry in message["pictures"]] == ["real"]  # drawn by the environment
    fan = unpack(frames.fan(game, game.branch(0, count=3, horizon=4), 0, 0))
    assert np.shape(fan["entries"]) == (3, 5, 2) and not fan["blobs"]
    assert np.shape(unpack(frames.codes(game, 0, 0, {1: 2.0}))["entries"]) == (2, 2)
    shown = film.film_frames(game)
    assert shown.shape[0] == 1 and shown.dtype == np.uint8


def test_curves_of_a_film_grow_with_time():
    real = np.array([[0.0], [1.0], [0.0]])
    grown = film.curve_frames(real, real, 1)
    black = [(frame.sum(-1) < 200).sum() for frame in grown]
    assert black[0] == 0 < black[1]
    assert len({frame.tobytes() for frame in grown}) == 3


def test_an_exported_page_opens_from_a_file_and_needs_nothing_else(tmp_path):
    game = session(played("<b>&"))
    game.drive("agent")
    for _ in range(12):
        game.step()
    page = export_page(game, names("<b>&"), tmp_path / "page")
    text = page.read_text("utf-8")
    assert "http" not in text.replace("http://www.w3.org", "") and "<b>&amp;" not in text and "&lt;b&gt;&amp;" in text
    sources = {part.split('"')[0] for part in text.split('src="')[1:]}
    assert len(sources) == 1 + 3 * 7 and all((page.parent / source).is_file() for source in sources)
    assert Image.open(page.parent / "film.webp").n_frames == 13
    with pytest.raises(ConfigError, match="not empty"):
        export_page(game, names(), tmp_path / "page")


def test_commands_are_read_with_their_types():
    branch = read_command({"do": "futures", "at": 3, "codes": {"1": 2}})
    assert branch.codes == {1: 2.0}  # pyright: ignore[reportAttributeAccessIssue]
