"""Assigns each method a colour, a dash and a marker, the same in every figure of a report.

Methods still differ without colour (in print, to the colour-blind). Baselines are grey.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from worldlab.study.report.svg import MARKERS
from worldlab.study.results import Method

COLOURS = 7
"""Colours in templates/report.css: those of Okabe & Ito (2008, "Color Universal Design") that are visible on white."""
_DASHES = ("", "7 3", "2 2.5", "9 3 2 3", "14 4")


@dataclass(frozen=True)
class MethodStyle:
    """The style of one method.

    colour: CSS class of the colour. dash: SVG stroke-dasharray, "" for a solid line. hollow: draw only the marker's
    outline.
    series: CSS class of every element on the page that belongs to the method.
    """

    colour: str
    dash: str
    marker: str
    hollow: bool
    series: str

    @property
    def classes(self) -> str:
        return f"{self.series} {self.colour}"


def method_styles(methods: Sequence[Method]) -> dict[str, MethodStyle]:
    """Return the style of each method, by key. Up to 210 models and 30 baselines get distinct styles."""
    found: dict[str, MethodStyle] = {}
    for at, method in enumerate(methods):
        grey = method.kind == "baseline"
        rank = sum(1 for style in found.values() if style.hollow == grey)
        colour = "grey" if grey else f"c{rank % COLOURS}"
        # 7 colours, 6 markers and 5 dashes share no divisor, so a repeated dash or marker comes with another colour.
        dash = _DASHES[(rank + grey) % len(_DASHES)]
        found[method.key] = MethodStyle(colour, dash, MARKERS[rank % len(MARKERS)], grey, f"m{at}")
    return found
