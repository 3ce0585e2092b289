"""The page in a real browser without a network: no request, nothing cut off, every image shown."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from browser_kit import CHROMIUM, CUT_OFF, NO_CHROMIUM, Chromium
from report_kit import BEST, ENVS, GROUPS, METHODS, comparison, hostile, run_folders
from roundup_kit import CLEAR, ROUNDUP

from worldlab.study import report
from worldlab.study.report.findings import compute_findings
from worldlab.study.roundup.publish import publish
from worldlab.study.roundup.verdicts import evaluate_claim

if CHROMIUM is None and __name__ != "__main__":
    pytest.skip(NO_CHROMIUM, allow_module_level=True)
PHONE, DESK = 360, 1280

OVERLAPS = """
(() => {
  const bad = [];
  for (const svg of document.querySelectorAll("figure svg")) {
    const texts = [...svg.querySelectorAll("text")].map((text) => [text.textContent, text.getBoundingClientRect()]);
    texts.forEach(([one, a], at) => {
      for (const [two, b] of texts.slice(at + 1)) {
        const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
        const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
        if (wide > 1 && high > 4) bad.push("overlap: " + one + " | " + two);
      }
    });
  }
  return bad;
})()
"""
PICTURES = """
(async () => {
  const all = [...document.images];
  await Promise.allSettled(all.map((image) => image.decode()));
  return all.filter((image) => !image.naturalWidth).map((image) => image.alt || "image");
})()
"""


def troubles(browser: Chromium, page: Path) -> list[str]:
    """Describe everything that is wrong with the open page."""
    found = [f"no picture: {text}" for text in browser.evaluate(PICTURES)]
    if browser.evaluate("document.documentElement.scrollWidth > innerWidth"):
        found.append("wider than the screen")
    found += browser.evaluate(CUT_OFF) + browser.evaluate(OVERLAPS)
    spoken = browser.of(
        "Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded", "Page.javascriptDialogOpening"
    )
    found += [f"console: {event}" for event in spoken]
    requested = {event["request"]["url"] for event in browser.of("Network.requestWillBeSent")}
    return found + [f"requested {url}" for url in requested if not url.startswith("data:") and url != page.as_uri()]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    opened = Chromium(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    run_folders(comparison(), folder)
    return report.write(comparison(), folder)["report.html"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESK])
def test_the_page_is_whole(browser, page, width, scheme):
    """No error, no request, nothing cut off or overlapping, and all images shown."""
    browser.open(page, width, scheme)
    assert troubles(browser, page) == []
    assert browser.evaluate("document.images.length") == 20


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_a_round_up_is_whole_too(browser, tmp_path, width):
    results = [evaluate_claim(one, {"toy": CLEAR}) for one in ROUNDUP.claims]
    written = publish(ROUNDUP, results, {"toy": CLEAR}, tmp_path)["roundup.html"]
    browser.open(written, width)
    assert troubles(browser, written) == []
    assert browser.evaluate("document.querySelectorAll('figure svg').length") == len(results)


def test_it_is_whole_with_hostile_names_too(browser, tmp_path):
    """No script runs and no request is made; long words do not break the page on a phone."""
    for at, payload in enumerate(GROUPS):
        written = report.write(hostile(payload), tmp_path / str(at))["report.html"]
        browser.open(written, PHONE)
        assert troubles(browser, written) == []


def test_it_sorts_and_hides(browser, page):
    browser.open(page, DESK)
    names = "[...document.querySelector('#scores table').tBodies[0].rows].map((row) => row.cells[0].textContent.trim())"
    head = "document.querySelector('#scores table').tHead.rows[0].cells[2]"
    before = browser.evaluate(names)
    browser.evaluate(f"{head}.querySelector('button').click()")
    scores = compute_findings(comparison()).aggregates
    labels = {method.key: method.label for method in METHODS}
    rising = [labels[key] for key in sorted(scores, key=lambda key: scores[key]["iqm"].estimate)]
    assert browser.evaluate(names) == rising != before
    browser.evaluate(f"{head}.querySelector('button').click()")
    assert browser.evaluate(names)[0] == labels[BEST] and browser.evaluate(f"{head}.ariaSort") == "descending"
    drawn = "[...document.querySelectorAll('#environments g.m2')].filter((g) => getComputedStyle(g).display !== 'none').length"
    assert browser.evaluate(drawn) == 3 * len(ENVS)  # a row, a band and a line
    browser.evaluate("document.querySelector('#environments .legend [data-series=m2] button').click()")
    assert browser.evaluate(drawn) == 0


def test_it_is_whole_without_scripts(browser, page):
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    browser.open(page, DESK)
    assert browser.evaluate("document.querySelectorAll('button').length") == 0
    assert troubles(browser, page) == []
    browser.call("Emulation.setScriptExecutionDisabled", value=False)


def test_still_images_for_reduced_motion(browser, page):
    browser.open(page, DESK, prefers_reduced_motion="reduce")
    shown = browser.evaluate("[...document.images].map((image) => image.currentSrc.slice(0, 15))")
    assert set(shown) == {"data:image/png;"}


@pytest.mark.parametrize(
    ("inside", "trouble"),
    [
        ("<p style='width: 2000px'>x</p>", "wider"),
        ("<p style='width: 2000px; position: fixed'>x</p>", "cut off"),
        ("<div style='width: 90px; overflow: hidden'><p style='width: 200px'>x</p></div>", "cut off"),
        ("<script>console.error('x')</script>", "console"),
        ("<script>throw new Error('x')</script>", "console"),
        ("<img src='data:image/png;base64,AAAA'>", "no picture"),
        ("<img src='http://127.0.0.1:9/x.png'>", "requested"),
        ("<figure><svg viewBox='0 0 9 9'><text x='1' y='5'>a long text</text></svg></figure>", "figure"),
        (
            "<figure><svg viewBox='0 0 200 99'><text y='50'>some</text><text x='3' y='52'>text</text></svg></figure>",
            "overlap",
        ),
    ],
)
def test_the_checks_detect_errors(browser, tmp_path, inside, trouble):
    bad = tmp_path / "bad.html"
    bad.write_text(
        f"<!DOCTYPE html><meta name=viewport content='width=device-width'><link rel=icon href='data:,'><body>{inside}"
    )
    browser.open(bad, PHONE)
    assert any(trouble in one for one in troubles(browser, bad))


if __name__ == "__main__":
    import tempfile

    # python tests/study/report/test_browser.py PAGE FOLDER: writes screenshots
    source, target = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as profile:
        shown = Chromium(Path(profile))
        for wide in (PHONE, DESK):
            for colours in ("light", "dark"):
                shown.open(source, wide, colours)
                shown.evaluate(PICTURES)
                shown.screenshot(target / f"{wide}-{colours}.png")
        print("\n".join([*shown.evaluate(CUT_OFF), *shown.evaluate(OVERLAPS)]))
        shown.close()


WIDER = """
[...document.querySelectorAll(".scroll")].filter((node) => !node.querySelector("img") && node.scrollWidth > node.clientWidth + 1)
  .map((node) => node.getAttribute("aria-label") + ": " + node.scrollWidth + " of " + node.clientWidth)
"""


@pytest.mark.parametrize("width", [390, 1200])
def test_tables_fit(browser, page, width):
    """No table scrolls sideways, on a phone or on a small desk, with eight methods."""
    browser.open(page, width)
    browser.evaluate("document.querySelectorAll('details').forEach((one) => one.open = true)")
    assert browser.evaluate(WIDER) == []
