"""One table in three forms: Markdown and LaTeX show the cells' content, and no text breaks out of its cell."""

from __future__ import annotations

import re

import pytest
from report_kit import ENVS, comparison
from report_payloads import PAYLOADS

from worldlab.study.report.findings import compute_findings
from worldlab.study.report.formats import format_interval
from worldlab.study.report.page import make_tables
from worldlab.study.report.tables import Column, Entry, Table, latex, markdown
from worldlab.training.panel import plain_text


def table(text: str) -> Table:
    return Table(
        "A title", (Column("Name", "text"), Column("Value")), ((Entry("a"), Entry(text, "[1, 2]", 1.0, "why")),)
    )


def test_markdown():
    assert markdown([table("-1.5*")], "All | none") == (
        "# All \\| none\n\n## A title\n\n| Name | Value |\n| --- | ---: |\n| a | -1.5\\* \\[1, 2\\] (1) |\n\n1. why\n"
    )


def test_latex():
    assert latex([table("50% & −1")], "x") == "\n".join(
        [
            "% x",
            r"% needs \usepackage{booktabs,graphicx}",
            "",
            r"\begin{table}",
            r"\centering",
            r"\caption{A title}",
            r"\label{tab:worldlab-1}",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            r"\begin{tabular}{lr}",
            r"\toprule",
            r"Name & Value \\",
            r"\midrule",
            r"a & 50\% \& $-$1 {[}1, 2{]}$^{1}$ \\",
            r"\bottomrule",
            r"\end{tabular}}",
            r"\par\smallskip\footnotesize $^{1}$ why",
            r"\end{table}",
            "",
        ]
    )


def unlatex(text: str) -> str:
    """Return what LaTeX would print, by an independent reading of the escapes."""
    names = {
        "textbackslash": "\\", "textasciitilde": "~", "textasciicircum": "^", "textless": "<", "textgreater": ">",
        "textbar": "|", "textasciigrave": "`", "ldots": "…",
    }  # fmt: skip
    pattern = re.compile(r"\\([a-z]+)\{\}|\\([&%$#_{}])|\{([\[\]*])\}|\{\\char34\}|\$-\$|\$\\pm\$|[\\&%$#_{}^~]")

    def read(match: re.Match[str]) -> str:
        if match[1] or match[2] or match[3]:
            return names[match[1]] if match[1] else match[2] or match[3]
        known = {r"{\char34}": '"', "$-$": "−", r"$\pm$": "±"}
        assert match[0] in known, f"unescaped {match[0]!r} in {text!r}"
        return known[match[0]]

    return pattern.sub(read, text)


@pytest.mark.parametrize("payload", PAYLOADS)
def test_no_text_leaves_its_cell(payload):
    shown = plain_text(payload)
    if not shown.strip():
        return
    row = latex([table(payload)], "x").split("\\midrule\n")[1].split("\n")[0]
    inside = row.removeprefix("a & ").removesuffix(r" {[}1, 2{]}$^{1}$ \\")
    assert unlatex(inside).split() == shown.split()
    line = next(line for line in markdown([table(payload)], "x").split("\n") if line.startswith("| a "))
    assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) == 3
    assert "<" not in line and not re.search(r"(?<!\\)[`\[]", line)


def test_a_table_longer_than_a_page_is_cut():
    """LaTeX drops the last rows of a too large float. Each part has its header and its own notes, and no row is lost."""
    rows = tuple((Entry(f"row {number}", note=f"why {number}" if number % 40 == 0 else ""),) for number in range(100))
    parts = latex([Table("Long", (Column("Name", "text"),), rows, ("All of it.",))], "x").split(r"\begin{table}")[1:]
    assert [part.count(r"row ") for part in parts] == [36, 36, 28]
    assert [r"\caption{Long, continued}" in part for part in parts] == [False, True, True]
    assert ["All of it." in part for part in parts] == [False, False, True]
    assert all("Name" in part and r"$^{1}$ why" in part for part in parts) and "tab:worldlab-3" in parts[2]


def test_empty_cells_are_our_bug():
    with pytest.raises(AssertionError, match="empty cell"):
        table(" ")


def test_footnotes_are_shared_and_sorting_puts_undefined_last():
    made = Table("t", (Column("a"),), tuple((Entry("x", note=note),) for note in ("one", "two", "one", "")))
    assert made.notes == ("one", "two") and [made.number_of(row[0]) for row in made.rows] == [1, 2, 1, None]
    assert [Entry("x", sort=s).key for s in (None, float("nan"), -1.5)] == [None, "", "-1.5"]


def test_the_numbers_are_the_findings():
    """The tables contain every interval of the statistics, formatted for readers."""
    findings = compute_findings(comparison())
    made = {one.title: one for one in make_tables(findings)}
    rows = {row[0].text: row for row in made["Normalised scores"].rows}
    for method in comparison().methods:
        one = findings.aggregates[method.key]["iqm"]
        assert rows[method.label][2].line == format_interval(one.estimate, one.low, one.high, 2)
        assert rows[method.label][1].text == ("4 + 5" if method.key == "gan" else "5 + 5")
    rows = {row[0].text: row for row in made[f"Returns on {ENVS[0]}"].rows}
    assert rows["gan"][1].text == "4 of 5" and rows["vae"][5].text == "–"
    assert rows["flow"][5].line == "+369 [249, 488] better"
    assert rows["vae under another name"][5].line == "0 [−143, 143] not shown"
    assert [rows["flow"][at].text for at in (7, 8)] == ["20,000", "4,000"]
    measures = made[f"Measures on {ENVS[0]}"]
    assert [column.title for column in measures.columns][-1] == "gan, n = 4"
    bits = next(row for row in measures.rows if row[0].text.startswith("Bits per dimension"))
    assert (bits[-1].text, bits[-1].note) == ("undefined", "p(z) is known by its samples only")
    assert measures.remarks[1:] == (
        "random actions, untrained dynamics and model-free (SB3 PPO): all undefined (a baseline has no latent).",
    )
    assert [row[4].text for row in made["Trials without a result"].rows] == [
        "DivergedError: the loss of the critic left the finite numbers"
    ]
