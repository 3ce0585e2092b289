"""Numbers as people read them: no more digits than their size gives reason for, and units that fit."""

from __future__ import annotations

import math
from collections.abc import Iterable

from worldlab.training.panel import plain_text

UNDEFINED = "undefined"
NONE = "–"
MINUS = "−"
SCALED = 2
"""Decimals of normalised scores, and of shares."""


def decimals(values: Iterable[float | None], digits: int = 3) -> int:
    """How many decimals show the largest of some values with `digits` digits, at most 4; none if all are whole numbers."""
    sizes = [abs(value) for value in values if value is not None and math.isfinite(value)]
    if all(float(size).is_integer() for size in sizes):
        return 0
    largest = max(sizes)
    return min(4, max(0, digits - 1 - math.floor(math.log10(largest))))


def number(value: float | None, places: int | None = None) -> str:
    """A number with thousands apart and a true minus sign; "undefined" if it is none.

    places: decimals; None for as many as it needs, or powers of ten where it is very small.
    """
    if value is None or not math.isfinite(value):
        return UNDEFINED
    tiny = places is None and 0 < abs(value) < 0.5e-4
    text = f"{value:.1e}" if tiny else f"{value:,.{decimals([value]) if places is None else places}f}"
    zero = not tiny and not text.strip("-0.,")
    return text.lstrip("-") if zero else text.replace("-", MINUS)


def interval(value: float | None, low: float | None, high: float | None, places: int | None = None) -> str:
    """ "0.62 [0.51, 0.73]"; without an interval the value alone."""
    places = decimals([value, low, high]) if places is None else places
    return " ".join(filter(None, (number(value, places), ends(low, high, places))))


def ends(low: float | None, high: float | None, places: int) -> str:
    """ "[0.51, 0.73]", "" if there is no interval."""
    return f"[{number(low, places)}, {number(high, places)}]" if _finite(low) and _finite(high) else ""


def places_for(value: float, places: int) -> int:
    """As many decimals, or more if the value would read as 0 with them and is not."""
    while value != 0 and places < 9 and float(f"{value:.{places}f}") == 0:
        places += 1
    return places


def duration(seconds: float) -> str:
    """4.3 s, 43 s, 12.3 min, 2.4 h."""
    if not math.isfinite(seconds):
        return UNDEFINED
    if seconds < 100:
        return f"{seconds:.{0 if seconds >= 9.95 else 1}f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:,.1f} h"


def count(value: float) -> str:
    """A whole number with thousands apart."""
    return number(float(value), 0)


def span(values: Iterable[float], show=count) -> str:
    """What all values have in common, or from the least to the largest: "3,000", "2.9 to 3.4 min"."""
    ordered = sorted(values)
    if not ordered:
        return UNDEFINED
    first, last = show(ordered[0]), show(ordered[-1])
    unit = last.partition(" ")[2]
    return first if first == last else f"{first.removesuffix(f' {unit}') if unit else first} to {last}"


def probability(value: float | None) -> str:
    """A p value: "0.031", "< 0.001"."""
    if not _finite(value):
        return UNDEFINED
    assert value is not None
    return "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def bytes_text(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


def words(text: object, otherwise: str) -> str:
    """A text that came from elsewhere, without what could steer a terminal; `otherwise` if nothing is left of it."""
    return plain_text(text).strip() or otherwise


def listed(words: Iterable[str], last: str = "and") -> str:
    """ "a", "a and b", "a, b and c"."""
    items = list(words)
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {last} {items[-1]}" if items else ""


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
