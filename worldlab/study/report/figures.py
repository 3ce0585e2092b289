"""The figures of a report, from its findings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from worldlab.study.report import charts, svg
from worldlab.study.report.charts import Bar, Line
from worldlab.study.report.findings import AGGREGATES, Findings, usable
from worldlab.study.report.formats import SCALED, decimals, interval, listed
from worldlab.study.report.marks import Look
from worldlab.study.statistics import Band, Interval


@dataclass(frozen=True)
class Figure:
    """title: what is drawn; remark: its unit and which way is better."""

    title: str
    remark: str
    svg: Markup


def aggregates(findings: Findings, marks: dict[str, Look]) -> list[Figure]:
    """IQM, mean, median and optimality gap, a figure each."""
    drawn = []
    for name, (title, _) in AGGREGATES.items():
        rows = [
            _bar(findings.labels[method.key], marks[method.key], findings.aggregates[method.key][name])
            for method in findings.comparison.methods
            if method.key in findings.aggregates
        ]
        better = "lower is better" if name == "optimality_gap" else "higher is better"
        picture = charts.bars(rows, _said(f"{title} of normalised scores", rows), "normalised score", SCALED)
        drawn.append(Figure(title, f"{better}; {_runs(rows)}", picture))
    return drawn


def returns(findings: Findings, env: str, marks: dict[str, Look]) -> Figure | None:
    """Each method's seeds and their mean on one environment."""
    found = findings.comparison
    rows = [
        _bar(
            findings.labels[method.key],
            marks[method.key],
            findings.returns[method.key, env],
            usable(found, method.key, env),
        )
        for method in found.methods
        if (method.key, env) in findings.returns
    ]
    if not rows:
        return None
    places = decimals([row.value for row in rows])
    picture = charts.bars(rows, _said(f"Mean return on {env}", rows), "mean return", places)
    return Figure("Mean return", f"dots are seeds, lines 95% intervals; {_runs(rows)}", picture)


def profiles(findings: Findings, marks: dict[str, Look]) -> Figure:
    """The share of runs above each normalised score."""
    series = [
        _line(findings.labels[m.key], marks[m.key], band)
        for m in findings.comparison.methods
        if (band := findings.profiles.get(m.key))
    ]
    label = f"Share of runs above each normalised score, for {listed(one.label for one in series)}"
    picture = charts.lines(series, label, "normalised score", "share of runs above it", ranked=True)
    return Figure("Runs above a score", _runs(series), picture)


def curves(findings: Findings, env: str, marks: dict[str, Look]) -> Figure | None:
    """Mean return along training; what does not train is a line at its level."""
    known = [(m, findings.curves[m.key, env]) for m in findings.comparison.methods if (m.key, env) in findings.curves]
    if not known:
        return None
    ends = [step for _, band in known for step in (band.grid[0], band.grid[-1])]
    series = []
    for method, band in known:
        level = len(band.grid) == 1 and not any(trial.updates for trial in findings.comparison.of(method.key, env))
        series.append(
            _line(findings.labels[method.key], marks[method.key], band, (min(ends), max(ends)) if level else None)
        )
    label = f"Mean return on {env} over environment steps, for {listed(one.label for one in series)}"
    drawn = charts.lines(series, label, "environment steps", "mean return")
    return Figure("Learning curves", f"95% bands; {_runs(series)}", drawn)


def key_of(mark: Look) -> Markup:
    """The small drawing beside a method's name."""
    drawn = [svg.path([(1.0, 6.0), (29.0, 6.0)], "line", mark.dash)]
    drawn.append(svg.marker(mark.marker, 15.0, 6.0, "hollow" if mark.hollow else "mark", 3.6))
    return svg.element("svg", *drawn, class_=f"key {mark.colour}", viewBox="0 0 30 12", aria_hidden="true")


def _bar(label: str, mark: Look, found: Interval, points=()) -> Bar:
    return Bar(label, mark, found.estimate, found.low, found.high, found.runs, tuple(float(point) for point in points))


def _line(label: str, mark: Look, band: Band, level: tuple[float, float] | None = None) -> Line:
    x, y, low, high = ([float(v) for v in side] for side in (band.grid, band.estimate, band.low, band.high))
    if level:
        return Line(label, mark, level, y[:1] * 2, low[:1] * 2, high[:1] * 2, band.runs, bare=True)
    return Line(label, mark, x, y, low, high, band.runs)


def _runs(rows: Sequence[Bar] | Sequence[Line]) -> str:
    return f"n = {max(row.n for row in rows)}{', or as labelled' if len({row.n for row in rows}) > 1 else ''}"


def _said(title: str, rows: list[Bar]) -> str:
    """The figure in words, for those who cannot see it."""
    return f"{title}: " + "; ".join(
        f"{row.label} {interval(row.value, row.low, row.high)}, n = {row.n}" for row in rows
    )
