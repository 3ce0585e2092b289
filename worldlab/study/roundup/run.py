"""Runs a round-up: its comparisons one after the other, each gone on with where it was stopped, and its report after each."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from worldlab.errors import ConfigError, did_you_mean, one_line
from worldlab.registry import Registry
from worldlab.runs import storage
from worldlab.study.compare.matrix import Matrix, matrix_of
from worldlab.study.compare.plan import Plan, gather, plan
from worldlab.study.compare.run import CELLS, compare, look, readable
from worldlab.study.results import Comparison
from worldlab.study.roundup.claims import Roundup, RoundupPart
from worldlab.study.roundup.method_values import TRIAL_QUANTITIES, find_quantity, is_rankable
from worldlab.study.roundup.publish import publish
from worldlab.study.roundup.verdicts import ClaimResult, evaluate_claim

log = logging.getLogger("worldlab")
PARTS = "parts"


def run_roundup(
    roundup: Roundup,
    registry: Registry,
    folder: Path,
    chosen: Sequence[str] = (),
    layers: Sequence[Mapping[str, Any]] = (),
    command: str = "",
) -> list[ClaimResult]:
    """Run parts of a round-up and judge every claim by the parts that are there.

    chosen: names of parts to be run, none for all; others are taken as they lie in the folder. layers: tables of the form of
    matrix.toml, laid over each part's. Returns the claims, results. Raises: ConfigError, PluginError, EnvError before anything
    runs; what worldlab.study.compare.run.compare raises, the report written first.
    """
    wanted = [roundup.part(name) for name in chosen] or list(roundup.parts)
    matrices = {part.name: _part_matrix(part, layers) for part in roundup.parts}
    planned = gather(lambda name=part.name: (name, plan(matrices[name], registry)) for part in wanted)
    _check_names(roundup, dict(planned))
    folder = storage.make_folder(folder).absolute()
    found: dict[str, Comparison] = {}
    for part in roundup.parts:
        place = folder / PARTS / part.name
        if (place / "matrix.toml").is_file():
            found[part.name] = look(matrices[part.name], registry, place, command)
            if part not in wanted:
                _refuse_stale_part(part.name, place, found[part.name])
    for part in wanted:
        log.info("part %s: %s", part.name, part.about)
        try:
            found[part.name] = compare(matrices[part.name], registry, folder / PARTS / part.name, command)
        except KeyboardInterrupt:
            found[part.name] = look(matrices[part.name], registry, folder / PARTS / part.name, command)
            _publish(roundup, found, folder)
            raise
        results = _publish(roundup, found, folder)
    return results


def _refuse_stale_part(name: str, place: Path, found: Comparison) -> None:
    """Raises: ConfigError where a part has been run, and nothing of it is of these roundup and this code: its figures would
    be wiped out of the report."""
    there = [cell for cell in map(readable, place.glob(f"{CELLS}/*")) if cell is not None]
    if any(cell.trial.status == "finished" for cell in there) and all(one.status == "missing" for one in found.trials):
        raise ConfigError(
            one_line(f"roundup: part '{name}' was run with other questions or other code, and is not among --parts"),
            cause=f"of its {len(there)} cells none is what would be run today",
            fix=one_line(f"run it too: --parts {name} ...; or keep that report, and write another: --out DIR"),
        )


def _check_names(roundup: Roundup, planned: Mapping[str, Plan]) -> None:
    """Raises: ConfigError for a quantity or a method that a prediction names and its part does not have."""
    for claim in roundup.claims:
        for one in (one for one in claim.predictions if one.part in planned):
            part = planned[one.part]
            columns = claim.columns if one.quantity == "rank" else ()
            methods = [side for side in (one.x, one.y) if isinstance(side, str)]
            quantities = [name for name in (one.quantity, one.y_quantity, *columns) if name]
            where = f"claim {claim.number}", f"part '{one.part}'"
            _check_known("method", methods, [method.label for method in part.methods], where)
            _check_known(
                "quantity", quantities, [*TRIAL_QUANTITIES, *(quantity.name for quantity in part.quantities)], where
            )
            unfit = next((name for name in columns if not is_rankable(find_quantity(name))), None)
            if unfit is not None:
                raise ConfigError(
                    one_line(f"roundup: {where[0]}: methods cannot be ranked by {unfit!r}"),
                    cause="neither a higher nor a lower value of it is better, or a finished run has none",
                    fix="leave it out of columns",
                )


def _check_known(kind: str, names: Sequence[str], there: Sequence[str], where: tuple[str, str]) -> None:
    """Raises: ConfigError for the first of some names that is not there. where: the claim, and the part."""
    name = next((name for name in names if name not in there), None)
    if name is not None:
        raise ConfigError(
            one_line(f"roundup: {where[0]}: no {kind} {name!r} in {where[1]}.{did_you_mean(name, there)}"),
            cause=one_line(f"it has {', '.join(there)}", 300),
            fix="name one of these, or add it to the part's matrix",
        )


def _publish(roundup: Roundup, found: Mapping[str, Comparison], folder: Path) -> list[ClaimResult]:
    results = [evaluate_claim(claim, found) for claim in roundup.claims]
    publish(roundup, results, found, folder)
    return results


def _part_matrix(part: RoundupPart, layers: Sequence[Mapping[str, Any]]) -> Matrix:
    matrix = matrix_of(part.matrix, *layers)
    if len(matrix.envs) != 1:
        raise ConfigError(
            one_line(f"roundup: part '{part.name}' is on {len(matrix.envs)} environments"),
            cause="a claim is results on one environment",
            fix="make one part of each",
        )
    return matrix
