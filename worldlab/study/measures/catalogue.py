"""All that is measured, by group, and where each group's function is: listing needs no torch, so functions are imported late."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from worldlab.errors import ConfigError, did_you_mean, one_line
from worldlab.study.measures.quantities import QUANTITIES
from worldlab.study.results import Quantity

if TYPE_CHECKING:
    from worldlab.study.measures.specimen import Specimen
    from worldlab.study.results import Measurement


@dataclass(frozen=True)
class Measure:
    """Quantities that are measured together. name: what stands before the slash in theirs, and the module that measures them."""

    name: str
    quantities: tuple[Quantity, ...]

    def load(self) -> Callable[[Specimen], dict[str, Measurement]]:
        """Its function; it returns every quantity, or raises worldlab.study.measures.undefined.Undefined for all of them."""
        return importlib.import_module(f"worldlab.study.measures.{self.name}").measured


MEASURES: tuple[Measure, ...] = tuple(Measure(name, quantities) for name, quantities in QUANTITIES.items())
"""In the order in which they are taken and shown."""


def catalogue() -> tuple[Quantity, ...]:
    """Every quantity that `measure` knows, in a fixed order."""
    return tuple(quantity for measure in MEASURES for quantity in measure.quantities)


def chosen(names: Sequence[str] | None) -> tuple[list[Measure], set[str]]:
    """The measures to be taken for some quantities or groups (None: all), and the quantities. Raises: ConfigError."""
    groups = {measure.name: {quantity.name for quantity in measure.quantities} for measure in MEASURES}
    known = set().union(*groups.values())
    wanted: set[str] = set()
    for name in groups if names is None else names:
        if name not in known and name not in groups:
            raise ConfigError(
                one_line(f"no quantity {one_line(name, 40)!r}.{did_you_mean(name, known | groups.keys())}"),
                fix=f"name quantities, or whole groups: {', '.join(groups)}",
            )
        wanted |= groups.get(name, {name})
    return [measure for measure in MEASURES if groups[measure.name] & wanted], wanted
