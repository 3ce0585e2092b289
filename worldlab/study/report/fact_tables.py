"""The other tables of a report: measures, what failed, what was compared, and what each trial was given."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from worldlab.study.report.findings import Findings, Measured
from worldlab.study.report.formats import decimals, ends, listed, number, words
from worldlab.study.report.marks import Look
from worldlab.study.report.score_tables import undefined_cell
from worldlab.study.report.tables import LAST, Column, Entry, Table
from worldlab.study.results import Comparison, Quantity

_ARROWS = {"higher": " ↑", "lower": " ↓", None: ""}


def measure_table(findings: Findings, env: str) -> Table:
    """The measures of one environment: a quantity a row, a method a column. Methods for which none is defined are a remark."""
    found, labels = findings.comparison, findings.labels
    finished = {m.key: sum(t.status == "finished" for t in found.of(m.key, env)) for m in found.methods}
    cells = {(q.name, key): findings.measures[env, q.name, key] for q in found.quantities for key in finished}
    shown = [key for key in finished if any(cells[q.name, key].interval for q in found.quantities)] or list(finished)
    rows = []
    for quantity in found.quantities:
        row = [cells[quantity.name, key] for key in shown]
        known = [one.interval for one in row if one.interval]
        places = decimals([value for one in known for value in (one.estimate, one.low, one.high)])
        rows.append((Entry(titled(quantity)), *(_measured(one, places, finished[key]) for key, one in zip(shown, row))))
    columns = (Column("Measure", "text"), *(Column(f"{labels[key]}, n = {finished[key]}") for key in shown))
    remarks = [
        "Means over seeds with 95% intervals; ↑ higher is better, ↓ lower is better, neither where no arrow stands. "
        "Where n is 1 there is no interval, and ± is the standard error within the run."
    ]
    silent: dict[str, list[str]] = {}
    for key in (key for key in finished if key not in shown):
        why = "; ".join(dict.fromkeys(reason for q in found.quantities for reason in cells[q.name, key].why))
        silent.setdefault(why, []).append(labels[key])
    remarks += [f"{listed(names)}: all undefined ({why})." for why, names in silent.items()]
    return Table(f"Measures on {env}", columns, tuple(rows), tuple(remarks))


def titled(quantity: Quantity) -> str:
    unit = f" [{quantity.unit}]" if words(quantity.unit, "") else ""
    return f"{words(quantity.title, quantity.name)}{unit}{_ARROWS[quantity.better]}"


def _measured(one: Measured, places: int, finished: int) -> Entry:
    """Undefined has its reason; a mean over some of the seeds says over how many, and why not over all.

    After one run's ± stands the standard error within it.
    """
    if one.interval is None:
        return undefined_cell("; ".join(one.why))
    known = one.interval
    text, below = number(known.estimate, places), ends(known.low, known.high, places)
    if one.error is not None:
        below = f"± {number(one.error, places)}"
    if not one.missing:
        return Entry(text, below, known.estimate)
    why = f"undefined for {one.missing} of {finished} seeds: {'; '.join(one.why)}"
    return Entry(text, f"{below}, n = {known.runs}".lstrip(", "), known.estimate, why)


def trouble_table(findings: Findings) -> Table | None:
    """Every trial without a result, and why; None if there is none."""
    comparison, labels = findings.comparison, findings.labels
    asked = {(m.key, env, seed) for m in comparison.methods for env in comparison.envs for seed in comparison.seeds}
    there = {(trial.method, trial.env, trial.seed): trial for trial in comparison.trials}
    order = [(m.key, env, seed) for m in comparison.methods for env in comparison.envs for seed in comparison.seeds]
    order += [key for key in there if key not in asked]
    rows = []
    for key in order:
        trial = there.get(key)
        if trial and trial.status == "finished" and math.isfinite(trial.score):
            continue
        status = trial.status if trial else "missing"
        cause = words(trial.cause if trial else "", "no cause was recorded")
        if trial and status == "finished":
            status, cause = "no score", "it finished, but its mean return is no number"
        method, env, seed = key
        cells = (
            Entry(labels.get(method) or words(method, "unnamed")),
            Entry(env),
            Entry(str(seed), sort=float(seed)),
            Entry(status),
        )
        rows.append((*cells, Entry(cause, look="wrap"), Entry(words(trial.folder if trial else "", "none"))))
    columns = (Column("Method", "text"), Column("Environment", "text"), Column("Seed"), Column("Status", "text"))
    columns += (Column("Cause", "text"), Column("Folder", "text"))
    return Table("Trials without a result", columns, tuple(rows)) if rows else None


def methods_table(findings: Findings, marks: dict[str, Look]) -> Table:
    """What each method is made of."""
    roles = ("encoder", "dynamics", "decoder", "agent")
    rows = []
    for method in findings.comparison.methods:
        parts = [Entry(words(getattr(method, role), "none")) for role in roles]
        rows.append((Entry(findings.labels[method.key], mark=marks[method.key]), Entry(method.kind), *parts))
    titles = ("Method", "Kind", "Encoder", "Dynamics", "Decoder", "Agent")
    return Table("Methods", tuple(Column(title, "text") for title in titles), tuple(rows))


def budget(comparison: Comparison, env: str) -> str:
    """What every model was given on an environment, as a sentence; "" if nothing is known."""
    given = [
        f"{name.replace('_', ' ')} {_amount(float(value))}" for name, value in comparison.budgets.get(env, {}).items()
    ]
    return f"Given to every model: {', '.join(given)}." if given else ""


def budget_table(comparison: Comparison) -> Table:
    """What every model was given, and what of it baselines are given too."""
    names = list(dict.fromkeys(name for env in comparison.envs for name in comparison.budgets.get(env, {})))
    rows = []
    for env in comparison.envs:
        budget = comparison.budgets.get(env, {})
        cells = [
            Entry(_amount(float(budget[name])), sort=float(budget[name]))
            if name in budget
            else Entry("no limit", sort=LAST)
            for name in names
        ]
        rows.append((Entry(env), *cells))
    columns = (Column("Environment", "text"), *(Column(name.replace("_", " ")) for name in names))
    baselines = any(method.kind == "baseline" for method in comparison.methods)
    remark = (
        "The model-free baseline has the same environment steps, minutes and evaluations, and the batches and updates of its own "
        "algorithm; random actions learn nothing. Parameters are not made equal: they stand beside each result."
    )
    return Table("Budgets, the same for every model", columns, tuple(rows), (remark,) if baselines else ())


def _amount(value: float) -> str:
    return number(value, 0) if value.is_integer() else f"{value:g}"


def facts(about: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was run, as names and texts: the command first, the rest as it came."""
    first = [key for key in ("command",) if key in about]
    return [(key.replace("_", " "), _flat(about[key])) for key in [*first, *(key for key in about if key not in first)]]


def _flat(value: Any) -> str:
    """Nested values on one line: "torch 2.13.0, numpy 2.2"."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_flat(inner)}" for key, inner in value.items()) or "none"
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(map(_flat, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None or value == "" else str(value)
