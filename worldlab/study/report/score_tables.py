"""Makes the tables of scores: aggregates, single environments, probabilities of improvement, comparisons."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from worldlab.study.report.comparisons import OVERALL, ComparisonFamily, Pair, table_targets
from worldlab.study.report.findings import AGGREGATES, Findings, finite_scores, valid_reference
from worldlab.study.report.formats import (
    NONE,
    SCALED,
    UNDEFINED,
    clean_text,
    decimals_for,
    format_bounds,
    format_count,
    format_duration,
    format_number,
    format_p,
    format_range,
)
from worldlab.study.report.method_styles import MethodStyle
from worldlab.study.report.tables import SORT_LAST, Column, Entry, Table
from worldlab.study.results import Trial
from worldlab.study.statistics import Difference, Interval, Verdict

VERDICTS: dict[Verdict, str] = {
    "better": "better",
    "worse": "worse",
    "indistinguishable": "not shown",
    "too few seeds": "too few seeds",
}
ONE_RUN = "With n = 1 there is no interval."
_SAME_METHOD = Entry(NONE, sort=SORT_LAST, css_class="faint")


def estimate_cell(found: Interval, places: int, css_class: str = "") -> Entry:
    return Entry(
        format_number(found.estimate, places),
        format_bounds(found.low, found.high, places),
        found.estimate,
        css_class=css_class,
    )


def undefined_cell(why: str) -> Entry:
    return Entry(UNDEFINED, sort=SORT_LAST, note=why, css_class="faint")


def aggregate_table(findings: Findings, styles: dict[str, MethodStyle]) -> Table:
    """Make the table of IQM, mean, median and optimality gap of normalised scores."""
    rows = []
    for method in findings.comparison.methods:
        runs = [len(finite_scores(findings.comparison, method.key, env)) for env in findings.referenced]
        aggregates = findings.aggregates.get(method.key)
        if aggregates:
            cells = [estimate_cell(aggregates[name], SCALED) for name in AGGREGATES]
        else:
            absent = next(env for env, n in zip(findings.referenced, runs) if not n)
            cells = [undefined_cell(f"no trial finished on {absent}")] * len(AGGREGATES)
        n = Entry(" + ".join(map(str, runs)), sort=float(sum(runs)))
        rows.append((Entry(findings.labels[method.key], style=styles[method.key]), n, *cells))
    titles = [f"{title} {'↓' if name == 'optimality_gap' else '↑'}" for name, (title, _) in AGGREGATES.items()]
    columns = (Column("Method", "text"), Column("n"), *map(Column, titles))
    kinds = {one.method for found in findings.aggregates.values() for one in found.values() if one.runs > 1}
    remarks = (
        f"n: runs on {', '.join(findings.referenced)}. ↑ higher is better, ↓ lower is better. 95% intervals, stratified "
        f"by environment{': ' if kinds else ''}{', '.join(sorted(kinds))}. {ONE_RUN}",
        "Optimality gap: by how much runs fall short of 1 on average. A run above 1 counts as 1, so runs above do not make "
        "up for runs below: a method whose mean is 1 still has a gap unless all its runs are equal.",
        "summary.json also has percentile bootstrap intervals, which most papers report but which are too narrow for few "
        "runs.",
    )
    return Table("Normalised scores", columns, tuple(rows), remarks if findings.aggregates else ())


def references_table(findings: Findings) -> Table:
    """Make the table of the returns that count as 0 and as 1."""
    found, rows = findings.comparison, []
    for env in found.envs:
        if one := valid_reference(found, env):
            places = decimals_for([one.zero, one.one])
            values = [Entry(format_number(value, places), sort=value) for value in (one.zero, one.one)]
            rows.append((Entry(env), *values, Entry(clean_text(one.why, "no reason given"), css_class="wrap")))
        else:
            why = Entry("no reference: not part of normalised scores", css_class="wrap")
            rows.append((Entry(env), Entry("none", sort=SORT_LAST), Entry("none", sort=SORT_LAST), why))
    columns = (
        Column("Environment", "text"),
        Column("Return that is 0"),
        Column("Return that is 1"),
        Column("Why", "text"),
    )
    return Table("References", columns, tuple(rows))


_COSTS: dict[str, tuple[str, Callable[[float], str]]] = {
    "Env steps": ("env_steps", format_count),
    "Updates": ("updates", format_count),
    "Wall time": ("wall_seconds", format_duration),
    "Parameters": ("parameters", format_count),
}


def env_table(findings: Findings, env: str, styles: dict[str, MethodStyle]) -> Table:
    """Make the table of one environment: mean returns, differences from the table's targets, and costs."""
    found = findings.comparison
    targets = table_targets(found.methods)
    places = decimals_for(
        [findings.returns[m.key, env].estimate for m in found.methods if (m.key, env) in findings.returns]
    )
    rows = []
    several = any(findings.returns[m.key, env].runs > 1 for m in found.methods if (m.key, env) in findings.returns)
    some_failed = any(findings.failures[at].estimate for at in findings.failures if at[1] == env)
    for method in found.methods:
        trials = [trial for trial in found.of(method.key, env) if trial.status == "finished"]
        n = len(finite_scores(found, method.key, env))
        counted = Entry(f"{n} of {len(found.seeds)}" if n < len(found.seeds) else str(n), sort=float(n))
        mean = findings.returns.get((method.key, env))
        shown = estimate_cell(mean, places) if mean else undefined_cell("no trial finished")
        spread = [_percentile_cell(findings, (method.key, env), places)] if several else []
        differences = [_difference_to(findings, env, method.key, target, places) for target in targets]
        spent = [_cost_cell(trials, field, show) for field, show in _COSTS.values()]
        failed = [_failure_cell(findings, method.key, env)] if some_failed else []
        name = Entry(findings.labels[method.key], style=styles[method.key])
        rows.append((name, counted, *failed, shown, *spread, *differences, *spent))
    columns = [Column("Method", "text"), Column("n")]
    columns += [Column("Failed ↓")] if some_failed else []
    columns += [Column("Mean return ↑"), *([Column("Percentiles")] if several else [])]
    columns += [Column(f"Against {findings.labels[target]}") for target in targets]
    remark = (
        "Mean return of the final evaluation, averaged over n seeds, with 95% intervals. Better and worse mark real "
        "differences, corrected for all models (or all baselines) of the column. Costs are per seed. " + ONE_RUN
    )
    if several:
        remark += (
            " Intervals are Student's t, within the returns that are possible where these are known. Percentiles: bootstrap "
            "interval of the same mean, which never leaves the range of the runs and is too narrow for few of them. No "
            "spread: all runs are equal."
        )
    if some_failed:
        remark += " Failed: share of runs that ended without a score, with Wilson's 95% interval."
    return Table(f"Returns on {env}", (*columns, *map(Column, _COSTS)), tuple(rows), (remark,))


def _percentile_cell(findings: Findings, at: tuple[str, str], places: int) -> Entry:
    found = findings.resampled.get(at)
    if found is None:
        return undefined_cell("no trial finished")
    return Entry(format_bounds(found.low, found.high, places) or NONE, sort=found.low if found.runs > 1 else SORT_LAST)


def _failure_cell(findings: Findings, method: str, env: str) -> Entry:
    one = findings.failures.get((method, env))
    if one is None:
        return undefined_cell("no run has ended")
    percent = [100 * value for value in (one.estimate, one.low, one.high)]
    return Entry(f"{format_number(percent[0], 0)}%", format_bounds(percent[1], percent[2], 0), one.estimate)


def _cost_cell(trials: Sequence[Trial], field: str, show: Callable[[float], str]) -> Entry:
    values = [float(getattr(trial, field)) for trial in trials]
    return Entry(format_range(values, show), sort=max(values)) if values else undefined_cell("no trial finished")


def _difference_to(findings: Findings, env: str, x: str, y: str, places: int) -> Entry:
    if x == y:
        return _SAME_METHOD
    pair = findings.pair(env, x, y)
    if pair is None:
        return undefined_cell("one of the two methods has no finished trial")
    css_class = "real" if pair.difference.verdict in ("better", "worse") else "faint"
    return _difference_cell(pair.difference, places, VERDICTS[pair.difference.verdict], css_class)


def _difference_cell(one: Difference, places: int, after: str = "", css_class: str = "") -> Entry:
    size = one.estimate.estimate
    below = f"{format_bounds(one.estimate.low, one.estimate.high, places)} {after}".strip()
    return Entry(f"{'+' if size > 0 else ''}{format_number(size, places)}", below, size, css_class=css_class)


def improvement_table(findings: Findings, styles: dict[str, MethodStyle]) -> Table:
    """Make the table of P(row > column) for all pairs of methods."""
    methods = findings.comparison.methods
    rows = [
        (
            Entry(findings.labels[x.key], style=styles[x.key]),
            *(_improvement_cell(findings, x.key, y.key) for y in methods),
        )
        for x in methods
    ]
    columns = (Column("Method", "text"), *(Column(findings.labels[method.key]) for method in methods))
    runs = format_range({one.runs for one in findings.improvement.values()})
    remark = (
        f"n = {runs} runs per method and environment, averaged over environments; 95% intervals (Newcombe's score)."
    )
    return Table(
        "Probability that a run of the row's method beats a run of the column's", columns, tuple(rows), (remark,)
    )


def _improvement_cell(findings: Findings, x: str, y: str) -> Entry:
    if x == y:
        return _SAME_METHOD
    found = findings.improvement.get((x, y))
    if found is None:
        return undefined_cell("no environment where both finished")
    comparison = findings.comparison
    shared = [
        env
        for env in comparison.envs
        if len(finite_scores(comparison, x, env)) and len(finite_scores(comparison, y, env))
    ]
    note = "" if len(shared) == len(comparison.envs) else f"over {', '.join(shared)} only, where both finished"
    cell = estimate_cell(found, SCALED, f"p{min(5, max(0, round(10 * (found.estimate - 0.5))))}")
    return replace(cell, note=note)


def comparisons_table(findings: Findings) -> Table:
    """Make the table of all comparisons that the result is based on."""
    baselines = [method.key for method in findings.comparison.methods if method.kind == "baseline"]
    rows = []
    for scope in findings.scopes:
        families = [findings.among_models(scope), *(findings.family(scope, key, "model") for key in baselines)]
        rows += [_comparison_row(findings, one, pair) for one in families if one for pair in one.pairs]
    titles = ("X minus Y", "P(X > Y)", "n", "p", "Corrected for")
    columns = (Column("X", "text"), Column("Y", "text"), Column("Where", "text"), *map(Column, titles))
    remark = (
        "X minus Y: difference of normalised scores over several environments, or of mean returns on one; 95% intervals "
        "(Welch). p: permutation test, corrected by Holm's method for the number of comparisons in the next column."
    )
    return Table("All comparisons", (*columns, Column("Verdict", "text")), tuple(rows), (remark,))


def _comparison_row(findings: Findings, family: ComparisonFamily, pair: Pair) -> tuple[Entry, ...]:
    one, places = pair.difference, findings.places(family.scope)
    over = f"{len(findings.referenced)} environments"
    return (
        Entry(findings.labels[pair.x]),
        Entry(findings.labels[pair.y]),
        Entry(over if family.scope == OVERALL else family.scope),
        _difference_cell(one, places),
        estimate_cell(one.improvement, SCALED),
        Entry(str(one.estimate.runs), sort=float(one.estimate.runs)),
        Entry(format_p(one.p_value), sort=one.p_value),
        Entry(str(len(family.pairs)), sort=float(len(family.pairs))),
        Entry(VERDICTS[one.verdict], note=one.reason if one.verdict == "too few seeds" else ""),
    )
