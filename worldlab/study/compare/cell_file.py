"""Reads and writes cell.json: a cell's spec and, once the cell has ended, its outcome. Writes are atomic."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from worldlab.errors import StorageError
from worldlab.runs import storage
from worldlab.runs.digests import SELF, seal, self_digest
from worldlab.runs.folder import BESIDE
from worldlab.study.results import Measurement, Trial

NAME, LOCK, OUTPUT = BESIDE
FORMAT, FORMAT_VERSION = "worldlab-cell", 1
_OUTCOME_KEYS = ("status", "cause", "env_steps", "updates", "wall_seconds", "parameters")


@dataclass(frozen=True)
class CellSpec:
    """The specification of a cell: all that its process needs.

    kind: as in `worldlab.study.compare.plan.Cell`. hash: as computed by worldlab.study.compare.identity. config: a
    complete run configuration as plain data. measures: names of quantities; empty for methods without a world model.
    sizes: how much data measures use, "full" or "quick". plugins: plugin files, relative to the cell's folder.
    """

    method: str
    env: str
    seed: int
    kind: str
    hash: str
    config: Mapping[str, Any]
    measures: tuple[str, ...] = ()
    sizes: str = ""
    plugins: tuple[str, ...] = ()

    @property
    def empty_trial(self) -> Trial:
        """The trial of this cell before it has an outcome."""
        return Trial(self.method, self.env, self.seed, "missing")


@dataclass(frozen=True)
class CellFile:
    """The content of a cell.json.

    trial: its status is "missing" until the cell has ended. seconds: duration of training and measuring. sizes: the
    sizes that its measures used. host: the machine that ran it.
    """

    spec: CellSpec
    trial: Trial
    seconds: float = 0.0
    sizes: str = ""
    host: str = ""

    @property
    def measured(self) -> Mapping[str, Measurement]:
        """The stored measures; empty if they used other sizes than the spec has."""
        return self.trial.measures if self.sizes == self.spec.sizes else {}

    @property
    def done(self) -> bool:
        """Whether the cell has finished and has all measures of its spec."""
        return self.trial.status == "finished" and set(self.spec.measures) <= set(self.measured)


def write_cell(folder: Path, cell: CellFile) -> None:
    """Write a folder's cell.json. Raises: StorageError."""
    trial, outcome = cell.trial, None
    if trial.status != "missing":
        outcome = {
            **{key: getattr(trial, key) for key in _OUTCOME_KEYS},
            "returns": list(trial.returns),
            "curve": [list(point) for point in trial.curve],
            "measures": {name: _to_json(measured) for name, measured in trial.measures.items()},
            "seconds": round(cell.seconds, 1),
            "sizes": cell.sizes,
            "host": cell.host,
        }
    content = {"format": FORMAT, "format_version": FORMAT_VERSION, "asked": asdict(cell.spec), "outcome": outcome}
    storage.atomic_write_json(folder / NAME, seal(content))


def read_cell(folder: Path) -> CellFile | None:
    """Read a folder's cell.json; None if there is none. Raises: StorageError if it is damaged."""
    try:
        content = storage.read_json(folder / NAME)
        if content["format"] != FORMAT or content["format_version"] != FORMAT_VERSION:
            raise ValueError(f"format {content['format']!r} {content['format_version']!r}")
        _check_seal(content)
        row = content["asked"]
        spec = CellSpec(**{**row, "measures": tuple(row["measures"]), "plugins": tuple(row["plugins"])})
        return _with_outcome(spec, content["outcome"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(
            f"cell '{folder.name[:60]}': {NAME} is damaged",
            cause=f"{type(error).__name__}: {error}",
            fix=f"remove {folder} and run the comparison again",
        ) from error


def is_sealed(folder: Path) -> bool:
    """Return whether a folder's cell.json has its own digest; cells of earlier versions have none. Raises: as `read_cell`."""
    return read_cell(folder) is not None and SELF in storage.read_json(folder / NAME)


def _check_seal(content: Mapping[str, Any]) -> None:
    """Check the digest of a cell.json, if it has one. Raises: ValueError."""
    # An unknown key may be the damaged name of the digest.
    unknown = content.keys() - {"format", "format_version", "asked", "outcome", SELF}
    if unknown or content.get(SELF, self_digest(content)) != self_digest(content):
        raise ValueError("its hash differs: the file was edited or damaged")


def _with_outcome(spec: CellSpec, outcome: Mapping[str, Any] | None) -> CellFile:
    if outcome is None:
        return CellFile(spec, spec.empty_trial)
    trial = Trial(
        spec.method,
        spec.env,
        spec.seed,
        **{key: outcome[key] for key in _OUTCOME_KEYS},
        returns=tuple(outcome["returns"]),
        curve=tuple((int(step), float(value)) for step, value in outcome["curve"]),
        measures={name: Measurement(**values) for name, values in outcome["measures"].items()},
    )
    return CellFile(spec, trial, outcome["seconds"], outcome["sizes"], outcome["host"])


def _to_json(measured: Measurement) -> dict[str, Any]:
    """Return a measurement as JSON data; JSON holds finite numbers only, so other values become undefined."""
    value, error = measured.value, measured.error
    if value is not None and not math.isfinite(value):
        return {"value": None, "error": None, "why": measured.why or f"the value was {value}"}
    return {**asdict(measured), "error": error if error is not None and math.isfinite(error) else None}
