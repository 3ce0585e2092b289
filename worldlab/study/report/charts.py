"""Draws the charts of a report: bars with intervals, and curves with bands.

Every series has a label and a tooltip with its numbers. If a method has fewer runs than the others, its label shows n.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from worldlab.study.report import svg
from worldlab.study.report.formats import format_interval, format_number
from worldlab.study.report.method_styles import MethodStyle

WIDTH = 360.0
"""Width of every drawing, in SVG units.

It is close to the pixel width of a phone, so that 11-unit text stays readable.
"""
_ROW, _LABEL, _FOOT, _LONGEST, _LINE = 21.0, 13.5, 30.0, 122.0, 11.5
"""In SVG units: height of a row of bars, distance between line labels, space below a chart, largest label width, and
distance between the lines of a label."""


@dataclass(frozen=True)
class Bar:
    """One method's value with its interval. points: the values of the single runs; n: number of runs."""

    label: str
    style: MethodStyle
    value: float
    low: float
    high: float
    n: int
    points: tuple[float, ...] = ()


@dataclass(frozen=True)
class Line:
    """One method's curve. x, y, low and high have equal length; n: number of runs; bare: draw no markers."""

    label: str
    style: MethodStyle
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    n: int
    bare: bool = False


def bars(rows: Sequence[Bar], label: str, axis: str, places: int) -> Markup:
    """Draw one row per method: its runs as dots, its interval as a line, its value as a marker and as a number.

    label: alternative text. axis: name of the values. places: decimals of the printed numbers.
    """
    names = _fit_labels(rows)
    values = [value for row in rows for value in (row.value, row.low, row.high, *row.points)]
    right = WIDTH - max(svg.text_width(format_number(row.value, places)) for row in rows)
    scale = svg.make_scale(values, _widest(names) + 12, right - 10)
    heights = [_ROW + _LINE * (len(name) - 1) for name in names]
    foot = sum(heights) + 4
    drawn = [_x_axis(scale, foot, 0.0, axis)]
    for at, (row, name) in enumerate(zip(rows, names, strict=True)):
        y = sum(heights[:at]) + heights[at] / 2 + 2
        title = svg.element("title", f"{row.label}: {format_interval(row.value, row.low, row.high)}, n = {row.n}")
        value = svg.text(WIDTH, y + 4, format_number(row.value, places), "end", "value")
        drawn.append(
            svg.element(
                "g", title, *svg.stacked(0.0, y, name, _LINE), *_bar(row, scale, y), value, class_=row.style.classes
            )
        )
    return svg.drawing(WIDTH, foot + _FOOT, label, *drawn)


def _bar(row: Bar, scale: svg.Scale, y: float) -> list[Markup]:
    drawn = [svg.element("circle", cx=scale(point), cy=y, r=2.2, class_="dot") for point in row.points]
    if math.isfinite(row.low) and math.isfinite(row.high):
        drawn.append(svg.line(scale(row.low), y, scale(row.high), y, "whisker"))
    return [*drawn, _marker(row.style, scale(row.value), y, 4.2)]


def lines(series: Sequence[Line], label: str, x_axis: str, y_axis: str, *, ranked: bool = False) -> Markup:
    """Draw curves with bands, labelled at their right ends.

    label: alternative text. ranked: put the labels into a key instead, ordered by the area below each curve. Use it for
    curves that all end at the same value.
    """
    names = _fit_labels(series)
    width = _widest(names) + (24 if ranked else 14)
    gap = _LABEL + _LINE * (max(map(len, names)) - 1)
    bottom = max(196.0, gap * len(series) + 24)
    y_scale = svg.make_scale((y for one in series for side in (one.y, one.low, one.high) for y in side), bottom, 18.0)
    left = max(svg.text_width(tick) for _, tick in _ticks(y_scale, 5)) + 8
    x_scale = svg.make_scale((x for one in series for x in one.x), left, WIDTH - width, margin=0.02)
    drawn = [_x_axis(x_scale, bottom, None, x_axis), _y_axis(y_scale, left, x_scale.end, y_axis)]
    # All bands are drawn before any line, so that no band hides a line. Many bands are drawn fainter.
    css_class = "band faint" if len(series) > 4 else "band"
    drawn += [svg.element("g", _band(one, x_scale, y_scale, css_class), class_=one.style.classes) for one in series]
    places = _rank_positions(series, gap) if ranked else [y_scale(_last_finite(one.y)) + 4 for one in series]
    feet = svg.spread_apart(places, gap, 26.0 + (gap - _LABEL) / 2, bottom)
    # Baselines are drawn first, so that none of their markers hides one of a model.
    for one, name, foot in sorted(zip(series, names, feet, strict=True), key=lambda drawn: not drawn[0].style.hollow):
        end = x_scale.end
        lead = _key_entry(one.style, end + 3, foot - 4) if ranked else [_leader(one, x_scale, y_scale, foot)]
        text = svg.stacked(end + (24 if ranked else 13), foot - 4, name, _LINE)
        title = svg.element("title", f"{one.label}, n = {one.n}")
        drawn.append(svg.element("g", title, *lead, *_line(one, x_scale, y_scale), *text, class_=one.style.classes))
    return svg.drawing(WIDTH, bottom + _FOOT, label, *drawn)


def _widest(names: Sequence[Sequence[str]]) -> float:
    return max(svg.text_width(line) for name in names for line in name)


def _fit_labels(rows: Sequence[Bar] | Sequence[Line]) -> list[list[str]]:
    """Break labels into lines; add n to the label of a method with fewer runs than the others."""
    most = max(row.n for row in rows)
    counts = [f" n {row.n}" if row.n < most else "" for row in rows]
    return [svg.wrap(row.label, _LONGEST, n) for row, n in zip(rows, counts)]


def _band(one: Line, x_scale: svg.Scale, y_scale: svg.Scale, css_class: str) -> Markup:
    upper, lower = _points(one.x, one.high, x_scale, y_scale), _points(one.x, one.low, x_scale, y_scale)
    drawable = min(len(upper), len(lower)) > 1
    return svg.path([*upper, *reversed(lower)], css_class, closed=True) if drawable else Markup("")


def _line(one: Line, x_scale: svg.Scale, y_scale: svg.Scale) -> list[Markup]:
    known = _points(one.x, one.y, x_scale, y_scale)
    markers = [] if one.bare else [_marker(one.style, *known[at], 3.0) for at in _even_indices(len(known), 7)]
    return [svg.path(known, "line", one.style.dash), *markers] if known else []


def _leader(one: Line, x_scale: svg.Scale, y_scale: svg.Scale, foot: float) -> Markup:
    """Draw the line from a curve's end to its label.

    A curve that ends early is first extended horizontally to the edge.
    """
    known = _points(one.x, one.y, x_scale, y_scale)
    return svg.path([*known[-1:], (x_scale.end, known[-1][1]), (x_scale.end + 11, foot - 4)], "leader")


def _key_entry(style: MethodStyle, x: float, y: float) -> list[Markup]:
    return [svg.path([(x, y), (x + 18, y)], "line", style.dash), _marker(style, x + 9, y, 3.0)]


def _rank_positions(series: Sequence[Line], gap: float) -> list[float]:
    """Return the y position of each label, ordered by the area below its curve, largest on top."""
    areas = [sum(y for y in one.y if math.isfinite(y)) for one in series]
    order = sorted(range(len(series)), key=lambda at: -areas[at])
    return [26.0 + (gap - _LABEL) / 2 + gap * order.index(at) for at in range(len(series))]


def _marker(style: MethodStyle, x: float, y: float, size: float) -> Markup:
    return svg.marker(style.marker, x, y, "hollow" if style.hollow else "mark", size)


def _points(
    x: Sequence[float], y: Sequence[float], x_scale: svg.Scale, y_scale: svg.Scale
) -> list[tuple[float, float]]:
    return [(x_scale(a), y_scale(b)) for a, b in zip(x, y, strict=True) if math.isfinite(b)]


def _even_indices(count: int, most: int) -> list[int]:
    """Return at most `most` evenly spaced indices out of `count`, including the first and the last."""
    few = min(most, count)
    return sorted({round(at * (count - 1) / max(1, few - 1)) for at in range(few)} | {count - 1})


def _last_finite(values: Sequence[float]) -> float:
    return next(value for value in reversed(values) if math.isfinite(value))


def _x_axis(scale: svg.Scale, y: float, top: float | None, title: str) -> Markup:
    """Draw the x axis. top: upper end of the vertical grid lines; None draws short ticks below the axis."""
    drawn = []
    for at, tick in _ticks(scale, max(3, int((scale.end - scale.start) / 38))):
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
    """Return round tick values with their labels, all with the same unit and decimals: 250k, 1.5M."""
    values = svg.ticks(scale.low, scale.high, most)
    largest = max(map(abs, values), default=0.0)
    unit, letter = next(((u, t) for least, u, t in _UNITS if largest >= least), (1.0, ""))
    places = _exact_decimals(value / unit for value in values)
    return [(value, format_number(value / unit, places) + (letter if value else "")) for value in values]


_UNITS = ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k"))
"""Units of tick labels: (smallest value that uses the unit, divisor, letter)."""


def _exact_decimals(values: Iterable[float]) -> int:
    """Return the fewest decimals that show all values exactly; 9 if fewer do not."""
    known = list(values)
    exact = (n for n in range(9) if all(abs(round(v, n) - v) < 1e-9 * max(1.0, abs(v)) for v in known))
    return next(exact, 9)
