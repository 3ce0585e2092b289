"""cell.json: what a cell is asked, and, once it has ended, what came of it. Written whole or not at all."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from worldlab.errors import StorageError
from worldlab.runs import storage
from worldlab.runs.folder import BESIDE
from worldlab.study.results import Measurement, Trial

NAME, LOCK, OUTPUT = BESIDE
FORMAT, FORMAT_VERSION = "worldlab-cell", 1
_FOUND = ("status", "cause", "env_steps", "updates", "wall_seconds", "parameters")


@dataclass(frozen=True)
class Asked:
    """What a cell is asked. config: a whole run configuration as plain data. measures: names, none where there is no world
    model; sizes: how much is measured. plugins: files to load, relative to the cell's folder. hash: of
    worldlab.study.compare.identity."""

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
    def blank(self) -> Trial:
        """The trial before anything was found."""
        return Trial(self.method, self.env, self.seed, "missing")


@dataclass(frozen=True)
class CellFile:
    """The content of a cell.json. trial: "missing" until the cell has ended. seconds: it took, training and measuring;
    sizes: with which its measures were taken; host: where it ran."""

    asked: Asked
    trial: Trial
    seconds: float = 0.0
    sizes: str = ""
    host: str = ""

    @property
    def measured(self) -> Mapping[str, Measurement]:
        """What was measured as is asked now."""
        return self.trial.measures if self.sizes == self.asked.sizes else {}

    @property
    def done(self) -> bool:
        """Whether nothing is left to do: it finished, and all that is asked was measured."""
        return self.trial.status == "finished" and set(self.asked.measures) <= set(self.measured)


def write_cell(folder: Path, cell: CellFile) -> None:
    """Write a folder's cell.json. Raises: StorageError."""
    trial, outcome = cell.trial, None
    if trial.status != "missing":
        outcome = {
            **{key: getattr(trial, key) for key in _FOUND},
            "returns": list(trial.returns),
            "curve": [list(point) for point in trial.curve],
            "measures": {name: _finite(measured) for name, measured in trial.measures.items()},
            "seconds": round(cell.seconds, 1),
            "sizes": cell.sizes,
            "host": cell.host,
        }
    content = {"format": FORMAT, "format_version": FORMAT_VERSION, "asked": asdict(cell.asked), "outcome": outcome}
    storage.atomic_write_json(folder / NAME, content)


def read_cell(folder: Path) -> CellFile | None:
    """Read a folder's cell.json; None if there is none. Raises: StorageError if it is damaged."""
    try:
        content = storage.read_json(folder / NAME)
        if content["format"] != FORMAT or content["format_version"] != FORMAT_VERSION:
            raise ValueError(f"format {content['format']!r} {content['format_version']!r}")
        row = content["asked"]
        asked = Asked(**{**row, "measures": tuple(row["measures"]), "plugins": tuple(row["plugins"])})
        return _with_outcome(asked, content["outcome"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(
            f"cell '{folder.name[:60]}': {NAME} is damaged",
            cause=f"{type(error).__name__}: {error}",
            fix=f"remove {folder} and run the comparison again",
        ) from error


def _with_outcome(asked: Asked, outcome: Mapping[str, Any] | None) -> CellFile:
    if outcome is None:
        return CellFile(asked, asked.blank)
    trial = Trial(
        asked.method,
        asked.env,
        asked.seed,
        **{key: outcome[key] for key in _FOUND},
        returns=tuple(outcome["returns"]),
        curve=tuple((int(step), float(value)) for step, value in outcome["curve"]),
        measures={name: Measurement(**values) for name, values in outcome["measures"].items()},
    )
    return CellFile(asked, trial, outcome["seconds"], outcome["sizes"], outcome["host"])


def _finite(measured: Measurement) -> dict[str, Any]:
    """JSON holds finite numbers only; a value that is none is undefined."""
    value, error = measured.value, measured.error
    if value is not None and not math.isfinite(value):
        return {"value": None, "error": None, "why": measured.why or f"it came out as {value}"}
    return {**asdict(measured), "error": error if error is not None and math.isfinite(error) else None}
