"""Methods differ in colour, dash and marker, in light and in dark mode."""

from __future__ import annotations

import re
from importlib import resources

import pytest
from report_kit import METHODS

from worldlab.study.report.method_styles import COLOURS, method_styles
from worldlab.study.report.svg import MARKERS
from worldlab.study.results import Method

STYLE = (resources.files("worldlab.study.report") / "templates" / "report.css").read_text(encoding="utf-8")
LIGHT, DARK = STYLE.split("prefers-color-scheme: dark")[0], STYLE.split("prefers-color-scheme: dark")[1].split("* {")[0]


def luminance(colour: str) -> float:
    """Relative luminance, WCAG 2.2."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, two: str) -> float:
    low, high = sorted((luminance(one), luminance(two)))
    return (high + 0.05) / (low + 0.05)


def colours(sheet: str) -> dict[str, str]:
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", sheet))


@pytest.mark.parametrize("sheet", [LIGHT, DARK], ids=["light", "dark"])
def test_contrast(sheet):
    """WCAG 2.2: contrast of text 4.5 to 1, of graphics 3 to 1."""
    known = colours(sheet)
    assert min(contrast(known[name], known["paper"]) for name in ("ink", "soft", "link")) >= 4.5
    drawn = [*(f"c{at}" for at in range(COLOURS)), "grey"]
    assert min(contrast(known[name], known["paper"]) for name in drawn) >= 3
    assert len({known[name] for name in drawn}) == len(drawn)


def test_styles_are_distinct():
    models = [Method(f"m{at}", f"m{at}", "model") for at in range(40)]
    baselines = [Method(f"b{at}", f"b{at}", "baseline") for at in range(10)]
    found = method_styles([*models, *baselines])
    assert len({(one.colour, one.dash, one.marker, one.hollow) for one in found.values()}) == 50
    assert {found[method.key].colour for method in baselines} == {"grey"}
    for few in (models[:COLOURS], baselines[:5]):  # without their colours, too
        assert len({(found[method.key].dash, found[method.key].marker) for method in few}) == len(few)


def test_looks_do_not_depend_on_what_else_there_is():
    """In a figure that lacks a failed method, the others keep their styles."""
    found = method_styles(METHODS)
    assert {one.marker for one in found.values()} <= set(MARKERS)
    assert len({one.series for one in found.values()}) == len(METHODS)
