"""How a method looks, in every figure of a report the same: a colour, a dash and a marker, so that none of the three is
needed to tell methods apart. Baselines are grey."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from worldlab.study.report.svg import MARKERS
from worldlab.study.results import Method

COLOURS = 7
"""Colours that templates/report.css knows: those of Okabe & Ito (2008, "Color Universal Design") that can be told from paper."""
_DASHES = ("", "7 3", "2 2.5", "9 3 2 3", "14 4")


@dataclass(frozen=True)
class Look:
    """colour: a class of the style sheet. dash: of a stroke, "" is a solid line. hollow: the marker is only an outline.
    series: a class of everything in a page that belongs to the method."""

    colour: str
    dash: str
    marker: str
    hollow: bool
    series: str

    @property
    def classes(self) -> str:
        return f"{self.series} {self.colour}"


def marks(methods: Sequence[Method]) -> dict[str, Look]:
    """The look of each method, by key. 210 models, and 30 baselines, look different from each other."""
    found: dict[str, Look] = {}
    for at, method in enumerate(methods):
        grey = method.kind == "baseline"
        rank = sum(1 for mark in found.values() if mark.hollow == grey)
        colour = "grey" if grey else f"c{rank % COLOURS}"
        # A dash or a marker that repeats does so with another colour: 7, 6 and 5 share no divisor.
        dash = _DASHES[(rank + grey) % len(_DASHES)]
        found[method.key] = Look(colour, dash, MARKERS[rank % len(MARKERS)], grey, f"m{at}")
    return found
