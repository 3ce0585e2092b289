"""Makes the tables of a report that hold no scores: measures, failures, methods and budgets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from worldlab.study.report.findings import Findings, MeasureSummary
from worldlab.study.report.formats import clean_text, decimals_for, format_bounds, format_number, join_words
from worldlab.study.report.method_styles import MethodStyle
from worldlab.study.report.score_tables import undefined_cell
from worldlab.study.report.tables import SORT_LAST, Column, Entry, Table
from worldlab.study.results import Comparison, Quantity

_ARROWS = {"higher": " ↑", "lower": " ↓", None: ""}


def measure_table(findings: Findings, env: str) -> Table:
    """Make the table of measures of one environment, with a row per quantity and a column per method.

    Methods for which no measure is defined get a remark instead of a column.
    """
    found, labels = findings.comparison, findings.labels
    finished = {m.key: sum(t.status == "finished" for t in found.of(m.key, env)) for m in found.methods}
    cells = {(q.name, key): findings.measures[env, q.name, key] for q in found.quantities for key in finished}
    shown = [key for key in finished if any(cells[q.name, key].interval for q in found.quantities)] or list(finished)
    rows = []
    undefined: dict[str, list[str]] = {}
    for quantity in found.quantities:
        row = [cells[quantity.name, key] for key in shown]
        if not any(one.interval for one in row) and any(cells[q.name, shown[0]].interval for q in found.quantities):
            why = "; ".join(dict.fromkeys(reason for one in row for reason in one.why))
            undefined.setdefault(why, []).append(clean_text(quantity.title, quantity.name))
            continue
        known = [one.interval for one in row if one.interval]
        places = decimals_for([value for one in known for value in (one.estimate, one.low, one.high)])
        rows.append(
            (
                Entry(quantity_title(quantity)),
                *(_measure_cell(one, places, finished[key]) for key, one in zip(shown, row)),
            )
        )
    columns = (Column("Measure", "text"), *(Column(f"{labels[key]}, n = {finished[key]}") for key in shown))
    remarks = [
        "Means over seeds with 95% intervals; ↑ higher is better, ↓ lower is better, no arrow: neither. "
        "With n = 1 there is no interval, and ± is the standard error within the run."
    ]
    remarks += [f"Undefined for all, because {why}: {join_words(titles)}." for why, titles in undefined.items()]
    undefined_by_reason: dict[str, list[str]] = {}
    for key in (key for key in finished if key not in shown):
        why = "; ".join(dict.fromkeys(reason for q in found.quantities for reason in cells[q.name, key].why))
        undefined_by_reason.setdefault(why, []).append(labels[key])
    remarks += [f"{join_words(names)}: all undefined ({why})." for why, names in undefined_by_reason.items()]
    return Table(f"Measures on {env}", columns, tuple(rows), tuple(remarks))


def quantity_title(quantity: Quantity) -> str:
    unit = f" [{quantity.unit}]" if clean_text(quantity.unit, "") else ""
    return f"{clean_text(quantity.title, quantity.name)}{unit}{_ARROWS[quantity.better]}"


def _measure_cell(one: MeasureSummary, places: int, finished: int) -> Entry:
    """Make the cell of one measure.

    An undefined value has its reason as a footnote. A mean over some of the seeds shows their number, with the reasons
    of the undefined ones as a footnote. A single run shows ± its standard error.
    """
    if one.interval is None:
        return undefined_cell("; ".join(one.why))
    known = one.interval
    text, below = format_number(known.estimate, places), format_bounds(known.low, known.high, places)
    if one.error is not None:
        below = f"± {format_number(one.error, places)}"
    if not one.missing:
        return Entry(text, below, known.estimate)
    why = f"undefined for {one.missing} of {finished} seeds: {'; '.join(one.why)}"
    return Entry(text, f"{below}, n = {known.runs}".lstrip(", "), known.estimate, why)


def failures_table(findings: Findings) -> Table | None:
    """Make the table of all trials without a result, with their causes; None if there are none."""
    comparison, labels = findings.comparison, findings.labels
    planned = {(m.key, env, seed) for m in comparison.methods for env in comparison.envs for seed in comparison.seeds}
    recorded = {(trial.method, trial.env, trial.seed): trial for trial in comparison.trials}
    order = [(m.key, env, seed) for m in comparison.methods for env in comparison.envs for seed in comparison.seeds]
    order += [key for key in recorded if key not in planned]
    rows = []
    for key in order:
        trial = recorded.get(key)
        if trial and trial.status == "finished" and math.isfinite(trial.score):
            continue
        status = trial.status if trial else "missing"
        cause = clean_text(trial.cause if trial else "", "no cause was recorded")
        if trial and status == "finished":
            status, cause = "no score", "it finished, but its mean return is not finite"
        method, env, seed = key
        cells = (
            Entry(labels.get(method) or clean_text(method, "unnamed")),
            Entry(env),
            Entry(str(seed), sort=float(seed)),
            Entry(status),
        )
        rows.append((*cells, Entry(cause, css_class="wrap"), Entry(clean_text(trial.folder if trial else "", "none"))))
    columns = (Column("Method", "text"), Column("Environment", "text"), Column("Seed"), Column("Status", "text"))
    columns += (Column("Cause", "text"), Column("Folder", "text"))
    return Table("Trials without a result", columns, tuple(rows)) if rows else None


def methods_table(findings: Findings, styles: dict[str, MethodStyle]) -> Table:
    """Make the table of each method's parts."""
    roles = ("encoder", "dynamics", "decoder", "agent")
    rows = []
    for method in findings.comparison.methods:
        parts = [Entry(clean_text(getattr(method, role), "none")) for role in roles]
        rows.append((Entry(findings.labels[method.key], style=styles[method.key]), Entry(method.kind), *parts))
    titles = ("Method", "Kind", "Encoder", "Dynamics", "Decoder", "Agent")
    return Table("Methods", tuple(Column(title, "text") for title in titles), tuple(rows))


def budget_sentence(comparison: Comparison, env: str) -> str:
    """Return one sentence with the budget of every model on an environment; "" if no budget is recorded."""
    amounts = [
        f"{name.replace('_', ' ')} {_format_amount(float(value))}"
        for name, value in comparison.budgets.get(env, {}).items()
    ]
    return f"Budget of every model: {', '.join(amounts)}." if amounts else ""


def budget_table(comparison: Comparison) -> Table:
    """Make the table of budgets per environment, with a remark on the baselines' budgets."""
    names = list(dict.fromkeys(name for env in comparison.envs for name in comparison.budgets.get(env, {})))
    rows = []
    for env in comparison.envs:
        budget = comparison.budgets.get(env, {})
        cells = [
            Entry(_format_amount(float(budget[name])), sort=float(budget[name]))
            if name in budget
            else Entry("no limit", sort=SORT_LAST)
            for name in names
        ]
        rows.append((Entry(env), *cells))
    columns = (Column("Environment", "text"), *(Column(name.replace("_", " ")) for name in names))
    baselines = any(method.kind == "baseline" for method in comparison.methods)
    remark = (
        "The model-free baseline has the same environment steps, minutes and evaluations, but the batches and updates of "
        "its own algorithm. Random actions do not learn. Parameter counts are not matched; each result shows its own."
    )
    return Table("Budgets, the same for every model", columns, tuple(rows), (remark,) if baselines else ())


def _format_amount(value: float) -> str:
    return format_number(value, 0) if value.is_integer() else f"{value:g}"


def run_facts(about: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (name, text) pairs that describe the run, the command first."""
    first = [key for key in ("command",) if key in about]
    return [
        (key.replace("_", " "), _one_line(about[key])) for key in [*first, *(key for key in about if key not in first)]
    ]


def _one_line(value: Any) -> str:
    """Format nested values on one line: "torch 2.13.0, numpy 2.2"."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_one_line(inner)}" for key, inner in value.items()) or "none"
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(map(_one_line, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None or value == "" else str(value)
