"""A table, made once and written three times: into the page, as Markdown and as LaTeX, so that the three agree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from worldlab.study.report.formats import MINUS
from worldlab.study.report.marks import Look
from worldlab.training.panel import plain_text

PAGE = 36
"""Rows that a page of LaTeX has room for, beside a caption and remarks."""
LAST = math.nan
"""Sorts a cell behind all others."""


@dataclass(frozen=True)
class Entry:
    """text: never empty. below: what belongs to it, as its interval; a second line in the page. sort: what it is ordered by,
    None if by its text. note: its reason or remark, a footnote. look: a class of the style sheet. mark: the method's look,
    drawn before its name."""

    text: str
    below: str = ""
    sort: float | None = None
    note: str = ""
    look: str = ""
    mark: Look | None = None

    @property
    def line(self) -> str:
        """All of it on one line."""
        return f"{self.text} {self.below}".rstrip()

    @property
    def key(self) -> str | None:
        """What the page sorts by: None for the text itself, "" for last."""
        return None if self.sort is None else "" if math.isnan(self.sort) else repr(float(self.sort))


@dataclass(frozen=True)
class Column:
    title: str
    kind: Literal["number", "text"] = "number"


@dataclass(frozen=True)
class Table:
    """title: a phrase. columns: of each cell of a row, the first names the row. remarks: sentences that follow it."""

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
        """Which footnote is the cell's, from 1; equal remarks share one."""
        return self.notes.index(cell.note) + 1 if cell.note else None


def markdown(tables: Sequence[Table], title: str) -> str:
    """All tables as a Markdown page."""
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
    """Plain text that Markdown shows as it is."""
    return plain_text(text).translate(_MARKDOWN)


def latex(tables: Sequence[Table], title: str) -> str:
    """All tables as LaTeX floats in the style of booktabs; \\input the file, or take what you need from it. One that is longer
    than a page is cut in several."""
    head = f"% {plain_text(title)}\n% needs \\usepackage{{booktabs,graphicx}}"
    pages = [page for table in tables for page in _pages(table)]
    return "\n\n".join([head, *(_latex(table, at) for at, table in enumerate(pages, 1))]) + "\n"


def _pages(table: Table) -> list[Table]:
    parts = [table.rows[at : at + PAGE] for at in range(0, len(table.rows), PAGE)] or [()]
    titles = [table.title, *(f"{table.title}, continued" for _ in parts[1:])]
    remarks = [*(() for _ in parts[1:]), table.remarks]  # after the last
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
        "[": "{[}",  # after \\ a bracket would be read as the row's height
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
    """Plain text that LaTeX shows as it is."""
    return plain_text(text).translate(_LATEX)
