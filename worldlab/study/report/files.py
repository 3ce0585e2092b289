"""Writes the five files of a report."""

from __future__ import annotations

from pathlib import Path

from worldlab.runs.storage import atomic_write_json, atomic_write_text, make_folder
from worldlab.study.report import records
from worldlab.study.report.clips import collect_clips
from worldlab.study.report.findings import compute_findings
from worldlab.study.report.page import make_tables, render_page
from worldlab.study.report.tables import latex, markdown
from worldlab.study.report.verdict import conclude
from worldlab.study.results import Comparison


def write(comparison: Comparison, folder: Path) -> dict[str, Path]:
    """Write report.html, results.csv, summary.json, tables.md and tables.tex, and return their paths by name.

    folder: the comparison's folder, which contains the run folders of its trials. Each file is replaced atomically, and
    equal comparisons give equal bytes. Raises: StorageError.
    """
    findings = compute_findings(comparison)
    conclusion = conclude(findings)
    tables = make_tables(findings)
    texts = {
        "report.html": render_page(findings, conclusion, *collect_clips(comparison, Path(folder))),
        "results.csv": records.results_csv(comparison),
        "tables.md": markdown(tables, comparison.title),
        "tables.tex": latex(tables, comparison.title),
    }
    paths = {name: make_folder(folder) / name for name in [*texts, "summary.json"]}
    for name, text in texts.items():
        atomic_write_text(paths[name], text)
    atomic_write_json(paths["summary.json"], records.summary(findings, conclusion))
    return paths
