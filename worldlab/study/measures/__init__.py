"""Measures of a trained run that ask nothing of the family its parts are of.

    catalogue()                 what can be measured: names, units, estimators; needs no torch
    measure(run, registry)      the values, each with its error, or with the reason why there is none

A measure is a file here with a function `measured(specimen) -> {name: Measurement}` and an entry in `catalogue.MEASURES`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from worldlab.study.measures.catalogue import catalogue
from worldlab.study.measures.sizes import QUICK, Sizes

if TYPE_CHECKING:
    from worldlab.registry import Registry
    from worldlab.study.results import Measurement

__all__ = ["QUICK", "Sizes", "catalogue", "measure"]


def measure(
    run: Path,
    registry: Registry,
    seed: int = 0,
    names: Sequence[str] | None = None,
    *,
    sizes: Sizes | None = None,
    reference: Path | None = None,
    keep: Path | None = None,
) -> dict[str, Measurement]:
    """Measure a trained run on recorded episodes of its environment.

    names: quantities, or the groups before their slash ("probe"); all of them by default. seed: of the episodes and of every
    draw: the same seed gives the same values, but for the group "speed", which is wall clock. sizes: how much is measured.
    reference: a run whose agent plays every second recorded episode; give all models of a comparison the same. keep: a folder
    in which recordings are kept for the next model. Writes nothing else.
    Raises: ConfigError for an unknown name or a reference of another environment; what `worldlab.training.train.load_run` raises.
    """
    from worldlab.study.measures.measuring import measure_run

    return measure_run(run, registry, seed, names, sizes or Sizes(), reference, keep)
