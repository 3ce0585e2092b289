from __future__ import annotations

import pytest

from worldlab.study.report import svg


def test_elements_escape_their_texts_and_attributes():
    drawn = svg.element("text", "<script>&", x=1.50, class_='a"b', data_name="\x1b[31mred", left=None)
    assert drawn == '<text x="1.5" class="a&#34;b" data-name="red">&lt;script&gt;&amp;</text>'


@pytest.mark.parametrize(
    ("low", "high", "most", "expected"),
    [
        (0, 1, 5, [0, 0.5, 1]),
        (0, 1, 6, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (-1240, -300, 5, [-1200, -1000, -800, -600, -400]),
        (0.0123, 0.0131, 3, [0.0125, 0.013]),
        (-3, 12000, 4, [0, 5000, 10000]),
    ],
)
def test_ticks_are_round(low, high, most, expected):
    assert svg.ticks(low, high, most) == pytest.approx(expected)


def test_scales_hold_what_they_are_made_of():
    scale = svg.make_scale([2.0, float("nan"), 4.0], 0, 100, margin=0)
    assert (scale(2), scale(3), scale(4), scale(9)) == (0, 50, 100, 100)
    same = svg.make_scale([7.0, 7.0], 0, 100)
    assert same(7.0) == pytest.approx(50)
    assert svg.make_scale([], 0, 100)(0.5) == pytest.approx(50)


def test_spread_keeps_order_and_distance():
    placed = svg.spread_apart([50, 51, 49, 99], 10, 0, 100)
    assert placed == [59, 69, 49, 99]
    tight = svg.spread_apart([100, 100, 100], 10, 0, 100)
    assert sorted(tight) == [80, 90, 100]


def test_shortened_fits():
    words = svg.shorten("a very long name of a method", 60)
    assert words.endswith("…") and svg.text_width(words) <= 60
    assert svg.shorten("short", 60) == "short"
    assert svg.text_width("手法") > svg.text_width("me")
