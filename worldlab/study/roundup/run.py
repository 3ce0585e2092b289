"""Runs a round-up: runs or resumes its comparisons one after the other, and writes the report after each."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from worldlab.errors import ConfigError, did_you_mean, one_line
from worldlab.registry import Registry
from worldlab.runs import storage
from worldlab.study.compare.matrix import Matrix, matrix_of
from worldlab.study.compare.plan import Plan, collect_errors, plan
from worldlab.study.compare.run import CELLS, compare, load_results, read_valid_cell
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
    """Run parts of a round-up, and evaluate every claim with the parts that have results.

    chosen: names of the parts to run; empty runs all. Results of other parts are read from the folder. layers: tables
    in the form of matrix.toml that override each part's matrix.
    Returns one result per claim. Raises: ConfigError, PluginError, EnvError before anything runs; after writing the
    report, whatever `worldlab.study.compare.run.compare` raises.
    """
    selected = [roundup.part(name) for name in chosen] or list(roundup.parts)
    matrices = {part.name: _part_matrix(part, layers) for part in roundup.parts}
    planned = collect_errors(lambda name=part.name: (name, plan(matrices[name], registry)) for part in selected)
    _check_names(roundup, dict(planned))
    folder = storage.make_folder(folder).absolute()
    found: dict[str, Comparison] = {}
    for part in roundup.parts:
        place = folder / PARTS / part.name
        if (place / "matrix.toml").is_file():
            found[part.name] = load_results(matrices[part.name], registry, place, command)
            if part not in selected:
                _refuse_stale_part(part.name, place, found[part.name])
    for part in selected:
        log.info("part %s: %s", part.name, part.about)
        try:
            found[part.name] = compare(matrices[part.name], registry, folder / PARTS / part.name, command)
        except KeyboardInterrupt:
            found[part.name] = load_results(matrices[part.name], registry, folder / PARTS / part.name, command)
            _publish(roundup, found, folder)
            raise
        results = _publish(roundup, found, folder)
    return results


def _refuse_stale_part(name: str, place: Path, found: Comparison) -> None:
    """Raise ConfigError if a part has finished cells but none of them has the current settings and code.

    The report would otherwise lose this part's results. Texts of roundup.toml (titles, claims, `about`) and prose in
    the code do not count: cells are identified by settings, versions and code without docstrings and comments.
    """
    cells = [cell for cell in map(read_valid_cell, place.glob(f"{CELLS}/*")) if cell is not None]
    if any(cell.trial.status == "finished" for cell in cells) and all(one.status == "missing" for one in found.trials):
        raise ConfigError(
            one_line(f"roundup: part '{name}' was run with other settings or code, and is not in --parts"),
            cause=f"none of its {len(cells)} cells has the current settings and code",
            fix=one_line(f"run it again: --parts {name} ...; or write to another folder: --out DIR"),
        )


def _check_names(roundup: Roundup, planned: Mapping[str, Plan]) -> None:
    """Raise ConfigError if a prediction names a quantity or a method that its part does not have."""
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
                    cause="neither higher nor lower values are better, or finished runs have no value",
                    fix="remove it from columns",
                )


def _check_known(kind: str, names: Sequence[str], known: Sequence[str], where: tuple[str, str]) -> None:
    """Raise ConfigError for the first name that is not in `known`. where: the claim, and the part."""
    name = next((name for name in names if name not in known), None)
    if name is not None:
        raise ConfigError(
            one_line(f"roundup: {where[0]}: no {kind} {name!r} in {where[1]}.{did_you_mean(name, known)}"),
            cause=one_line(f"it has {', '.join(known)}", 300),
            fix="use one of these names, or add it to the part's matrix",
        )


def _publish(roundup: Roundup, found: Mapping[str, Comparison], folder: Path) -> list[ClaimResult]:
    results = [evaluate_claim(claim, found) for claim in roundup.claims]
    publish(roundup, results, found, folder)
    return results


def _part_matrix(part: RoundupPart, layers: Sequence[Mapping[str, Any]]) -> Matrix:
    matrix = matrix_of(part.matrix, *layers)
    if len(matrix.envs) != 1:
        raise ConfigError(
            one_line(f"roundup: part '{part.name}' has {len(matrix.envs)} environments"),
            cause="a claim is evaluated on one environment",
            fix="make one part per environment",
        )
    return matrix
