"""Writing a report: what was found, once, into five files."""

from __future__ import annotations

from pathlib import Path

from worldlab.runs.storage import atomic_write_json, atomic_write_text, make_folder
from worldlab.study.report import records
from worldlab.study.report.films import films
from worldlab.study.report.findings import find
from worldlab.study.report.page import page, tables
from worldlab.study.report.tables import latex, markdown
from worldlab.study.report.verdict import conclude
from worldlab.study.results import Comparison


def write(comparison: Comparison, folder: Path) -> dict[str, Path]:
    """Write report.html, results.csv, summary.json, tables.md and tables.tex; return their paths by these names.

    folder: the comparison's, which holds the run folders that trials name. Each file is replaced whole; the same comparison
    gives the same bytes. Raises: StorageError.
    """
    findings = find(comparison)
    said = conclude(findings)
    made = tables(findings)
    texts = {
        "report.html": page(findings, said, *films(comparison, Path(folder))),
        "results.csv": records.results_csv(comparison),
        "tables.md": markdown(made, comparison.title),
        "tables.tex": latex(made, comparison.title),
    }
    paths = {name: make_folder(folder) / name for name in [*texts, "summary.json"]}
    for name, text in texts.items():
        atomic_write_text(paths[name], text)
    atomic_write_json(paths["summary.json"], records.summary(findings, said))
    return paths
