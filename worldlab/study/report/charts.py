"""The figures of a report: values with their intervals, and lines with their bands. Every series carries its label and, for
the pointer, its numbers; where a method has fewer runs than others, the label says how many."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from worldlab.study.report import svg
from worldlab.study.report.formats import interval, number
from worldlab.study.report.marks import Look

WIDTH = 360.0
"""Units of every drawing: about the pixels of a phone, where text of 11 units is still read with ease."""
_ROW, _LABEL, _FOOT, _LONGEST = 21.0, 13.5, 30.0, 122.0
"""Of a row of bars, between two labels of lines, below a figure, and of the longest label."""


@dataclass(frozen=True)
class Bar:
    """A method's value with its interval. points: what it is the mean of, one a run; n: how many runs."""

    label: str
    mark: Look
    value: float
    low: float
    high: float
    n: int
    points: tuple[float, ...] = ()


@dataclass(frozen=True)
class Line:
    """A method's curve: x, y and the band, all of one length; n: how many runs; bare: without markers."""

    label: str
    mark: Look
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    n: int
    bare: bool = False


def bars(rows: Sequence[Bar], label: str, axis: str, places: int) -> Markup:
    """One row a method: its runs as dots, its interval as a line, its value as its marker and as a number.

    label: for those who cannot see it. axis: what the values are. places: decimals of the numbers.
    """
    names = _names(rows)
    values = [value for row in rows for value in (row.value, row.low, row.high, *row.points)]
    right = WIDTH - max(svg.width_of(number(row.value, places)) for row in rows)
    scale = svg.scale_of(values, max(map(svg.width_of, names)) + 12, right - 10)
    foot = len(rows) * _ROW + 4
    drawn = [_x_axis(scale, foot, 0.0, axis)]
    for at, (row, name) in enumerate(zip(rows, names, strict=True)):
        y = at * _ROW + _ROW / 2 + 2
        title = svg.element("title", f"{row.label}: {interval(row.value, row.low, row.high)}, n = {row.n}")
        value = svg.text(WIDTH, y + 4, number(row.value, places), "end", "value")
        drawn.append(
            svg.element("g", title, svg.text(0.0, y + 4, name), *_bar(row, scale, y), value, class_=row.mark.classes)
        )
    return svg.picture(WIDTH, foot + _FOOT, label, *drawn)


def _bar(row: Bar, scale: svg.Scale, y: float) -> list[Markup]:
    drawn = [svg.element("circle", cx=scale(point), cy=y, r=2.2, class_="dot") for point in row.points]
    if math.isfinite(row.low) and math.isfinite(row.high):
        drawn.append(svg.line(scale(row.low), y, scale(row.high), y, "whisker"))
    return [*drawn, _marker(row.mark, scale(row.value), y, 4.2)]


def lines(series: Sequence[Line], label: str, x_axis: str, y_axis: str, *, ranked: bool = False) -> Markup:
    """Curves with bands, labelled at their ends; ranked: labelled in a key instead, for curves that all end alike.

    label: for those who cannot see it. The key's order is that of the areas below the curves.
    """
    names = _names(series)
    width = max(map(svg.width_of, names)) + (24 if ranked else 14)
    bottom = max(196.0, _LABEL * len(series) + 24)
    y_scale = svg.scale_of((y for one in series for side in (one.y, one.low, one.high) for y in side), bottom, 18.0)
    left = max(svg.width_of(tick) for _, tick in _ticks(y_scale, 5)) + 8
    x_scale = svg.scale_of((x for one in series for x in one.x), left, WIDTH - width, margin=0.02)
    drawn = [_x_axis(x_scale, bottom, None, x_axis), _y_axis(y_scale, left, x_scale.end, y_axis)]
    # Bands lie below all lines, so that none hides another method's line; many are drawn fainter.
    look = "band faint" if len(series) > 4 else "band"
    drawn += [svg.element("g", _band(one, x_scale, y_scale, look), class_=one.mark.classes) for one in series]
    places = _ranks(series) if ranked else [y_scale(_last(one.y)) + 4 for one in series]
    feet = svg.spread(places, _LABEL, 26.0, bottom)
    for one, name, foot in zip(series, names, feet, strict=True):
        end = x_scale.end
        lead = _key(one.mark, end + 3, foot - 4) if ranked else [_leader(one, x_scale, y_scale, foot)]
        text = svg.text(end + (24 if ranked else 13), foot, name)
        title = svg.element("title", f"{one.label}, n = {one.n}")
        drawn.append(svg.element("g", title, *lead, *_line(one, x_scale, y_scale), text, class_=one.mark.classes))
    return svg.picture(WIDTH, bottom + _FOOT, label, *drawn)


def _names(rows: Sequence[Bar] | Sequence[Line]) -> list[str]:
    """Labels that fit; one with fewer runs than others says how many it has."""
    most = max(row.n for row in rows)
    counts = [f" n {row.n}" if row.n < most else "" for row in rows]
    return [svg.shortened(row.label, _LONGEST - svg.width_of(n)) + n for row, n in zip(rows, counts)]


def _band(one: Line, x_scale: svg.Scale, y_scale: svg.Scale, look: str) -> Markup:
    upper, lower = _points(one.x, one.high, x_scale, y_scale), _points(one.x, one.low, x_scale, y_scale)
    drawable = min(len(upper), len(lower)) > 1
    return svg.path([*upper, *reversed(lower)], look, closed=True) if drawable else Markup("")


def _line(one: Line, x_scale: svg.Scale, y_scale: svg.Scale) -> list[Markup]:
    known = _points(one.x, one.y, x_scale, y_scale)
    markers = [] if one.bare else [_marker(one.mark, *known[at], 3.0) for at in _some(len(known), 7)]
    return [svg.path(known, "line", one.mark.dash), *markers] if known else []


def _leader(one: Line, x_scale: svg.Scale, y_scale: svg.Scale, foot: float) -> Markup:
    """From a curve's end to its label; where it ends early, along its level to the edge."""
    known = _points(one.x, one.y, x_scale, y_scale)
    return svg.path([*known[-1:], (x_scale.end, known[-1][1]), (x_scale.end + 11, foot - 4)], "leader")


def _key(mark: Look, x: float, y: float) -> list[Markup]:
    return [svg.path([(x, y), (x + 18, y)], "line", mark.dash), _marker(mark, x + 9, y, 3.0)]


def _ranks(series: Sequence[Line]) -> list[float]:
    """Where labels stand that are ordered by their curves' areas, the largest on top."""
    areas = [sum(y for y in one.y if math.isfinite(y)) for one in series]
    order = sorted(range(len(series)), key=lambda at: -areas[at])
    return [26.0 + _LABEL * order.index(at) for at in range(len(series))]


def _marker(mark: Look, x: float, y: float, size: float) -> Markup:
    return svg.marker(mark.marker, x, y, "hollow" if mark.hollow else "mark", size)


def _points(
    x: Sequence[float], y: Sequence[float], x_scale: svg.Scale, y_scale: svg.Scale
) -> list[tuple[float, float]]:
    return [(x_scale(a), y_scale(b)) for a, b in zip(x, y, strict=True) if math.isfinite(b)]


def _some(count: int, most: int) -> list[int]:
    """Indices of at most so many points, evenly, first and last among them."""
    few = min(most, count)
    return sorted({round(at * (count - 1) / max(1, few - 1)) for at in range(few)} | {count - 1})


def _last(values: Sequence[float]) -> float:
    return next(value for value in reversed(values) if math.isfinite(value))


def _x_axis(scale: svg.Scale, y: float, top: float | None, title: str) -> Markup:
    """top: where lines across the figure begin, None for short ticks below."""
    drawn = []
    for at, tick in _ticks(scale, max(2, int((scale.end - scale.start) / 42))):
        drawn.append(svg.line(scale(at), y if top is None else top, scale(at), y + 4 if top is None else y, "grid"))
        drawn.append(svg.text(scale(at), y + 14, tick, "middle", "tick"))
    drawn.append(svg.text((scale.start + scale.end) / 2, y + 27, title, "middle", "axis"))
    return svg.element("g", *drawn)


def _y_axis(scale: svg.Scale, left: float, right: float, title: str) -> Markup:
    drawn = [svg.text(0.0, 9.0, title, class_="axis")]
    for at, tick in _ticks(scale, 5):
        drawn.append(svg.line(left, scale(at), right, scale(at), "grid"))
        drawn.append(svg.text(left - 6, scale(at) + 4, tick, "end", "tick"))
    return svg.element("g", *drawn)


def _ticks(scale: svg.Scale, most: int) -> list[tuple[float, str]]:
    """Round values and their texts, as short as their neighbours allow: 250k, 1.5M."""
    values = svg.ticks(scale.low, scale.high, most)
    largest = max(map(abs, values), default=0.0)
    unit, letter = next(((u, t) for least, u, t in _UNITS if largest >= least), (1.0, ""))
    places = _needed(value / unit for value in values)
    return [(value, number(value / unit, places) + (letter if value else "")) for value in values]


_UNITS = ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k"))
"""From what size on, divided by what, with which letter."""


def _needed(values: Iterable[float]) -> int:
    """Decimals with which values are exact; 9 if none are."""
    known = list(values)
    exact = (n for n in range(9) if all(abs(round(v, n) - v) < 1e-9 * max(1.0, abs(v)) for v in known))
    return next(exact, 9)
