from __future__ import annotations

import math

import pytest

from worldlab.study.report import formats


@pytest.mark.parametrize(
    ("value", "places", "text"),
    [
        (716.31, None, "716"),
        (-1234.5, None, "−1,234"),
        (0.4567, None, "0.457"),
        (0.004, 2, "0.00"),
        (-0.004, 2, "0.00"),
        (0.000012, None, "1.2e−05"),
        (0.0, None, "0"),
        (12.0, 1, "12.0"),
        (math.nan, None, "undefined"),
        (math.inf, 2, "undefined"),
        (None, None, "undefined"),
    ],
)
def test_number(value, places, text):
    assert formats.format_number(value, places) == text


def test_whole_numbers_have_no_decimals():
    assert formats.decimals_for([32.0, 8.0]) == 0
    assert formats.decimals_for([32.0, 8.5]) == 1
    assert formats.decimals_for([math.nan, None]) == 0


def test_interval():
    assert formats.format_interval(0.62, 0.51, 0.7349) == "0.620 [0.510, 0.735]"
    assert formats.format_interval(5.0, math.nan, math.nan, 1) == "5.0"


def test_a_real_difference_never_reads_as_none():
    assert formats.decimals_to_show(0.004, 2) == 3
    assert formats.decimals_to_show(0.4, 2) == 2
    assert formats.decimals_to_show(0.0, 2) == 2


def test_durations_and_spans():
    assert [formats.format_duration(s) for s in (4.32, 43, 738, 8640)] == ["4.3 s", "43 s", "12.3 min", "2.4 h"]
    assert formats.format_range([738, 600], formats.format_duration) == "10.0 to 12.3 min"
    assert formats.format_range([50, 738], formats.format_duration) == "50 s to 12.3 min"
    assert formats.format_range([3000, 3000]) == "3,000"


def test_probability():
    assert [formats.format_p(p) for p in (0.0001, 0.0312, 0.31, 1.0)] == ["< 0.001", "0.031", "0.31", "1.00"]


def test_listed():
    assert [formats.join_words(words) for words in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == [
        "",
        "a",
        "a and b",
        "a, b and c",
    ]
