"""worldlab runs [DIR]: lists the runs of a folder with what a person wants to know of each; read only."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

from worldlab.cli.common import Parser, add_shared, emit
from worldlab.errors import ConfigError, did_you_mean, one_line
from worldlab.runs.find import RUNS
from worldlab.runs.index import RunRow, find_folders, folder_size, read_row

COLUMNS = ("run", "state", "env", "parts", "agent", "seed", "step", "return", "size", "age")
"""The columns of the table, and what --sort and --filter accept."""
_TEXTS = ("run", "state", "env", "parts", "agent")
_WIDEST = 60


def run(argv: list[str]) -> int:
    parser = Parser(
        "runs", "List the runs of a folder: what each is, how far it is, how well it does. Nothing is written."
    )
    parser.add_argument(
        "folder", metavar="DIR", nargs="?", default=str(RUNS), help=f"a folder of runs (default: {RUNS})"
    )
    parser.add_argument(
        "--sort",
        default="age",
        metavar="COLUMN",
        help=f"{', '.join(COLUMNS)} (default: age; numbers: the largest first)",
    )
    parser.add_argument("--reverse", action="store_true", help="sort the other way round")
    parser.add_argument(
        "--filter",
        action="append",
        default=[],
        metavar="COLUMN=TEXT",
        help="only runs whose column has the text, or is the number; may be repeated: env=CartPole state=training",
    )
    add_shared(parser, plugin=False)
    args = parser.read(argv)
    wanted = [_read_filter(text) for text in args.filter]
    column = _known(args.sort, "--sort return")
    rows = [row for row in _rows(run_folder(args.folder)) if all(_matches(row, *condition) for condition in wanted)]
    rows = _sorted(rows, column, args.reverse)
    if args.json:
        emit({"runs": [_plain(row) for row in rows]}, as_json=True)
    else:
        print(_table(rows))
    return 0


def run_folder(text: str) -> Path:
    """Return the folder to list. Raises: ConfigError if it is none."""
    folder = Path(text).expanduser()
    if folder.is_dir():
        return folder
    raise ConfigError(
        one_line(f"no folder {one_line(text, 60)!r}"),
        cause="runs are listed by the folder that holds them",
        fix="worldlab runs DIR" if text != str(RUNS) else "worldlab train --env CartPole   makes the first run",
    )


def _rows(folder: Path) -> list[dict[str, Any]]:
    """Return a row per run: the columns, and the facts of the run under "facts"."""
    try:
        places = find_folders(folder)
    except OSError as error:
        raise ConfigError(one_line(f"{one_line(folder, 60)!r} cannot be listed"), cause=str(error.strerror)) from error
    now = time.time()
    rows = []
    for place in places:
        facts = read_row(place, folder, now)
        row = {name: getattr(facts, name) for name in ("state", "env", "parts", "agent", "seed", "step")}
        row |= {"run": facts.name, "return": facts.score, "size": folder_size(place), "facts": facts}
        row["age"] = None if facts.started is None else max(0.0, now - facts.started)
        rows.append(row)
    return rows


def _known(column: str, example: str) -> str:
    if column not in COLUMNS:
        raise ConfigError(
            one_line(f"runs: no column named {one_line(column, 30)!r}.{did_you_mean(column, COLUMNS)}"),
            cause=f"columns: {', '.join(COLUMNS)}",
            fix=f"worldlab runs {example}",
        )
    return column


def _read_filter(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(
            one_line(f"runs: --filter {one_line(text, 40)!r} is not COLUMN=TEXT"),
            fix="worldlab runs --filter env=CartPole",
        )
    return _known(name, "--filter env=CartPole"), value


def _matches(row: dict[str, Any], column: str, value: str) -> bool:
    if column in _TEXTS:
        return value.lower() in str(row[column]).lower()
    try:
        return row[column] == float(value)
    except ValueError:
        return False


def _sorted(rows: list[dict[str, Any]], column: str, reverse: bool) -> list[dict[str, Any]]:
    """Sort by a column: texts from A, ages from the newest, other numbers from the largest; what is not known comes last."""
    known = [row for row in rows if row[column] not in (None, "")]
    backwards = column not in _TEXTS and column != "age"
    ordered = sorted(known, key=lambda row: row[column], reverse=backwards != reverse)
    return ordered + [row for row in rows if row[column] in (None, "")]


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row for JSON: numbers as they are, names as they are."""
    facts: RunRow = row["facts"]
    names = ("state", "env", "encoder", "dynamics", "decoder", "agent", "seed", "step", "steps")
    return {
        "run": facts.name,
        "path": str(facts.path),
        **{name: getattr(facts, name) for name in names},
        "return": facts.score,
        "return_from": facts.scored,
        "size": row["size"],
        "started": facts.started,
        "changed": facts.changed,
        "error": facts.error,
        "problem": facts.problem,
    }


def _table(rows: list[dict[str, Any]]) -> str:
    cells = [COLUMNS, *(_cells(row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(COLUMNS))]
    lines = []
    for shown, row in zip(cells, (None, *rows), strict=True):
        padded = [
            text.ljust(width) if name in _TEXTS else text.rjust(width)
            for name, text, width in zip(COLUMNS, shown, widths, strict=True)
        ]
        lines.append("  ".join(padded).rstrip())
        lines += [f"    {text}" for text in _troubles(row)]
    counts = Counter(row["state"] for row in rows)
    summary = ", ".join(f"{count} {state}" for state, count in counts.most_common())
    note = " (~: return of training episodes)" if any(row["facts"].scored == "episodes" for row in rows) else ""
    total = f"{len(rows)} {'run' if len(rows) == 1 else 'runs'}{': ' if rows else ''}{summary}{note}"
    return "\n".join([*lines, total])


def _troubles(row: dict[str, Any] | None) -> list[str]:
    return [text for text in (row["facts"].error, row["facts"].problem) if text] if row else []


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    facts: RunRow = row["facts"]
    step, steps = ("" if number is None else f"{number:,}" for number in (facts.step, facts.steps))
    mark = "~" if facts.scored == "episodes" else ""
    shown = {
        "run": _shorten(one_line(facts.name, 4096)),
        "seed": "" if facts.seed is None else str(facts.seed),
        "step": f"{step} of {steps}" if steps and steps != step else step,
        "return": "" if facts.score is None else f"{mark}{facts.score:.6g}",
        "size": _bytes(row["size"]),
        "age": _duration(row["age"]),
    }
    return tuple(str(shown.get(name, row[name])) for name in COLUMNS)


def _shorten(text: str) -> str:
    half = _WIDEST // 2 - 2
    return text if len(text) <= _WIDEST else f"{text[:half]}...{text[-half:]}"


def _bytes(count: int) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count = count / 1000  # type: ignore[assignment]
    return f"{count:.3g} {unit}" if unit != "B" else f"{count} B"


def _duration(seconds: float | None) -> str:
    """Format seconds as "42 s", "5 min", "3 h" or "12 d"; "" for None."""
    if seconds is None:
        return ""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
