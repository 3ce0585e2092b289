"""Writes the report of a comparison: a self-contained HTML page, tables for papers, and all numbers as CSV and JSON.

comparison -> findings (worldlab.study.statistics) -> verdict, tables, figures -> page. `write` is the only public
function.
"""

from worldlab.study.report.files import write as write

__all__ = ["write"]
