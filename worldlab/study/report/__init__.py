"""The report of a comparison: one page that opens anywhere, tables for papers, and the numbers for programs.

comparison -> findings (worldlab.study.statistics) -> verdict, tables, figures -> page. `write` is all that others call.
"""

from worldlab.study.report.files import write as write

__all__ = ["write"]
