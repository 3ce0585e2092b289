"""worldlab verify RUN|DIR: checks every checkpoint, replay segment and text file, and reports what is damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from worldlab.cli.common import Parser, add_shared, emit
from worldlab.errors import CheckpointError, ConfigError, StorageError, one_line
from worldlab.runs.find import RUNS, find_run
from worldlab.runs.index import find_folders
from worldlab.runs.verify import Verdict, verify_checkpoints, verify_texts


def run(argv: list[str]) -> int:
    parser = Parser(
        "verify", "Check that no file of a run, or of all runs in a folder, is damaged. Nothing is written."
    )
    parser.add_argument(
        "folder", metavar="RUN|DIR", help="a run folder, its name under runs/, latest, or a folder of runs"
    )
    add_shared(parser, plugin=False)
    args = parser.read(argv)
    rows = [_verify(folder) for folder in _folders(args.folder)]
    bad = [row for row in rows if row["damaged"]]
    if args.json:
        emit({"runs": rows, "damaged": len(bad)}, as_json=True)
    else:
        for row in rows:
            _print(row)
        if len(rows) > 1:
            print(f"{len(bad)} of {len(rows)} folders are damaged" if bad else f"{len(rows)} folders, none is damaged")
    return CheckpointError.exit_code if bad else 0


def _folders(text: str) -> list[Path]:
    """Return the folders to verify. Raises: ConfigError if there is none."""
    for place in (Path(text).expanduser(), RUNS / text):
        if text != "latest" and place.is_dir():
            found = find_folders(place)
            if found:
                return found
            raise ConfigError(
                one_line(f"no run in {one_line(place, 60)!r}"),
                cause="no folder in it has a run.json, a cell.json or a config.toml",
                fix="give the folder of a run, of a comparison, or of several runs",
            )
    return [find_run(text)]


def _verify(folder: Path) -> dict[str, Any]:
    from worldlab.experience.verify import verify_replay

    checkpoints, intact = verify_checkpoints(folder)
    verdicts = [_verify_cell(folder), verify_texts(folder), checkpoints, verify_replay(folder / "replay", intact)]
    return {
        "folder": str(folder),
        "intact": sum(verdict.intact for verdict in verdicts),
        "damaged": [one_line(sentence, 200) for verdict in verdicts for sentence in verdict.damaged],
        "uncovered": [name for verdict in verdicts for name in verdict.uncovered],
    }


def _verify_cell(folder: Path) -> Verdict:
    from worldlab.study.compare.cell_file import NAME, is_sealed, read_cell

    try:
        if read_cell(folder) is None:
            return Verdict([], [], 0)
        return Verdict([], [], 1) if is_sealed(folder) else Verdict([], [NAME], 0)
    except StorageError as error:
        return Verdict([f"{NAME} is damaged: {error.cause}"], [], 0)


def _print(row: dict[str, Any]) -> None:
    name = one_line(row["folder"], 100)
    for sentence in row["damaged"]:
        print(f"{name}: {sentence}")
    if row["uncovered"]:
        print(f"{name}: not covered by a digest: {', '.join(row['uncovered'])}")
    if not row["damaged"]:
        print(f"{name}: {row['intact']} files and checkpoints are intact")
