"""What a round-up found, written once: roundup.html, roundup.md, roundup.json, and verdicts.svg, the picture of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from markupsafe import Markup

from worldlab.runs.storage import atomic_write_json, atomic_write_text, make_folder
from worldlab.study.report import charts, fact_tables, svg
from worldlab.study.report.figures import Figure
from worldlab.study.report.formats import decimals, ends, number, probability, words
from worldlab.study.report.html import render
from worldlab.study.report.marks import marks
from worldlab.study.report.records import plain
from worldlab.study.report.tables import Column, Entry, Table, markdown
from worldlab.study.results import Comparison, Method
from worldlab.study.roundup.answers import Answer, Judged, tally
from worldlab.study.roundup.questions import Questions
from worldlab.study.roundup.readings import known
from worldlab.study.statistics import Interval

SIGNS = {"CONFIRMED": "✓", "REFUTED": "✗", "INCONCLUSIVE": "?"}
_LOOKS = {"CONFIRMED": "real", "REFUTED": "real", "INCONCLUSIVE": ""}


def publish(
    questions: Questions, judged: Sequence[Judged], parts: Mapping[str, Comparison], folder: Path
) -> dict[str, Path]:
    """Write the files; return their paths by name. Each is replaced whole. Raises: StorageError."""
    shown = [_shown(one, parts) for one in judged]
    budgets = [_budget(name, comparison) for name, comparison in parts.items()]
    texts = {
        "roundup.html": render(
            "roundup.html.jinja",
            title=questions.title,
            tally=tally(judged),
            summary=summary_table(judged),
            claims=shown,
            parts=[_part(questions, name, comparison) for name, comparison in parts.items()],
        ),
        "roundup.md": markdown(
            [summary_table(judged), *(one["predictions"] for one in shown), *budgets], questions.title
        ),
        "verdicts.svg": str(picture(judged)),
    }
    paths = {name: make_folder(folder) / name for name in [*texts, "roundup.json"]}
    for name, text in texts.items():
        atomic_write_text(paths[name], text)
    atomic_write_json(paths["roundup.json"], plain(record(questions, judged, parts)))
    return paths


def summary_table(judged: Sequence[Judged]) -> Table:
    """A claim a row: what is said, what decides it, the verdict."""
    rows = [
        (
            Entry(str(one.claim.number), sort=float(one.claim.number)),
            Entry(one.claim.claim, look="wrap"),
            Entry(_metric(one), look="wrap"),
            Entry(f"{SIGNS[one.verdict]} {one.verdict}", look=_LOOKS[one.verdict]),
            Entry(one.why, look="wrap"),
        )
        for one in judged
    ]
    columns = (Column("#", "text"), Column("Claim", "text"), Column("Measured by", "text"), Column("Verdict", "text"))
    return Table(
        "Verdicts",
        (*columns, Column("Because", "text")),
        tuple(rows),
        (
            "Confirmed: all predictions hold. Refuted: the opposite of one is shown. Inconclusive: neither is shown, which does not "
            "mean that the claim is wrong.",
        ),
    )


def _metric(one: Judged) -> str:
    quantity = known(one.claim.quantity)
    return f"{quantity.title}{f' [{quantity.unit}]' if quantity.unit else ''}"


def predictions_table(one: Judged) -> Table:
    """A prediction a row, with what it rests on."""
    rows = []
    for answer in one.answers:
        places = decimals([side.estimate for side in (answer.x, answer.y) if side])
        rows.append(
            (
                Entry(answer.prediction.sentence, look="wrap"),
                Entry(answer.quantity.title, look="wrap"),
                _value(answer.x, places),
                _value(answer.y, places)
                if isinstance(answer.prediction.y, str)
                else Entry(number(answer.prediction.y)),
                Entry(answer.outcome, look="real" if answer.outcome in ("holds", "fails") else ""),
                Entry(_because(answer), look="wrap"),
            )
        )
    columns = (Column("Prediction", "text"), Column("Quantity", "text"), Column("x"), Column("y"))
    return Table(
        f"{one.claim.number}. {one.claim.claim}: {one.verdict}",
        (*columns, Column("Outcome", "text"), Column("Because", "text")),
        tuple(rows),
        tuple(
            f"{head}: {text}." for head, text in (("Beware", one.claim.trap), ("Amended", one.claim.amended)) if text
        ),
    )


def _value(side: Interval | None, places: int) -> Entry:
    if side is None:
        return Entry("undefined")
    return Entry(
        number(side.estimate, places), f"{ends(side.low, side.high, places)} n = {side.runs}".strip(), side.estimate
    )


def _because(answer: Answer) -> str:
    p = (
        f"; p = {probability(answer.p_value)} after Holm"
        if answer.p_value is not None and answer.outcome != "undefined"
        else ""
    )
    return f"{answer.why}{p}"


def _shown(one: Judged, parts: Mapping[str, Comparison]) -> dict[str, Any]:
    """A claim as the page shows it."""
    silent = []
    if one.readings:
        silent = [
            f"{label}: {why or 'no value'}"
            for label, why in one.readings.why.items()
            if not len(one.readings.values[label])
        ]
    return {
        "judged": one,
        "sign": SIGNS[one.verdict],
        "look": _LOOKS[one.verdict],
        "predictions": predictions_table(one),
        "figure": figure(one, parts[one.claim.part].methods) if one.readings else None,
        "silent": silent,
    }


def figure(one: Judged, methods: Sequence[Method]) -> Figure | None:
    """The claim's quantity for every method that has it."""
    readings = one.readings
    assert readings is not None
    looks, rows = marks(methods), []
    for method in methods:
        found = readings.interval(method.label)
        if found is not None:
            points = tuple(float(value) for value in readings.values[method.label])
            rows.append(
                charts.Bar(method.label, looks[method.key], found.estimate, found.low, found.high, found.runs, points)
            )
    if not rows:
        return None
    places = decimals([row.value for row in rows])
    said = f"{_metric(one)}: " + "; ".join(f"{row.label} {number(row.value, places)}" for row in rows)
    most = max(row.n for row in rows)
    return Figure(_metric(one), f"mean and 95% interval, n = {most}", charts.bars(rows, said, _metric(one), places))


def picture(judged: Sequence[Judged]) -> Markup:
    """The verdicts as a drawing that stands by itself, in light and in dark."""
    row, width = 22.0, 860.0
    style = svg.element(
        "style",
        Markup(
            "text{font:13px system-ui,sans-serif;fill:#1b1d21}.soft{fill:#585d66}.yes{fill:#0072b2}.no{fill:#d55e00}"
            "@media(prefers-color-scheme:dark){text{fill:#e9e9e6}.soft{fill:#a5abb4}.yes{fill:#7cc8f4}.no{fill:#ec7224}}"
        ),
    )
    drawn = [style]
    for at, one in enumerate(judged):
        y = row * at + 16
        tone = {"CONFIRMED": "yes", "REFUTED": "no", "INCONCLUSIVE": "soft"}[one.verdict]
        drawn += [
            svg.text(24.0, y, str(one.claim.number), "end", "soft"),
            svg.text(36.0, y, svg.shortened(one.claim.claim, 600.0)),
            svg.text(width, y, f"{SIGNS[one.verdict]} {one.verdict.lower()}", "end", tone),
        ]
    said = "; ".join(f"{one.claim.number} {one.claim.claim}: {one.verdict.lower()}" for one in judged)
    drawing = svg.picture(width, row * len(judged) + 8, said, *drawn)
    return Markup(str(drawing).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


def _part(questions: Questions, name: str, comparison: Comparison) -> dict[str, Any]:
    finished = sum(trial.status == "finished" for trial in comparison.trials)
    seconds = sum(trial.wall_seconds for trial in comparison.trials)
    return {
        "name": name,
        "about": questions.part(name).about,
        "budget": _budget(name, comparison),
        "facts": fact_tables.facts(comparison.about),
        "finished": f"{finished} of {len(comparison.trials)} runs finished, {seconds / 3600:.1f} hours of training",
    }


def _budget(name: str, comparison: Comparison) -> Table:
    table = fact_tables.budget_table(comparison)
    return Table(f"Part {name}: the budget of every model", table.columns, table.rows)


def record(questions: Questions, judged: Sequence[Judged], parts: Mapping[str, Comparison]) -> dict[str, Any]:
    """All of it as plain data."""
    return {
        "title": questions.title,
        "tally": tally(judged),
        "claims": [_claim_record(one) for one in judged],
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


def _claim_record(one: Judged) -> dict[str, Any]:
    claim, readings = one.claim, one.readings
    return {
        **{key: getattr(claim, key) for key in ("number", "claim", "said", "part", "quantity", "trap", "amended")},
        "columns": list(claim.columns),
        "verdict": one.verdict,
        "why": one.why,
        "unit": readings.quantity.unit if readings else "",
        "estimator": readings.quantity.estimator if readings else "",
        "values": {label: values.tolist() for label, values in readings.values.items()} if readings else {},
        "undefined": {label: words(why, "") for label, why in readings.why.items() if why} if readings else {},
        "predictions": [
            {
                "says": answer.prediction.sentence,
                "quantity": answer.quantity.name,
                "part": answer.prediction.part,
                "outcome": answer.outcome,
                "why": answer.why,
                "p": answer.p_value,
                **{
                    side: asdict(found) if (found := getattr(answer, side)) else None
                    for side in ("x", "y", "difference")
                },
            }
            for answer in one.answers
        ],
    }
