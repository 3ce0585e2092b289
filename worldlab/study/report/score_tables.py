"""The tables of a report that hold scores: aggregates, each environment, who is above whom, every comparison."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from worldlab.study.report.contests import OVERALL, Contest, Pair, shown_against
from worldlab.study.report.findings import AGGREGATES, Findings, reference_of, usable
from worldlab.study.report.formats import (
    NONE,
    SCALED,
    UNDEFINED,
    count,
    decimals,
    duration,
    ends,
    number,
    probability,
    span,
    words,
)
from worldlab.study.report.marks import Look
from worldlab.study.report.tables import LAST, Column, Entry, Table
from worldlab.study.results import Trial
from worldlab.study.statistics import Difference, Interval, Verdict

VERDICTS: dict[Verdict, str] = {
    "better": "better",
    "worse": "worse",
    "indistinguishable": "not shown",
    "too few seeds": "too few seeds",
}
ONE_RUN = "Where n is 1 there is no interval."
_ITSELF = Entry(NONE, sort=LAST, look="faint")


def estimate_cell(found: Interval, places: int, look: str = "") -> Entry:
    return Entry(number(found.estimate, places), ends(found.low, found.high, places), found.estimate, look=look)


def undefined_cell(why: str) -> Entry:
    return Entry(UNDEFINED, sort=LAST, note=why, look="faint")


def aggregate_table(findings: Findings, marks: dict[str, Look]) -> Table:
    """IQM, mean, median and optimality gap of normalised scores."""
    rows = []
    for method in findings.comparison.methods:
        runs = [len(usable(findings.comparison, method.key, env)) for env in findings.referenced]
        aggregates = findings.aggregates.get(method.key)
        if aggregates:
            cells = [estimate_cell(aggregates[name], SCALED) for name in AGGREGATES]
        else:
            absent = next(env for env, n in zip(findings.referenced, runs) if not n)
            cells = [undefined_cell(f"no trial finished on {absent}")] * len(AGGREGATES)
        n = Entry(" + ".join(map(str, runs)), sort=float(sum(runs)))
        rows.append((Entry(findings.labels[method.key], mark=marks[method.key]), n, *cells))
    titles = [f"{title} {'↓' if name == 'optimality_gap' else '↑'}" for name, (title, _) in AGGREGATES.items()]
    columns = (Column("Method", "text"), Column("n"), *map(Column, titles))
    kinds = {one.method for found in findings.aggregates.values() for one in found.values() if one.runs > 1}
    remarks = (
        f"n: runs on {', '.join(findings.referenced)}. ↑ higher is better, ↓ lower is better. 95% intervals, stratified by "
        f"environment{': ' if kinds else ''}{', '.join(sorted(kinds))}. {ONE_RUN}",
        "Percentile bootstrap intervals, as they are usually published but too narrow for few runs, are in summary.json.",
    )
    return Table("Normalised scores", columns, tuple(rows), remarks if findings.aggregates else ())


def references_table(findings: Findings) -> Table:
    """What counts as 0 and as 1."""
    found, rows = findings.comparison, []
    for env in found.envs:
        if one := reference_of(found, env):
            places = decimals([one.zero, one.one])
            values = [Entry(number(value, places), sort=value) for value in (one.zero, one.one)]
            rows.append((Entry(env), *values, Entry(words(one.why, "not said"), look="wrap")))
        else:
            why = Entry("no reference: left out of normalised scores", look="wrap")
            rows.append((Entry(env), Entry("none", sort=LAST), Entry("none", sort=LAST), why))
    columns = (
        Column("Environment", "text"),
        Column("Return that is 0"),
        Column("Return that is 1"),
        Column("Why", "text"),
    )
    return Table("References", columns, tuple(rows))


_COSTS: dict[str, tuple[str, Callable[[float], str]]] = {
    "Env steps": ("env_steps", count),
    "Updates": ("updates", count),
    "Wall time": ("wall_seconds", duration),
    "Parameters": ("parameters", count),
}


def env_table(findings: Findings, env: str, marks: dict[str, Look]) -> Table:
    """One environment: mean returns, the differences to the first method and to random actions, and what was spent."""
    found = findings.comparison
    targets = shown_against(found.methods)
    places = decimals(
        [findings.returns[m.key, env].estimate for m in found.methods if (m.key, env) in findings.returns]
    )
    rows = []
    some_failed = any(findings.failures[at].estimate for at in findings.failures if at[1] == env)
    for method in found.methods:
        trials = [trial for trial in found.of(method.key, env) if trial.status == "finished"]
        n = len(usable(found, method.key, env))
        counted = Entry(f"{n} of {len(found.seeds)}" if n < len(found.seeds) else str(n), sort=float(n))
        mean = findings.returns.get((method.key, env))
        shown = estimate_cell(mean, places) if mean else undefined_cell("no trial finished")
        differences = [_against(findings, env, method.key, target, places) for target in targets]
        spent = [_spent(trials, field, show) for field, show in _COSTS.values()]
        failed = [_failed(findings, method.key, env)] if some_failed else []
        name = Entry(findings.labels[method.key], mark=marks[method.key])
        rows.append((name, counted, *failed, shown, *differences, *spent))
    columns = [Column("Method", "text"), Column("n")]
    columns += [Column("Failed ↓")] if some_failed else []
    columns += [Column("Mean return ↑")]
    columns += [Column(f"Against {findings.labels[target]}") for target in targets]
    remark = (
        "Means over n seeds of the final evaluation's mean return, with 95% intervals. Better and worse stand where the difference "
        "is real for all models (or all baselines) of the column together. What was spent is per seed. " + ONE_RUN
    )
    if some_failed:
        remark += " Failed: share of the runs that ended without a score, with Wilson's 95% interval."
    return Table(f"Returns on {env}", (*columns, *map(Column, _COSTS)), tuple(rows), (remark,))


def _failed(findings: Findings, method: str, env: str) -> Entry:
    one = findings.failures.get((method, env))
    if one is None:
        return undefined_cell("no run has ended")
    percent = [100 * value for value in (one.estimate, one.low, one.high)]
    return Entry(f"{number(percent[0], 0)}%", ends(percent[1], percent[2], 0), one.estimate)


def _spent(trials: Sequence[Trial], field: str, show: Callable[[float], str]) -> Entry:
    values = [float(getattr(trial, field)) for trial in trials]
    return Entry(span(values, show), sort=max(values)) if values else undefined_cell("no trial finished")


def _against(findings: Findings, env: str, x: str, y: str, places: int) -> Entry:
    if x == y:
        return _ITSELF
    pair = findings.against(env, x, y)
    if pair is None:
        return undefined_cell("one of the two has no finished trial")
    look = "real" if pair.difference.verdict in ("better", "worse") else "faint"
    return _difference(pair.difference, places, VERDICTS[pair.difference.verdict], look)


def _difference(one: Difference, places: int, after: str = "", look: str = "") -> Entry:
    size = one.estimate.estimate
    below = f"{ends(one.estimate.low, one.estimate.high, places)} {after}".strip()
    return Entry(f"{'+' if size > 0 else ''}{number(size, places)}", below, size, look=look)


def improvement_table(findings: Findings, marks: dict[str, Look]) -> Table:
    """P(row > column) for all pairs."""
    methods = findings.comparison.methods
    rows = [
        (Entry(findings.labels[x.key], mark=marks[x.key]), *(_improvement(findings, x.key, y.key) for y in methods))
        for x in methods
    ]
    columns = (Column("Method", "text"), *(Column(findings.labels[method.key]) for method in methods))
    runs = span({one.runs for one in findings.improvement.values()})
    remark = f"n = {runs} runs a method and environment, averaged over environments; 95% intervals (Newcombe's score)."
    return Table("Probability that a run of the row beats one of the column", columns, tuple(rows), (remark,))


def _improvement(findings: Findings, x: str, y: str) -> Entry:
    if x == y:
        return _ITSELF
    found = findings.improvement.get((x, y))
    if found is None:
        return undefined_cell("no environment on which both finished")
    comparison = findings.comparison
    shared = [env for env in comparison.envs if len(usable(comparison, x, env)) and len(usable(comparison, y, env))]
    note = "" if len(shared) == len(comparison.envs) else f"over {', '.join(shared)} only, where both finished"
    cell = estimate_cell(found, SCALED, f"p{min(5, max(0, round(10 * (found.estimate - 0.5))))}")
    return replace(cell, note=note)


def comparisons_table(findings: Findings) -> Table:
    """Every comparison that the result rests on."""
    baselines = [method.key for method in findings.comparison.methods if method.kind == "baseline"]
    rows = []
    for scope in findings.scopes:
        asked = [findings.rivals(scope), *(findings.contest(scope, key, "model") for key in baselines)]
        rows += [_comparison(findings, one, pair) for one in asked if one for pair in one.pairs]
    titles = ("X minus Y", "P(X > Y)", "n", "p", "Corrected for")
    columns = (Column("X", "text"), Column("Y", "text"), Column("Where", "text"), *map(Column, titles))
    remark = (
        "X minus Y: of normalised scores where it is over several environments, else of mean returns; 95% intervals (Welch). p: "
        "permutation test, corrected by Holm's method for so many comparisons."
    )
    return Table("All comparisons", (*columns, Column("Verdict", "text")), tuple(rows), (remark,))


def _comparison(findings: Findings, contest: Contest, pair: Pair) -> tuple[Entry, ...]:
    one, places = pair.difference, findings.places(contest.scope)
    over = f"{len(findings.referenced)} environments"
    return (
        Entry(findings.labels[pair.x]),
        Entry(findings.labels[pair.y]),
        Entry(over if contest.scope == OVERALL else contest.scope),
        _difference(one, places),
        estimate_cell(one.improvement, SCALED),
        Entry(str(one.estimate.runs), sort=float(one.estimate.runs)),
        Entry(probability(one.p_value), sort=one.p_value),
        Entry(str(len(contest.pairs)), sort=float(len(contest.pairs))),
        Entry(VERDICTS[one.verdict], note=one.reason if one.verdict == "too few seeds" else ""),
    )
