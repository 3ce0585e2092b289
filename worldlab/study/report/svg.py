"""Draws SVG: elements, scales, tick values, and estimates of text width.

Colours are CSS classes, so that the page's style sheet sets them for light and dark mode.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from markupsafe import Markup

from worldlab.training.panel import plain_text

LINES = 3
"""Most lines of a wrapped text."""
_WIDTHS = {3.7: "ijl.,:;'|!", 4.8: "frt()[]{}-/ ", 7.0: "abcdeghknopqsuvxyz0123456789", 10.8: "mwMW%@…"}
_LETTERS = {letter: width for width, letters in _WIDTHS.items() for letter in letters}
"""Width of letters at font size 11 in the widest common system fonts (DejaVu Sans, Verdana); other letters take 8.5."""


def element(name: str, *children: str, **attributes: object) -> Markup:
    """Return an SVG element.

    `class_` becomes class, `stroke_width` stroke-width; None omits the attribute. All text is escaped.
    """
    written = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), plain_text(_format(value)))
        for key, value in attributes.items()
        if value is not None
    )
    inside = Markup("").join(child if isinstance(child, Markup) else plain_text(child) for child in children)
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), written, inside)


def drawing(width: float, height: float, label: str, *children: str) -> Markup:
    """Return a complete SVG drawing of this size. label: alternative text."""
    return element("svg", *children, viewBox=f"0 0 {_format(width)} {_format(height)}", role="img", aria_label=label)


def text(x: float, y: float, words: str, anchor: str = "start", class_: str | None = None) -> Markup:
    """Return a line of text with its baseline at y."""
    return element("text", words, x=x, y=y, text_anchor=None if anchor == "start" else anchor, class_=class_)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def path(points: Iterable[tuple[float, float]], class_: str, dash: str | None = None, closed: bool = False) -> Markup:
    """Return a line through the points; closed: the area they enclose."""
    steps = "L".join(f"{_format(x)} {_format(y)}" for x, y in points)
    return element("path", d=f"M{steps}{'Z' if closed else ''}", class_=class_, stroke_dasharray=dash or None)


_SHAPES = {
    "square": ((-1, -1), (1, -1), (1, 1), (-1, 1)),
    "up": ((0, -1.25), (1.2, 0.95), (-1.2, 0.95)),
    "diamond": ((0, -1.4), (1.4, 0), (0, 1.4), (-1.4, 0)),
    "down": ((0, 1.25), (1.2, -0.95), (-1.2, -0.95)),
    "bow": ((-1.2, -1.1), (1.2, 1.1), (1.2, -1.1), (-1.2, 1.1)),
}
MARKERS = ("circle", *_SHAPES)


def marker(shape: str, x: float, y: float, class_: str, size: float = 3.4) -> Markup:
    """Return one of MARKERS centred at (x, y). size: half its width."""
    if shape == "circle":
        return element("circle", cx=x, cy=y, r=size, class_=class_)
    corners = ((x + size * dx, y + size * dy) for dx, dy in _SHAPES[shape])
    return path(corners, class_, closed=True)


@dataclass(frozen=True)
class Scale:
    """Maps low..high linearly to start..end. Values outside are clipped to the edge."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)


def make_scale(values: Iterable[float], start: float, end: float, margin: float = 0.04) -> Scale:
    """Return a scale that contains all finite values. margin: extra space on both sides, as a share of their range."""
    finite = [value for value in values if math.isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        low, high = low - 0.5 * max(1.0, abs(low)) * 0.1, high + 0.5 * max(1.0, abs(high)) * 0.1
    room = margin * (high - low)
    return Scale(low - room, high + room, start, end)


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Return at most `most` round numbers (multiples of 1, 2 or 5 times a power of ten) between low and high."""
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    found: list[float] = []
    for step in (factor * power for factor in (1, 2, 5, 10, 20)):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        found = [round(index * step, 12) for index in range(first, last + 1)]
        if len(found) <= most:
            break
    return found


def text_width(words: str) -> float:
    """Estimate the width of a text in SVG units. Wide letters (Chinese, Japanese, Korean) are as wide as high."""
    wide = (11.5 if unicodedata.east_asian_width(letter) in "WF" else 8.5 for letter in words)
    return sum(_LETTERS.get(letter, other) for letter, other in zip(words, wide))


def shorten(words: str, room: float) -> str:
    """Cut a text so that it fits into `room` SVG units."""
    words = plain_text(words)
    if text_width(words) <= room:
        return words
    while words and text_width(words + "…") > room:
        words = words[:-1]
    return words.rstrip() + "…"


def wrap(words: str, room: float, end: str = "") -> list[str]:
    """Break a text at spaces into at most LINES lines of at most `room` SVG units.

    Only a word longer than a line, and what is beyond the last line, are cut. end: a text after the last line.
    """
    lines: list[str] = []
    pieces = plain_text(words).split()
    for at, word in enumerate(pieces):
        if len(lines) == LINES and text_width(f"{lines[-1]} {word}") > room:
            lines[-1] = shorten(" ".join([lines[-1], *pieces[at:]]), room)
            break
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer) <= room:
            lines[-1] = longer
        else:
            lines.append(shorten(word, room))
    if not lines:
        return [end.strip() or "?"]
    return [*lines[:-1], shorten(lines[-1], room - text_width(end)) + end]


def stacked(x: float, middle: float, lines: list[str], gap: float) -> list[Markup]:
    """Return lines of text below each other, centred around the height `middle`."""
    first = middle - gap * (len(lines) - 1) / 2 + 4
    return [text(x, first + gap * at, words) for at, words in enumerate(lines)]


def spread_apart(wanted: list[float], gap: float, low: float, high: float) -> list[float]:
    """Move positions apart to at least `gap`, keeping their order. They stay within low..high if there is room."""
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    placed: list[float] = []
    for index in order:
        placed.append(max(wanted[index], placed[-1] + gap if placed else low))
    if placed and placed[-1] > high:
        placed[-1] = high
        for at in range(len(placed) - 2, -1, -1):
            placed[at] = min(placed[at], placed[at + 1] - gap)
    out = [0.0] * len(wanted)
    for at, index in enumerate(order):
        out[index] = placed[at]
    return out


def _format(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
