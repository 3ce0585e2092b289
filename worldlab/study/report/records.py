"""Makes results.csv and summary.json, the machine-readable files of a report."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from worldlab.study.report.findings import Findings, normalise, valid_reference
from worldlab.study.report.verdict import Conclusion
from worldlab.study.results import Comparison, Trial
from worldlab.study.statistics import Band, Difference, Interval
from worldlab.training.panel import plain_text

FORMAT = 1
"""Format version of summary.json; raised when the meaning of a key changes."""
_FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
"""Characters that start a formula in a spreadsheet."""


def results_csv(comparison: Comparison) -> str:
    """Return a CSV text with one row per trial.

    Texts that a spreadsheet would run as a formula get a leading apostrophe. Undefined numbers are empty.
    """
    methods = {method.key: method for method in comparison.methods}
    names = list(
        dict.fromkeys([q.name for q in comparison.quantities] + [n for t in comparison.trials for n in t.measures])
    )
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    fixed = [
        *(
            "method",
            "label",
            "kind",
            "encoder",
            "dynamics",
            "decoder",
            "agent",
            "env",
            "seed",
            "status",
            "cause",
            "folder",
        ),
        *("env_steps", "updates", "wall_seconds", "parameters", "episodes", "mean_return", "normalised", "returns"),
    ]
    writer.writerow(
        [_csv_cell(name) for name in fixed + [f"{name}{part}" for name in names for part in ("", " error", " why")]]
    )
    for trial in comparison.trials:
        method = methods.get(trial.method)
        about = [getattr(method, field, "") for field in ("label", "kind", "encoder", "dynamics", "decoder", "agent")]
        row = [trial.method, *about, trial.env, trial.seed, trial.status, trial.cause, trial.folder]
        row += [trial.env_steps, trial.updates, trial.wall_seconds, trial.parameters, len(trial.returns)]
        row += [
            trial.score,
            _normalised(comparison, trial),
            json.dumps(to_json_value(trial.returns)),
        ]
        for name in names:
            one = trial.measures.get(name)
            row += [one.value, one.error, one.why] if one else [None, None, ""]
        writer.writerow([_csv_cell(value) for value in row])
    return buffer.getvalue()


def _normalised(comparison: Comparison, trial: Trial) -> float | None:
    return normalise(comparison, trial.score, trial.env) if valid_reference(comparison, trial.env) else None


def _csv_cell(value: Any) -> Any:
    """Return a CSV cell: numbers unchanged, texts guarded against being read as formulas."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if not isinstance(value, str):
        return value
    text = plain_text(value)
    return f"'{text}" if text.lstrip().startswith(_FORMULA) else text


def summary(findings: Findings, verdict: Conclusion) -> dict[str, Any]:
    """Return the content of summary.json: all findings as plain data; undefined numbers are null."""
    found = findings.comparison
    return to_json_value(
        {
            "format": FORMAT,
            "title": found.title,
            "verdict": asdict(verdict),
            "methods": [asdict(method) for method in found.methods],
            "envs": found.envs,
            "seeds": found.seeds,
            "budgets": found.budgets,
            "references": {env: asdict(reference) for env, reference in found.references.items()},
            "about": found.about,
            "returns": [
                {
                    "method": method,
                    "env": env,
                    **_interval(one),
                    "bootstrap": _interval(findings.resampled[method, env]),
                }
                for (method, env), one in findings.returns.items()
            ],
            "bounds": found.bounds,
            "failures": [
                {"method": method, "env": env, **_interval(one)} for (method, env), one in findings.failures.items()
            ],
            "aggregates": {
                method: {
                    name: {**_interval(one), "bootstrap": _interval(findings.published[method][name])}
                    for name, one in aggregates.items()
                }
                for method, aggregates in findings.aggregates.items()
            },
            "comparisons": [
                {
                    "envs": [family.scope] if family.scope else findings.referenced,
                    "compared_together": len(family.pairs),
                    "against": family.against,
                    "kind": family.kind,
                    "x": pair.x,
                    "y": pair.y,
                    **_difference(pair.difference),
                }
                for family in findings.families
                for pair in family.pairs
            ],
            "improvement": [{"x": x, "y": y, **_interval(one)} for (x, y), one in findings.improvement.items()],
            "profiles": {method: _band(band) for method, band in findings.profiles.items()},
            "curves": [{"method": m, "env": env, **_band(band)} for (m, env), band in findings.curves.items()],
            "measures": [
                {
                    "env": env,
                    "measure": name,
                    "method": method,
                    **(_interval(one.interval) if one.interval else {"estimate": None, "runs": 0, "interval": ""}),
                    "undefined": one.missing,
                    "why": one.why,
                }
                for (env, name, method), one in findings.measures.items()
            ],
            "quantities": [asdict(quantity) for quantity in found.quantities],
            "trials": [
                {
                    "method": t.method,
                    "env": t.env,
                    "seed": t.seed,
                    "status": t.status,
                    "cause": t.cause,
                    "score": t.score,
                }
                for t in found.trials
            ],
        }
    )


def _interval(one: Interval) -> dict[str, Any]:
    return {"estimate": one.estimate, "low": one.low, "high": one.high, "runs": one.runs, "interval": one.method}


def _band(band: Band) -> dict[str, Any]:
    columns = {name: getattr(band, name).tolist() for name in ("grid", "estimate", "low", "high")}
    return {**columns, "runs": band.runs, "interval": band.method}


def _difference(one: Difference) -> dict[str, Any]:
    return {
        "difference": _interval(one.estimate),
        "improvement": _interval(one.improvement),
        "p_value": one.p_value,
        "verdict": one.verdict,
        "reason": one.reason,
        "level": one.level,
    }


def to_json_value(value: Any) -> Any:
    """Convert a value to JSON types.

    Texts lose control characters and lone surrogates; numbers that are not finite are null.
    """
    if isinstance(value, Mapping):
        return {plain_text(key): to_json_value(item) for key, item in value.items()}
    if isinstance(value, str):
        return plain_text(value)
    if isinstance(value, Iterable):
        return [to_json_value(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int) else plain_text(value)
