"""Defines tables, which the HTML page renders, and writes them as Markdown and LaTeX, so that the three agree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from worldlab.study.report.formats import MINUS
from worldlab.study.report.method_styles import MethodStyle
from worldlab.training.panel import plain_text

ROWS_PER_PAGE = 36
"""Rows that fit on a LaTeX page with a caption and remarks."""
SORT_LAST = math.nan
"""Sort value of a cell that comes after all others."""


@dataclass(frozen=True)
class Entry:
    """A table cell.

    text: never empty. below: a detail such as the interval, shown on a second line of the page. sort: the value to sort
    by, None to sort by the text. note: a footnote. css_class: class in the style sheet. style: the style of the method
    whose name this cell holds, drawn before the name.
    """

    text: str
    below: str = ""
    sort: float | None = None
    note: str = ""
    css_class: str = ""
    style: MethodStyle | None = None

    @property
    def line(self) -> str:
        """Text and detail on one line."""
        return f"{self.text} {self.below}".rstrip()

    @property
    def key(self) -> str | None:
        """The page's sort key: None sorts by the text, "" sorts last."""
        return None if self.sort is None else "" if math.isnan(self.sort) else repr(float(self.sort))


@dataclass(frozen=True)
class Column:
    title: str
    kind: Literal["number", "text"] = "number"


@dataclass(frozen=True)
class Table:
    """A table.

    columns: the first one names the rows. remarks: sentences below the table. notes: the distinct footnotes.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Entry, ...], ...]
    remarks: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(init=False)

    def __post_init__(self):
        assert all(len(row) == len(self.columns) for row in self.rows)
        assert all(plain_text(cell.text).strip() for row in self.rows for cell in row), (
            f"an empty cell in {self.title!r}"
        )
        found = dict.fromkeys(cell.note for row in self.rows for cell in row if cell.note)
        object.__setattr__(self, "notes", tuple(found))

    def number_of(self, cell: Entry) -> int | None:
        """Return the number of the cell's footnote, from 1; equal notes share a number."""
        return self.notes.index(cell.note) + 1 if cell.note else None


def markdown(tables: Sequence[Table], title: str) -> str:
    """Return all tables as a Markdown page."""
    return "\n\n".join([f"# {_md(title)}", *map(_markdown, tables)]) + "\n"


def _markdown(table: Table) -> str:
    head = [_md(column.title) for column in table.columns]
    rule = ["---:" if column.kind == "number" else "---" for column in table.columns]
    rows = [[_md(cell.line) + _md_note(table, cell) for cell in row] for row in table.rows]
    lines = ["| " + " | ".join(row) + " |" for row in (head, rule, *rows)]
    notes = [f"{at}. {_md(note)}" for at, note in enumerate(table.notes, 1)]
    return "\n\n".join(
        ["## " + _md(table.title), "\n".join(lines), *map(_md, table.remarks), *(["\n".join(notes)] if notes else [])]
    )


def _md_note(table: Table, cell: Entry) -> str:
    number = table.number_of(cell)
    return f" ({number})" if number else ""


_MARKDOWN = str.maketrans({**{mark: f"\\{mark}" for mark in "\\`*_[]|~#$!"}, "<": "&lt;", ">": "&gt;", "&": "&amp;"})


def _md(text: str) -> str:
    """Escape a text for Markdown."""
    return plain_text(text).translate(_MARKDOWN)


def latex(tables: Sequence[Table], title: str) -> str:
    """Return all tables as LaTeX floats in booktabs style, for \\input.

    A table longer than a page is split into several.
    """
    head = f"% {plain_text(title)}\n% needs \\usepackage{{booktabs,graphicx}}"
    pages = [page for table in tables for page in _pages(table)]
    return "\n\n".join([head, *(_latex(table, at) for at, table in enumerate(pages, 1))]) + "\n"


def _pages(table: Table) -> list[Table]:
    parts = [table.rows[at : at + ROWS_PER_PAGE] for at in range(0, len(table.rows), ROWS_PER_PAGE)] or [()]
    titles = [table.title, *(f"{table.title}, continued" for _ in parts[1:])]
    remarks = [*(() for _ in parts[1:]), table.remarks]  # only below the last part
    return [Table(title, table.columns, rows, own) for title, rows, own in zip(titles, parts, remarks, strict=True)]


def _latex(table: Table, at: int) -> str:
    form = "".join("r" if column.kind == "number" else "l" for column in table.columns)
    head = " & ".join(_tex(column.title) for column in table.columns)
    rows = [" & ".join(_tex(cell.line) + _tex_note(table, cell) for cell in row) for row in table.rows]
    notes = [rf"$^{{{number}}}$ {_tex(note)}" for number, note in enumerate(table.notes, 1)]
    below = [rf"\par\smallskip\footnotesize {' '.join([*map(_tex, table.remarks), *notes])}"]
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_tex(table.title)}}}",
        rf"\label{{tab:worldlab-{at}}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{form}}}",
        r"\toprule",
        rf"{head} \\",
        r"\midrule",
        *(rf"{row} \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}}",
        *(below if table.remarks or notes else []),
        r"\end{table}",
    ]
    return "\n".join(lines)


def _tex_note(table: Table, cell: Entry) -> str:
    number = table.number_of(cell)
    return rf"$^{{{number}}}$" if number else ""


_LATEX = str.maketrans(
    {
        **{mark: rf"\{mark}" for mark in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "[": "{[}",  # after \\ LaTeX would read a bracket as the row's height
        "]": "{]}",
        "*": "{*}",  # and a star as "no page break here"
        '"': r"{\char34}",  # in German documents the letter itself is a command
        MINUS: "$-$",
        "±": r"$\pm$",
        "↑": r"$\uparrow$",
        "↓": r"$\downarrow$",
        "…": r"\ldots{}",
    }
)


def _tex(text: str) -> str:
    """Escape a text for LaTeX."""
    return plain_text(text).translate(_LATEX)
