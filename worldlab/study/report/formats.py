"""Formats numbers and texts for readers, with a sensible number of digits and readable units."""

from __future__ import annotations

import math
from collections.abc import Iterable

from worldlab.training.panel import plain_text

UNDEFINED = "undefined"
NONE = "–"
MINUS = "−"
NO_SPREAD = "no spread"
SCALED = 2
"""Number of decimals of normalised scores and of shares."""


def decimals_for(values: Iterable[float | None], digits: int = 3) -> int:
    """Return the decimals that show the largest value with `digits` significant digits: at most 4; 0 for integers."""
    sizes = [abs(value) for value in values if value is not None and math.isfinite(value)]
    if all(float(size).is_integer() for size in sizes):
        return 0
    largest = max(sizes)
    return min(4, max(0, digits - 1 - math.floor(math.log10(largest))))


def format_number(value: float | None, places: int | None = None) -> str:
    """Format a number with thousands separators and a typographic minus sign; "undefined" if it is None or not finite.

    places: decimals; None chooses them by size, and uses scientific notation below 5e-5.
    """
    if value is None or not math.isfinite(value):
        return UNDEFINED
    tiny = places is None and 0 < abs(value) < 0.5e-4
    text = f"{value:.1e}" if tiny else f"{value:,.{decimals_for([value]) if places is None else places}f}"
    zero = not tiny and not text.strip("-0.,")
    return text.lstrip("-") if zero else text.replace("-", MINUS)


def format_interval(value: float | None, low: float | None, high: float | None, places: int | None = None) -> str:
    """Format a value with its interval: "0.62 [0.51, 0.73]"; without an interval, the value alone."""
    places = decimals_for([value, low, high]) if places is None else places
    return " ".join(filter(None, (format_number(value, places), format_bounds(low, high, places))))


def format_bounds(low: float | None, high: float | None, places: int) -> str:
    """Format the bounds of an interval: "[0.51, 0.73]"; "" if there is no interval.

    Bounds that are the same number are NO_SPREAD: equal runs have no spread from which to estimate an interval.
    """
    if not (_finite(low) and _finite(high)):
        return ""
    return NO_SPREAD if low == high else f"[{format_number(low, places)}, {format_number(high, places)}]"


def decimals_to_show(value: float, places: int) -> int:
    """Return `places`, or more decimals if a nonzero value would otherwise round to 0."""
    while value != 0 and places < 9 and float(f"{value:.{places}f}") == 0:
        places += 1
    return places


def format_duration(seconds: float) -> str:
    """Format a duration: 4.3 s, 43 s, 12.3 min, 2.4 h."""
    if not math.isfinite(seconds):
        return UNDEFINED
    if seconds < 100:
        return f"{seconds:.{0 if seconds >= 9.95 else 1}f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:,.1f} h"


def format_count(value: float) -> str:
    """Format an integer with thousands separators."""
    return format_number(float(value), 0)


def format_range(values: Iterable[float], show=format_count) -> str:
    """Format the range of some values: "3,000" if all are equal, else "2.9 to 3.4 min"."""
    ordered = sorted(values)
    if not ordered:
        return UNDEFINED
    first, last = show(ordered[0]), show(ordered[-1])
    unit = last.partition(" ")[2]
    return first if first == last else f"{first.removesuffix(f' {unit}') if unit else first} to {last}"


def format_p(value: float | None) -> str:
    """Format a p value: "0.031", "< 0.001"."""
    if not _finite(value):
        return UNDEFINED
    assert value is not None
    return "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def format_bytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


def clean_text(text: object, default: str) -> str:
    """Remove terminal control characters from an untrusted text; return `default` if nothing remains."""
    return plain_text(text).strip() or default


def join_words(words: Iterable[str], last: str = "and") -> str:
    """Join items into a list: "a", "a and b", "a, b and c"."""
    items = list(words)
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {last} {items[-1]}" if items else ""


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
