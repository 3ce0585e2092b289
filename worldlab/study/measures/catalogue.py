"""The catalogue of all quantities, by group. Listing needs no torch: each group's function is imported on first use."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from worldlab.errors import ConfigError, did_you_mean, one_line
from worldlab.study.measures.quantities import QUANTITIES
from worldlab.study.results import Quantity

if TYPE_CHECKING:
    from worldlab.study.measures.measured_model import MeasuredModel
    from worldlab.study.results import Measurement


@dataclass(frozen=True)
class MeasureGroup:
    """Quantities that are measured together. name: the part of their names before the slash, and the module that
    measures them."""

    name: str
    quantities: tuple[Quantity, ...]

    def load(self) -> Callable[[MeasuredModel], dict[str, Measurement]]:
        """Import the group's function. It returns every quantity, or raises worldlab.study.measures.undefined.Undefined
        for the whole group."""
        return importlib.import_module(f"worldlab.study.measures.{self.name}").measure


GROUPS: tuple[MeasureGroup, ...] = tuple(MeasureGroup(name, quantities) for name, quantities in QUANTITIES.items())
"""All groups, in the order in which they are measured and shown."""


def catalogue() -> tuple[Quantity, ...]:
    """List every quantity that `measure` supports, in a fixed order."""
    return tuple(quantity for group in GROUPS for quantity in group.quantities)


def select(names: Sequence[str] | None) -> tuple[list[MeasureGroup], set[str]]:
    """Return the groups to measure for the named quantities or groups (None: all), and the quantities.

    Raises: ConfigError for an unknown name.
    """
    groups = {group.name: {quantity.name for quantity in group.quantities} for group in GROUPS}
    known = set().union(*groups.values())
    wanted: set[str] = set()
    for name in groups if names is None else names:
        if name not in known and name not in groups:
            raise ConfigError(
                one_line(f"no quantity {one_line(name, 40)!r}.{did_you_mean(name, known | groups.keys())}"),
                fix=f"name quantities or whole groups: {', '.join(groups)}",
            )
        wanted |= groups.get(name, {name})
    return [group for group in GROUPS if groups[group.name] & wanted], wanted
