"""Measures of a trained run that apply to every family of parts.

    catalogue()                 lists what can be measured: names, units, estimators; needs no torch
    measure(run, registry)      returns the values, each with its standard error or with the reason why it is undefined

Each group of quantities is a file here with a function `measure(subject) -> {name: Measurement}` and an entry in
`quantities.QUANTITIES`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from worldlab.study.measures.catalogue import catalogue
from worldlab.study.measures.sample_sizes import QUICK, SampleSizes

if TYPE_CHECKING:
    from worldlab.registry import Registry
    from worldlab.study.results import Measurement

__all__ = ["QUICK", "SampleSizes", "catalogue", "measure"]


def measure(
    run: Path,
    registry: Registry,
    seed: int = 0,
    names: Sequence[str] | None = None,
    *,
    sizes: SampleSizes | None = None,
    reference: Path | None = None,
    cache: Path | None = None,
    trusted: Collection[str] = (),
) -> dict[str, Measurement]:
    """Measure a trained run on recorded episodes of its environment.

    seed: seeds the episodes and every random draw. The same seed gives the same values, except for the group "speed",
    which is wall-clock time. names: quantities, or groups (the part before the slash, such as "probe"); default: all.
    sizes: how much is measured. reference: a run whose agent plays every second recorded episode; use the same one for
    all models of a comparison. cache: a folder that stores recordings for the next model. Nothing else is written.
    trusted: modules that the environments of the runs may import.
    Raises: ConfigError for an unknown name or a reference run in another environment; what
    `worldlab.training.loaded.load_run` raises.
    """
    from worldlab.study.measures.measuring import measure_run

    return measure_run(run, registry, seed, names, sizes or SampleSizes(), reference, cache, trusted)
