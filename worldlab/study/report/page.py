"""report.html: what a comparison found, as one page."""

from __future__ import annotations

from typing import Any

from worldlab.study.report import fact_tables, figures, score_tables
from worldlab.study.report.films import KINDS, Clip, LeftOut
from worldlab.study.report.findings import Findings
from worldlab.study.report.formats import count
from worldlab.study.report.html import render
from worldlab.study.report.marks import Look, marks
from worldlab.study.report.tables import Table
from worldlab.study.report.verdict import Conclusion

_PAGE = "report.html.jinja"


def page(findings: Findings, verdict: Conclusion, films: dict[str, list[Clip]], left: list[LeftOut]) -> str:
    """The whole page."""
    found = findings.comparison
    looks = marks(found.methods)
    sections = _sections(findings, looks, films, left)
    return render(
        _PAGE,
        title=found.title,
        facts=_facts(findings),
        verdict=verdict,
        methods=found.methods,
        labels=findings.labels,
        marks=looks,
        contents=[(name, text) for name, text in _CONTENTS.items() if name == "result" or sections[name]],
        **sections,
    )


_CONTENTS = {
    "result": "Result",
    "scores": "Scores",
    "environments": "Each environment",
    "profiles": "Profiles",
    "improvement": "Who beats whom",
    "measures": "Measures",
    "dreams": "Dreams",
    "failed": "Failed",
    "run": "What was run",
}


def tables(findings: Findings) -> list[Table]:
    """The tables of tables.md and tables.tex, in the page's order."""
    looks, found = marks(findings.comparison.methods), findings.comparison
    made = []
    if findings.referenced:
        made += [score_tables.aggregate_table(findings, looks), score_tables.references_table(findings)]
    made += [score_tables.env_table(findings, env, looks) for env in found.envs]
    made += [_full(score_tables.comparisons_table(findings))]
    made += [score_tables.improvement_table(findings, looks)] if len(found.methods) > 1 else []
    if found.quantities:
        made += [fact_tables.measure_table(findings, env) for env in found.envs]
    made += [
        fact_tables.trouble_table(findings),
        fact_tables.methods_table(findings, looks),
        _full(fact_tables.budget_table(found)),
    ]
    return [table for table in made if table and table.rows]


def _sections(
    findings: Findings, looks: dict[str, Look], films: dict[str, list[Clip]], left: list[LeftOut]
) -> dict[str, Any]:
    """What each part of the page shows; None for one that has nothing to show."""
    found = findings.comparison
    several = len(found.methods) > 1 and findings.improvement
    return {
        "scores": _scores(findings, looks),
        "environments": [
            {
                "name": env,
                "figures": [
                    drawn
                    for drawn in (figures.returns(findings, env, looks), figures.curves(findings, env, looks))
                    if drawn
                ],
                "budget": fact_tables.budget(found, env),
                "table": score_tables.env_table(findings, env, looks),
            }
            for env in found.envs
        ],
        "comparisons": _full(score_tables.comparisons_table(findings)),
        "improvement": score_tables.improvement_table(findings, looks) if several else None,
        "profiles": figures.profiles(findings, looks) if findings.profiles else None,
        "measures": [fact_tables.measure_table(findings, env) for env in found.envs] if found.quantities else None,
        "quantities": [(fact_tables.titled(quantity), quantity.estimator) for quantity in found.quantities],
        "dreams": _dreams(films) or ([("", [])] if left else []),
        "left": left,
        "failed": fact_tables.trouble_table(findings),
        "run": fact_tables.facts(found.about),
        "methods_table": fact_tables.methods_table(findings, looks),
        "budgets": _full(fact_tables.budget_table(found)),
    }


def _scores(findings: Findings, looks: dict[str, Look]) -> dict[str, Any] | None:
    if not findings.referenced:
        return None
    drawn = figures.aggregates(findings, looks) if findings.aggregates else []
    envs = findings.referenced
    return {
        "over": " ".join(envs) if len(envs) == 1 else f"{len(envs)} environments",
        "figures": drawn,
        "table": score_tables.aggregate_table(findings, looks),
        "references": score_tables.references_table(findings),
    }


def _dreams(films: dict[str, list[Clip]]) -> list[tuple[str, list[dict[str, Any]]]]:
    return [(env, _groups(chosen)) for env, chosen in films.items() if chosen]


def _groups(films: list[Clip]) -> list[dict[str, Any]]:
    """The films of an environment by kind, and how they are laid out: beside each other, or one below the other."""
    groups = []
    for kind, title in KINDS.items():
        if chosen := [film for film in films if film.kind == kind]:
            small = all(film.width <= 160 for film in chosen)
            look = "strips" if kind == "strip" else "small" if small else "wide"
            folded = kind == "strip" and any(film.kind == "dream" for film in films)  # they show the same
            groups.append({"title": title, "films": chosen, "look": look, "folded": folded})
    return groups


def _full(table: Table) -> Table | None:
    return table if table.rows and len(table.columns) > 1 else None


def _facts(findings: Findings) -> str:
    found = findings.comparison
    baselines = sum(method.kind == "baseline" for method in found.methods)
    models = len(found.methods) - baselines
    asked = len(found.methods) * len(found.envs) * len(found.seeds)
    finished = sum(trial.status == "finished" for trial in found.trials)
    return " · ".join(
        [
            *([_many(models, "model")] if models else []),
            *([_many(baselines, "baseline")] if baselines else []),
            _many(len(found.envs), "environment"),
            _many(len(found.seeds), "seed"),
            f"{count(finished)} of {_many(asked, 'trial')} finished",
        ]
    )


def _many(number: int, what: str) -> str:
    return f"{count(number)} {what}{'s' if number != 1 else ''}"
