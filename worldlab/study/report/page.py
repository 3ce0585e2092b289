"""Assembles report.html and the tables of tables.md and tables.tex."""

from __future__ import annotations

from typing import Any

from worldlab.study.report import fact_tables, figures, score_tables
from worldlab.study.report.clips import KINDS, Clip, LeftOut
from worldlab.study.report.findings import Findings
from worldlab.study.report.formats import format_count
from worldlab.study.report.html import render
from worldlab.study.report.method_styles import MethodStyle, method_styles
from worldlab.study.report.tables import Table
from worldlab.study.report.verdict import Conclusion

_PAGE = "report.html.jinja"


def render_page(findings: Findings, verdict: Conclusion, clips: dict[str, list[Clip]], left: list[LeftOut]) -> str:
    """Render report.html. clips, left: of `collect_clips`."""
    found = findings.comparison
    styles = method_styles(found.methods)
    sections = _sections(findings, styles, clips, left)
    return render(
        _PAGE,
        title=found.title,
        facts=_facts(findings),
        verdict=verdict,
        methods=found.methods,
        labels=findings.labels,
        styles=styles,
        contents=[(name, text) for name, text in _CONTENTS.items() if name == "result" or sections[name]],
        **sections,
    )


_CONTENTS = {
    "result": "Result",
    "scores": "Scores",
    "environments": "Each environment",
    "profiles": "Profiles",
    "improvement": "Probability of improvement",
    "measures": "Measures",
    "dreams": "Dreams",
    "failed": "Failed",
    "run": "Setup",
}


def make_tables(findings: Findings) -> list[Table]:
    """Make the tables of tables.md and tables.tex, in the order of the page."""
    styles, found = method_styles(findings.comparison.methods), findings.comparison
    made = []
    if findings.referenced:
        made += [score_tables.aggregate_table(findings, styles), score_tables.references_table(findings)]
    made += [score_tables.env_table(findings, env, styles) for env in found.envs]
    made += [_unless_empty(score_tables.comparisons_table(findings))]
    made += [score_tables.improvement_table(findings, styles)] if len(found.methods) > 1 else []
    if found.quantities:
        made += [fact_tables.measure_table(findings, env) for env in found.envs]
    made += [
        fact_tables.failures_table(findings),
        fact_tables.methods_table(findings, styles),
        _unless_empty(fact_tables.budget_table(found)),
    ]
    return [table for table in made if table and table.rows]


def _sections(
    findings: Findings, styles: dict[str, MethodStyle], clips: dict[str, list[Clip]], left: list[LeftOut]
) -> dict[str, Any]:
    """Return the content of each section of the page; empty for a section without content."""
    found = findings.comparison
    several = len(found.methods) > 1 and findings.improvement
    return {
        "scores": _scores(findings, styles),
        "environments": [
            {
                "name": env,
                "figures": [
                    drawn
                    for drawn in (figures.returns(findings, env, styles), figures.curves(findings, env, styles))
                    if drawn
                ],
                "budget": fact_tables.budget_sentence(found, env),
                "table": score_tables.env_table(findings, env, styles),
            }
            for env in found.envs
        ],
        "comparisons": _unless_empty(score_tables.comparisons_table(findings)),
        "improvement": score_tables.improvement_table(findings, styles) if several else None,
        "profiles": figures.profiles(findings, styles) if findings.profiles else None,
        "measures": [fact_tables.measure_table(findings, env) for env in found.envs] if found.quantities else None,
        "quantities": [(fact_tables.quantity_title(quantity), quantity.estimator) for quantity in found.quantities],
        "dreams": _dreams(clips) or ([("", [])] if left else []),
        "left": left,
        "failed": fact_tables.failures_table(findings),
        "run": fact_tables.run_facts(found.about),
        "methods_table": fact_tables.methods_table(findings, styles),
        "budgets": _unless_empty(fact_tables.budget_table(found)),
    }


def _scores(findings: Findings, styles: dict[str, MethodStyle]) -> dict[str, Any] | None:
    if not findings.referenced:
        return None
    drawn = figures.aggregates(findings, styles) if findings.aggregates else []
    envs = findings.referenced
    return {
        "over": " ".join(envs) if len(envs) == 1 else f"{len(envs)} environments",
        "figures": drawn,
        "table": score_tables.aggregate_table(findings, styles),
        "references": score_tables.references_table(findings),
    }


def _dreams(clips: dict[str, list[Clip]]) -> list[tuple[str, list[dict[str, Any]]]]:
    return [(env, _group_clips(chosen)) for env, chosen in clips.items() if chosen]


def _group_clips(clips: list[Clip]) -> list[dict[str, Any]]:
    """Group the clips of an environment by kind, and choose a layout for each group."""
    groups = []
    for kind, title in KINDS.items():
        if chosen := [clip for clip in clips if clip.kind == kind]:
            small = all(clip.width <= 160 for clip in chosen)
            layout = "strips" if kind == "strip" else "small" if small else "wide"
            folded = kind == "strip" and any(
                clip.kind == "dream" for clip in clips
            )  # strips show the same frames as dreams
            groups.append({"title": title, "clips": chosen, "layout": layout, "folded": folded})
    return groups


def _unless_empty(table: Table) -> Table | None:
    return table if table.rows and len(table.columns) > 1 else None


def _facts(findings: Findings) -> str:
    found = findings.comparison
    baselines = sum(method.kind == "baseline" for method in found.methods)
    models = len(found.methods) - baselines
    planned = len(found.methods) * len(found.envs) * len(found.seeds)
    finished = sum(trial.status == "finished" for trial in found.trials)
    return " · ".join(
        [
            *([_count_of(models, "model")] if models else []),
            *([_count_of(baselines, "baseline")] if baselines else []),
            _count_of(len(found.envs), "environment"),
            _count_of(len(found.seeds), "seed"),
            f"{format_count(finished)} of {_count_of(planned, 'trial')} finished",
        ]
    )


def _count_of(number: int, what: str) -> str:
    return f"{format_count(number)} {what}{'s' if number != 1 else ''}"
