"""Makes the figures of a report from its findings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from worldlab.study.report import charts, svg
from worldlab.study.report.charts import Bar, Line
from worldlab.study.report.findings import AGGREGATES, Findings, finite_scores
from worldlab.study.report.formats import SCALED, decimals_for, format_interval, join_words
from worldlab.study.report.method_styles import MethodStyle
from worldlab.study.statistics import Band, Interval


@dataclass(frozen=True)
class Figure:
    """A drawing with its title. remark: the unit, the number of runs, and which direction is better."""

    title: str
    remark: str
    svg: Markup


def aggregates(findings: Findings, styles: dict[str, MethodStyle]) -> list[Figure]:
    """Draw IQM, mean, median and optimality gap, one figure each."""
    drawn = []
    for name, (title, _) in AGGREGATES.items():
        rows = [
            _bar(findings.labels[method.key], styles[method.key], findings.aggregates[method.key][name])
            for method in findings.comparison.methods
            if method.key in findings.aggregates
        ]
        better = "lower is better; a run above 1 counts as 1" if name == "optimality_gap" else "higher is better"
        picture = charts.bars(rows, _alt_text(f"{title} of normalised scores", rows), "normalised score", SCALED)
        drawn.append(Figure(title, f"{better}; {_run_counts(rows)}", picture))
    return drawn


def returns(findings: Findings, env: str, styles: dict[str, MethodStyle]) -> Figure | None:
    """Draw each method's mean return on one environment, with a dot per seed; None if there are no scores."""
    found = findings.comparison
    rows = [
        _bar(
            findings.labels[method.key],
            styles[method.key],
            findings.returns[method.key, env],
            finite_scores(found, method.key, env),
        )
        for method in found.methods
        if (method.key, env) in findings.returns
    ]
    if not rows:
        return None
    places = decimals_for([row.value for row in rows])
    picture = charts.bars(rows, _alt_text(f"Mean return on {env}", rows), "mean return", places)
    return Figure("Mean return", f"dots: seeds; lines: 95% intervals; {_run_counts(rows)}", picture)


def profiles(findings: Findings, styles: dict[str, MethodStyle]) -> Figure:
    """Draw performance profiles: the share of runs above each normalised score."""
    series = [
        _line(findings.labels[m.key], styles[m.key], band)
        for m in findings.comparison.methods
        if (band := findings.profiles.get(m.key))
    ]
    label = f"Share of runs above each normalised score, for {join_words(one.label for one in series)}"
    picture = charts.lines(series, label, "normalised score", "share of runs above it", ranked=True)
    return Figure("Runs above a score", _run_counts(series), picture)


def curves(findings: Findings, env: str, styles: dict[str, MethodStyle]) -> Figure | None:
    """Draw learning curves. A method that does not train is a horizontal line. None if there are no curves."""
    known = [(m, findings.curves[m.key, env]) for m in findings.comparison.methods if (m.key, env) in findings.curves]
    if not known:
        return None
    ends = [step for _, band in known for step in (band.grid[0], band.grid[-1])]
    series = []
    for method, band in known:
        level = len(band.grid) == 1 and not any(trial.updates for trial in findings.comparison.of(method.key, env))
        series.append(
            _line(findings.labels[method.key], styles[method.key], band, (min(ends), max(ends)) if level else None)
        )
    label = f"Mean return on {env} over environment steps, for {join_words(one.label for one in series)}"
    drawn = charts.lines(series, label, "environment steps", "mean return")
    return Figure("Learning curves", f"95% bands; {_run_counts(series)}", drawn)


def legend_key(style: MethodStyle) -> Markup:
    """Draw the small line and marker beside a method's name."""
    drawn = [svg.path([(1.0, 6.0), (29.0, 6.0)], "line", style.dash)]
    drawn.append(svg.marker(style.marker, 15.0, 6.0, "hollow" if style.hollow else "mark", 3.6))
    return svg.element("svg", *drawn, class_=f"key {style.colour}", viewBox="0 0 30 12", aria_hidden="true")


def _bar(label: str, style: MethodStyle, found: Interval, points=()) -> Bar:
    return Bar(label, style, found.estimate, found.low, found.high, found.runs, tuple(float(point) for point in points))


def _line(label: str, style: MethodStyle, band: Band, level: tuple[float, float] | None = None) -> Line:
    x, y, low, high = ([float(v) for v in side] for side in (band.grid, band.estimate, band.low, band.high))
    if level:
        return Line(label, style, level, y[:1] * 2, low[:1] * 2, high[:1] * 2, band.runs, bare=True)
    return Line(label, style, x, y, low, high, band.runs)


def _run_counts(rows: Sequence[Bar] | Sequence[Line]) -> str:
    return f"n = {max(row.n for row in rows)}{', or as labelled' if len({row.n for row in rows}) > 1 else ''}"


def _alt_text(title: str, rows: list[Bar]) -> str:
    """Return the alternative text of a bar chart: every value with its interval and n."""
    return f"{title}: " + "; ".join(
        f"{row.label} {format_interval(row.value, row.low, row.high)}, n = {row.n}" for row in rows
    )
