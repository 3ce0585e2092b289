"""Writes the results of a round-up: roundup.html, roundup.md, roundup.json, and a drawing, verdicts.svg."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from markupsafe import Markup

from worldlab.runs.storage import atomic_write_json, atomic_write_text, make_folder
from worldlab.study.report import charts, fact_tables, svg
from worldlab.study.report.figures import Figure
from worldlab.study.report.formats import clean_text, decimals_for, format_bounds, format_number, format_p
from worldlab.study.report.html import render
from worldlab.study.report.method_styles import method_styles
from worldlab.study.report.records import to_json_value
from worldlab.study.report.tables import Column, Entry, Table, markdown
from worldlab.study.results import Comparison, Method
from worldlab.study.roundup.claims import Roundup
from worldlab.study.roundup.method_values import find_quantity
from worldlab.study.roundup.verdicts import ClaimResult, PredictionResult, tally
from worldlab.study.statistics import Interval

SIGNS = {"CONFIRMED": "✓", "REFUTED": "✗", "INCONCLUSIVE": "?"}
_TAG_CLASSES = {"CONFIRMED": "real", "REFUTED": "real", "INCONCLUSIVE": ""}


def publish(
    roundup: Roundup, results: Sequence[ClaimResult], parts: Mapping[str, Comparison], folder: Path
) -> dict[str, Path]:
    """Write the files and return their paths by name. Each file is replaced atomically. Raises: StorageError."""
    shown = [_claim_view(one, parts) for one in results]
    budgets = [_budget(name, comparison) for name, comparison in parts.items()]
    texts = {
        "roundup.html": render(
            "roundup.html.jinja",
            title=roundup.title,
            tally=tally(results),
            summary=summary_table(results),
            claims=shown,
            parts=[_part_view(roundup, name, comparison) for name, comparison in parts.items()],
        ),
        "roundup.md": markdown(
            [summary_table(results), *(one["predictions"] for one in shown), *budgets], roundup.title
        ),
        "verdicts.svg": str(verdicts_drawing(results)),
    }
    paths = {name: make_folder(folder) / name for name in [*texts, "roundup.json"]}
    for name, text in texts.items():
        atomic_write_text(paths[name], text)
    atomic_write_json(paths["roundup.json"], to_json_value(to_record(roundup, results, parts)))
    return paths


def summary_table(results: Sequence[ClaimResult]) -> Table:
    """Make the table of verdicts: one row per claim."""
    rows = [
        (
            Entry(str(one.claim.number), sort=float(one.claim.number)),
            Entry(one.claim.claim, css_class="wrap"),
            Entry(_metric(one), css_class="wrap"),
            Entry(f"{SIGNS[one.verdict]} {one.verdict}", css_class=_TAG_CLASSES[one.verdict]),
            Entry(one.why, css_class="wrap"),
        )
        for one in results
    ]
    columns = (Column("#", "text"), Column("Claim", "text"), Column("Measure", "text"), Column("Verdict", "text"))
    return Table(
        "Verdicts",
        (*columns, Column("Because", "text")),
        tuple(rows),
        (
            "Confirmed: all predictions hold. Refuted: the opposite of at least one prediction is shown. Inconclusive: "
            "neither, which does not mean that the claim is wrong.",
        ),
    )


def _metric(one: ClaimResult) -> str:
    quantity = find_quantity(one.claim.quantity)
    return f"{quantity.title}{f' [{quantity.unit}]' if quantity.unit else ''}"


def predictions_table(one: ClaimResult) -> Table:
    """Make the table of a claim's predictions, with the values that decided them."""
    rows = []
    for result in one.prediction_results:
        places = decimals_for([side.estimate for side in (result.x, result.y) if side])
        rows.append(
            (
                Entry(result.prediction.sentence, css_class="wrap"),
                Entry(result.quantity.title, css_class="wrap"),
                _value_cell(result.x, places),
                _value_cell(result.y, places)
                if isinstance(result.prediction.y, str)
                else Entry(format_number(result.prediction.y)),
                Entry(result.outcome, css_class="real" if result.outcome in ("holds", "fails") else ""),
                Entry(_reason_text(result), css_class="wrap"),
            )
        )
    columns = (Column("Prediction", "text"), Column("Quantity", "text"), Column("x"), Column("y"))
    return Table(
        f"{one.claim.number}. {one.claim.claim}: {one.verdict}",
        (*columns, Column("Outcome", "text"), Column("Because", "text")),
        tuple(rows),
        tuple(
            f"{head}: {text}." for head, text in (("Caveat", one.claim.trap), ("Amended", one.claim.amended)) if text
        ),
    )


def _value_cell(side: Interval | None, places: int) -> Entry:
    if side is None:
        return Entry("undefined")
    return Entry(
        format_number(side.estimate, places),
        f"{format_bounds(side.low, side.high, places)} n = {side.runs}".strip(),
        side.estimate,
    )


def _reason_text(result: PredictionResult) -> str:
    p = (
        f"; p = {format_p(result.p_value)} after Holm"
        if result.p_value is not None and result.outcome != "undefined"
        else ""
    )
    return f"{result.why}{p}"


def _claim_view(one: ClaimResult, parts: Mapping[str, Comparison]) -> dict[str, Any]:
    """Return the template's view of a claim."""
    undefined = []
    if one.method_values:
        undefined = [
            f"{label}: {why or 'no value'}"
            for label, why in one.method_values.why.items()
            if not len(one.method_values.values[label])
        ]
    return {
        "result": one,
        "sign": SIGNS[one.verdict],
        "tag_class": _TAG_CLASSES[one.verdict],
        "predictions": predictions_table(one),
        "figure": claim_figure(one, parts[one.claim.part].methods) if one.method_values else None,
        "undefined": undefined,
    }


def claim_figure(one: ClaimResult, methods: Sequence[Method]) -> Figure | None:
    """Draw the claim's quantity for every method that has a value; None if no method has one."""
    method_values = one.method_values
    assert method_values is not None
    styles, rows = method_styles(methods), []
    for method in methods:
        found = method_values.interval(method.label)
        if found is not None:
            points = tuple(float(value) for value in method_values.values[method.label])
            rows.append(
                charts.Bar(method.label, styles[method.key], found.estimate, found.low, found.high, found.runs, points)
            )
    if not rows:
        return None
    places = decimals_for([row.value for row in rows])
    alt_text = f"{_metric(one)}: " + "; ".join(f"{row.label} {format_number(row.value, places)}" for row in rows)
    most = max(row.n for row in rows)
    return Figure(_metric(one), f"mean and 95% interval, n = {most}", charts.bars(rows, alt_text, _metric(one), places))


def verdicts_drawing(results: Sequence[ClaimResult]) -> Markup:
    """Draw the verdicts as a standalone SVG for light and dark mode."""
    row, width = 22.0, 860.0
    style = svg.element(
        "style",
        Markup(
            "text{font:13px system-ui,sans-serif;fill:#1b1d21}.soft{fill:#585d66}.yes{fill:#0072b2}.no{fill:#d55e00}"
            "@media(prefers-color-scheme:dark){text{fill:#e9e9e6}.soft{fill:#a5abb4}.yes{fill:#7cc8f4}.no{fill:#ec7224}}"
        ),
    )
    drawn = [style]
    for at, one in enumerate(results):
        y = row * at + 16
        tone = {"CONFIRMED": "yes", "REFUTED": "no", "INCONCLUSIVE": "soft"}[one.verdict]
        drawn += [
            svg.text(24.0, y, str(one.claim.number), "end", "soft"),
            svg.text(36.0, y, svg.shorten(one.claim.claim, 600.0)),
            svg.text(width, y, f"{SIGNS[one.verdict]} {one.verdict.lower()}", "end", tone),
        ]
    alt_text = "; ".join(f"{one.claim.number} {one.claim.claim}: {one.verdict.lower()}" for one in results)
    drawing = svg.drawing(width, row * len(results) + 8, alt_text, *drawn)
    return Markup(str(drawing).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


def _part_view(roundup: Roundup, name: str, comparison: Comparison) -> dict[str, Any]:
    finished = sum(trial.status == "finished" for trial in comparison.trials)
    seconds = sum(trial.wall_seconds for trial in comparison.trials)
    return {
        "name": name,
        "about": roundup.part(name).about,
        "budget": _budget(name, comparison),
        "facts": fact_tables.run_facts(comparison.about),
        "finished": f"{finished} of {len(comparison.trials)} runs finished, {seconds / 3600:.1f} hours of training",
    }


def _budget(name: str, comparison: Comparison) -> Table:
    table = fact_tables.budget_table(comparison)
    return Table(f"Part {name}: the budget of every model", table.columns, table.rows)


def to_record(roundup: Roundup, results: Sequence[ClaimResult], parts: Mapping[str, Comparison]) -> dict[str, Any]:
    """Return the content of roundup.json as plain data."""
    return {
        "title": roundup.title,
        "tally": tally(results),
        "claims": [_claim_record(one) for one in results],
        "parts": {
            name: {
                "title": found.title,
                "budgets": found.budgets,
                "seeds": list(found.seeds),
                "about": dict(found.about),
            }
            for name, found in parts.items()
        },
    }


def _claim_record(one: ClaimResult) -> dict[str, Any]:
    claim, method_values = one.claim, one.method_values
    return {
        **{key: getattr(claim, key) for key in ("number", "claim", "said", "part", "quantity", "trap", "amended")},
        "columns": list(claim.columns),
        "verdict": one.verdict,
        "why": one.why,
        "unit": method_values.quantity.unit if method_values else "",
        "estimator": method_values.quantity.estimator if method_values else "",
        "values": {label: values.tolist() for label, values in method_values.values.items()} if method_values else {},
        "undefined": {label: clean_text(why, "") for label, why in method_values.why.items() if why}
        if method_values
        else {},
        "predictions": [
            {
                "says": result.prediction.sentence,
                "quantity": result.quantity.name,
                "part": result.prediction.part,
                "outcome": result.outcome,
                "why": result.why,
                "p": result.p_value,
                **{
                    side: asdict(found) if (found := getattr(result, side)) else None
                    for side in ("x", "y", "difference")
                },
            }
            for result in one.prediction_results
        ],
    }
