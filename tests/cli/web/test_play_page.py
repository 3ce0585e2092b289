"""The page of a game in a real browser: what a person does, sees, and what no browser may complain about."""

from __future__ import annotations

import time
from typing import Any

import pytest
from browser_kit import CHROMIUM, CUT_OFF, NO_CHROMIUM, Chromium
from play_kit import VECTOR, names, played, session

from worldlab.cli.web.play.game import play_site
from worldlab.cli.web.server import PACKAGES, served

for name in PACKAGES:
    pytest.importorskip(name, reason='pip install "worldlab[play]"')
if CHROMIUM is None:
    pytest.skip(NO_CHROMIUM, allow_module_level=True)
pytestmark = pytest.mark.slow

PHONE, DESK = 390, 1440
PIXELS = "document.querySelector('{0} canvas').toDataURL()"
STRIPS = "[...document.querySelectorAll('#fan canvas.strip')].map((one) => one.toDataURL())"
READY = "document.getElementById('state').className === 'open' && document.querySelectorAll('#screens canvas').length === {0}"
ACCESSIBLE = """
[...document.querySelectorAll("button, input, select, canvas, svg[role=img], a")].filter((node) => {
  const label = node.getAttribute("aria-label") || node.textContent.trim() || node.closest("label")?.textContent.trim();
  return !label && node.offsetParent !== null;
}).map((node) => node.outerHTML.slice(0, 100))
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    opened = Chromium(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


def wait_for(browser: Chromium, expression: str, seconds: float = 20.0) -> None:
    """Wait until an expression is true in the page."""
    until = time.monotonic() + seconds
    while not browser.evaluate(f"!!({expression})"):
        assert time.monotonic() < until, f"not within {seconds:g} s: {expression}"
        time.sleep(0.02)


def send_key(browser: Chromium, kind: str, key: str) -> None:
    codes = {"ArrowRight": 39, "ArrowLeft": 37, " ": 32, ".": 190, "Tab": 9}
    number = codes.get(key, ord(key[0].upper()))
    browser.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=number)


def press(browser: Chromium, key: str) -> None:
    send_key(browser, "keyDown", key)
    send_key(browser, "keyUp", key)


def complaints(browser: Chromium) -> list[Any]:
    """Describe what the console says, what is cut off and what asks for another server."""
    spoken = browser.of("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
    wide = browser.evaluate("document.documentElement.scrollWidth > innerWidth") and ["wider than the screen"]
    asked = {event["request"]["url"] for event in browser.of("Network.requestWillBeSent")}
    elsewhere = [url for url in asked if not url.startswith(("http://127.0.0.1:", "data:", "blob:"))]
    return [*spoken, *(wide or []), *browser.evaluate(CUT_OFF), *elsewhere, *browser.evaluate(ACCESSIBLE)]


def step_of(browser: Chromium) -> int:
    return int(browser.evaluate("document.getElementById('timeline').value"))


def hold_until(browser: Chromium, steps: int, key: str) -> None:
    """Hold a key, which starts the game, until so many steps have passed; then pause."""
    send_key(browser, "keyDown", key)
    wait_for(browser, f"Number(document.getElementById('timeline').value) >= {steps}")
    send_key(browser, "keyUp", key)
    press(browser, " ")
    wait_for(browser, "document.getElementById('play').textContent === 'Play'")


@pytest.fixture(scope="module")
def pictures(browser):
    with served(
        play_site(lambda: session(played("a dot with <b>pixels</b>")), names("a dot with <b>pixels</b>"))
    ) as address:
        browser.open(address, DESK)
        wait_for(browser, READY.format(3))
        yield address


def test_the_token_leaves_the_address(browser, pictures):
    assert "token" not in browser.evaluate("location.href") and browser.evaluate("document.cookie") == ""


def test_keys_change_the_real_picture_and_the_dream(browser, pictures):
    before = browser.evaluate(PIXELS.format(".real"))
    hold_until(browser, 8, "ArrowRight")
    right = [browser.evaluate(PIXELS.format(kind)) for kind in (".real", ".dreamt")]
    assert right[0] != before
    press(browser, "n")
    wait_for(browser, "document.getElementById('timeline').disabled")
    hold_until(browser, 8, "ArrowLeft")
    left = [browser.evaluate(PIXELS.format(kind)) for kind in (".real", ".dreamt")]
    assert left[0] != right[0] and left[1] != right[1]
    assert "steps without looking" in browser.evaluate("document.querySelector('.dreamt figcaption').textContent")
    assert complaints(browser) == []


def test_a_branch_shows_strips_that_differ_and_temperature_changes_them(browser, pictures):
    press(browser, "b")
    wait_for(browser, "document.querySelectorAll('#fan canvas.strip').length === 4")
    cold = browser.evaluate(STRIPS)
    assert len(set(cold)) == 4
    browser.evaluate("temperature.value = 3, temperature.dispatchEvent(new Event('input')), fan.replaceChildren()")
    press(browser, "b")
    wait_for(browser, "document.querySelectorAll('#fan canvas.strip').length === 4")
    hot = browser.evaluate(STRIPS)
    assert not set(hot) & set(cold)
    assert complaints(browser) == []


def test_a_changed_code_changes_the_picture(browser, pictures):
    browser.evaluate("document.getElementById('show-codes').click()")
    wait_for(
        browser, "document.querySelectorAll('#code-screens canvas').length === 2 && document.querySelector('.tile')"
    )
    time.sleep(0.2)
    shown = "[...document.querySelectorAll('#code-screens canvas')].map((one) => one.toDataURL())"
    before = browser.evaluate(shown)
    assert before[0] == before[1]
    browser.evaluate(
        "document.querySelectorAll('.tile')[2].click(), code.value = 3, code.dispatchEvent(new Event('input'))"
    )
    wait_for(browser, f"({shown})[0] !== ({shown})[1]")
    assert browser.evaluate(shown)[0] == before[0]
    assert browser.evaluate("document.querySelectorAll('.tile.changed').length") == 1
    assert complaints(browser) == []


def test_the_buttons_on_the_page_steer_while_they_are_held(browser, pictures):
    press(browser, "n")
    wait_for(browser, "document.getElementById('timeline').disabled")
    box = browser.evaluate(
        "(({x, y, width}) => [x + width / 2, y + 20])(document.querySelector('[data-word=right]').getBoundingClientRect())"
    )
    mouse = {"x": box[0], "y": box[1], "button": "left", "clickCount": 1}
    before = browser.evaluate(PIXELS.format(".real"))
    browser.call("Input.dispatchMouseEvent", type="mousePressed", **mouse)
    assert browser.evaluate("document.querySelectorAll('#pad .down').length") == 1
    wait_for(browser, "Number(document.getElementById('timeline').value) >= 3")
    browser.call("Input.dispatchMouseEvent", type="mouseReleased", **mouse)
    press(browser, " ")
    wait_for(browser, "document.getElementById('play').textContent === 'Play'")
    assert browser.evaluate(PIXELS.format(".real")) != before
    assert browser.evaluate("document.querySelectorAll('#pad .down').length") == 0
    assert complaints(browser) == []


def test_the_page_is_used_with_the_keyboard_alone(browser, pictures):
    """Tab reaches every control; arrows inside the tiles walk over them and do not steer."""
    before = step_of(browser)
    browser.evaluate("document.querySelectorAll('.tile')[0].focus()")
    press(browser, "ArrowRight")
    assert browser.evaluate("[...document.querySelectorAll('.tile')].indexOf(document.activeElement)") == 1
    assert step_of(browser) == before
    reached = set()
    browser.evaluate("document.activeElement.blur()")
    for _ in range(40):
        press(browser, "Tab")
        reached.add(browser.evaluate("document.activeElement.id || document.activeElement.dataset.driver || ''"))
    assert {
        "play",
        "step",
        "again",
        "speed",
        "timeline",
        "person",
        "temperature",
        "noise",
        "branch",
        "show-codes",
    } <= reached


def test_an_idle_page_is_sent_nothing(browser, pictures):
    browser.events.clear()
    time.sleep(0.5)
    browser.evaluate("1")
    assert browser.of("Network.webSocketFrameReceived") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESK])
def test_nothing_is_cut_off(browser, pictures, width, scheme):
    browser.open(pictures, width, scheme)
    wait_for(browser, READY.format(3))
    hold_until(browser, 6, "ArrowRight")
    press(browser, "b")
    browser.evaluate("document.getElementById('show-codes').click()")
    wait_for(browser, "document.querySelector('.fan') && document.querySelector('.tile')")
    assert complaints(browser) == []
    dark = browser.evaluate("getComputedStyle(document.documentElement).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")


def test_reduced_motion_starts_slowly(browser, pictures):
    browser.open(pictures, DESK, prefers_reduced_motion="reduce")
    wait_for(browser, READY.format(3))
    assert browser.evaluate("document.getElementById('speed').value") == "5"


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_two_models_of_numbers_fit_too(browser, width):
    models = (played("one", VECTOR), played("two", VECTOR, gain=3.0))
    with served(play_site(lambda: session(*models, vector=True), names("one", "two"))) as address:
        browser.open(address, width)
        wait_for(browser, READY.format(1))
        hold_until(browser, 8, "ArrowRight")
        press(browser, "b")
        wait_for(browser, "document.querySelectorAll('#fan svg.entries').length === 8")
        assert browser.evaluate("document.querySelectorAll('#entries .chart').length") == 2
        assert complaints(browser) == []
        browser.open("about:blank", width)  # the page would miss its server


def test_a_lost_server_is_reported(browser, pictures):
    with served(play_site(session, names())) as address:
        browser.open(address, DESK)
        wait_for(browser, READY.format(3))
    wait_for(browser, "document.getElementById('state').textContent === 'connecting again'")
