"""The page of `worldlab watch` in a real browser: it shows what the files say, follows them, and is fit to look at."""

from __future__ import annotations

import json
import shutil
import time

import numpy as np
import pytest
from browser_kit import CHROMIUM, CUT_OFF, NO_CHROMIUM, Chromium
from many_runs import write_cell, write_run
from PIL import Image

from worldlab.cli.web.server import PACKAGES, served
from worldlab.cli.web.watch import page as page_module
from worldlab.cli.web.watch.page import watch_site
from worldlab.runs.pictures import save_webp

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)
for name in PACKAGES:
    pytest.importorskip(name, reason='pip install "worldlab[play]"')

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    chromium = Chromium(tmp_path_factory.mktemp("browser"))
    yield chromium
    chromium.close()


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with runs in several states and a comparison, and the address of its page."""
    monkeypatch.setattr(page_module, "INTERVAL", 0.1)
    alarm = {"step": 500, "says": "the latent carries no information", "cure": "Lower --model.beta."}
    run = write_run(tmp_path / "first", seed=7, age=9, alarms=[alarm])
    (run / "videos").mkdir()
    frames = np.zeros((3, 16, 48, 3), np.uint8)
    Image.fromarray(frames[0]).save(run / "videos" / "dream-000003000.png")
    save_webp(frames, run / "videos" / "dream-000003000.webp")
    write_run(tmp_path / HOSTILE, "failed", error="the disk is full " + "x" * 200)
    for number, status in enumerate(("finished", "failed", "")):
        write_cell(tmp_path / "study" / "cells" / f"vae-{number}", "vae", status, seed=number)
    with served(watch_site(tmp_path)) as address:
        yield tmp_path, address


def wait(browser, expression):
    """Wait until a JavaScript expression is true, and return its value."""
    deadline = time.monotonic() + 30
    while not (value := browser.evaluate(expression)):
        assert time.monotonic() < deadline, (expression, browser.evaluate("document.body.innerText"))
        time.sleep(0.05)
    return value


def press(browser, key, code=0):
    for kind in ("keyDown", "keyUp"):
        text = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
        browser.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)


def faults(browser):
    """What the browser complained about, and requests to anyone else."""
    texts = [
        str(event) for event in browser.of("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")
    ]
    urls = [event["request"]["url"] for event in browser.of("Network.requestWillBeSent")]
    return texts + [url for url in urls if not url.startswith(("http://127.0.0.1", "blob:", "data:"))]


def show(browser, address, width=1440, scheme="light", **media):
    browser.open(address, width, scheme, **media)
    wait(browser, "document.querySelectorAll('#rows tr').length === 2")  # the cells are in the grid


def choose(browser, name, value):
    """Give a field a value, as a person does."""
    browser.evaluate(
        f"((field) => {{ field.value = {value!r}; field.dispatchEvent(new Event('input'));"
        f" field.dispatchEvent(new Event('change')); }})(document.getElementById({name!r}))"
    )


FIRST = "[...document.querySelectorAll('#rows a')].find((a) => a.textContent === 'first')"


def open_first(browser):
    browser.evaluate(f"{FIRST}.click()")
    wait(browser, "document.querySelectorAll('.charts figure').length > 2")
    wait(browser, "document.querySelector('.strip img').naturalWidth > 0")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_nothing_is_cut_off_and_nothing_complains(browser, place, width, scheme):
    show(browser, place[1], width, scheme)
    assert browser.evaluate(CUT_OFF) == []
    open_first(browser)
    assert browser.evaluate(CUT_OFF) == [] and faults(browser) == []


def test_the_list_shows_every_run_and_reads_no_name_as_html(browser, place):
    show(browser, place[1])
    text = browser.evaluate("document.body.innerText")
    assert HOSTILE in text and "the disk is full" in text and "seed 7" in text and "⚠ 1 alarm" in text
    assert "5 runs: 2 failed, 1 finished, 1 training, 1 waiting" in text
    assert browser.evaluate("document.querySelectorAll('#rows img').length") == 0
    grid = browser.evaluate("[...document.querySelectorAll('.cell')].map((cell) => [cell.textContent, cell.title])")
    assert grid == [
        ["✓", "seed 0: finished, return 15"],
        ["✕", "seed 1: failed, return 15, the agent chose an action that is not finite"],
        ["○", "seed 2: waiting"],
    ]
    choose(browser, "find", "cartpole study")
    wait(browser, "document.querySelectorAll('#rows tr').length === 3")
    choose(browser, "find", "")
    choose(browser, "sort", "name")
    browser.evaluate("document.getElementById('cells').click()")
    wait(browser, "document.querySelectorAll('#rows tr').length === 5")
    names = browser.evaluate("[...document.querySelectorAll('#rows a')].map((link) => link.textContent)")
    assert names == [HOSTILE, "first", *(f"study/cells/vae-{seed}" for seed in range(3))]


def test_the_page_follows_a_run_that_goes_on_ends_and_is_deleted(browser, place):
    folder, address = place
    show(browser, address)
    with (folder / "first" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3500, "episode/return": 1, "loss/dyn": 0.125, "eval/return": 61.5}\n')
    wait(browser, f"{FIRST}.closest('tr').innerText.includes('3,500 of 4,000')")
    open_first(browser)
    values = "[...document.querySelectorAll('figure')].map((one) => one.innerText.replace(/\\s+/g, ' ')).join('|')"
    assert "dyn 0.125" in browser.evaluate(values) and "evaluation 61.5" in browser.evaluate(values)
    assert "the latent carries no information" in browser.evaluate("document.querySelector('main#details').innerText")
    with (folder / "first" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4000, "loss/dyn": 0.0625}\n')
    wait(browser, f"{values}.includes('dyn 0.0625')")
    facts = json.loads((folder / "first" / "run.json").read_text())
    (folder / "first" / "run.json").write_text(json.dumps(facts | {"status": "finished", "step": 4000}))
    wait(browser, "document.querySelector('.title').innerText.includes('finished')")
    shutil.rmtree(folder / "first")
    wait(browser, "document.getElementById('notice').innerText.includes('no longer there')")
    browser.evaluate("location.hash = ''")
    wait(browser, "document.querySelectorAll('#rows tr').length === 1")
    assert faults(browser) == []


def test_the_keyboard_alone_is_enough(browser, place):
    show(browser, place[1])
    press(browser, "/")
    assert browser.evaluate("document.activeElement.id") == "find"
    browser.evaluate(f"{FIRST}.focus()")
    press(browser, "Enter", 13)
    wait(browser, "document.querySelectorAll('.charts figure').length > 2")
    browser.evaluate("document.querySelector('.chart.large svg').focus()")
    press(browser, "ArrowLeft", 37)
    wait(browser, "document.querySelector('.chart.large .values').innerText.includes('step 2,750')")
    browser.evaluate("document.querySelector('.back').focus()")
    with (place[0] / "first" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3999, "loss/dyn": 0.5}\n')
    wait(browser, "document.querySelector('.head').innerText.includes('3,999')")
    assert browser.evaluate("document.activeElement.className") == "back"  # although it was drawn anew
    press(browser, "Escape", 27)
    wait(browser, "document.getElementById('details').hidden && !document.getElementById('overview').hidden")


@pytest.mark.parametrize(("motion", "suffix"), [("reduce", "png"), ("no-preference", "webp")])
def test_the_dream_moves_only_where_motion_is_wanted(browser, place, motion, suffix):
    show(browser, place[1], prefers_reduced_motion=motion)
    open_first(browser)
    assert browser.evaluate("document.querySelector('.strip img').src").endswith(f"dream-000003000.{suffix}")
    browser.evaluate("document.querySelector('.row button').click()")
    wait(browser, "document.querySelector('.strip img').naturalWidth > 0")
    other = {"png": "webp", "webp": "png"}[suffix]
    assert browser.evaluate("document.querySelector('.strip img').src").endswith(f"dream-000003000.{other}")
