"""Count what damaged files and hostile run folders do: how many flipped bits are silent, and how much a stranger's run can do.

    python benchmarks/reliability_files.py --out benchmarks/results/reliability_files.json

T-ROT flips bits in each kind of file of a run and cuts it off, and reads it with the functions that the commands use.
Hostile folders (tests/kits/hostile_runs.py) are given to verify, eval, dream and train --resume in a process with an
audit hook; counted are events (unpickling, started programs, sockets, writes outside the run, code of the folder), exit
codes that no document explains, and commands that did not end.

The result is written after every kind and every folder, and a restart goes on with what is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from interleave import header, say, write_json
from machine import ROOT

sys.path.insert(0, str(ROOT / "tests" / "kits"))
from audited_command import run_audited
from hostile_runs import HOSTILE, contents, prepare
from rot_kit import KINDS, rot
from run_folder_kit import make_cell, make_run

COMMANDS = (
    ["verify", "run"],
    ["eval", "run", "--episodes", "1"],
    ["dream", "run", "--horizon", "3", "--count", "1"],
    ["train", "--run", "run", "--resume"],
)
SMALL = (
    "--env CartPole --preset debug --size nano --steps 130 --train.prefill 60 --env.time-limit 20 --train.ratio 0.02"
)
SMALL += " --train.pretrain 1 --eval.final-episodes 1 --eval.every 0 --log.pictures 0 --log.checkpoint 60 --run run"
DOCUMENTED = {0, 2, 3, 4, 5, 6, 7, 8, 9}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "reliability_files.json")
    parser.add_argument("--flips", type=int, default=1000, help="flipped bits of each kind of file")
    parser.add_argument("--cuts", type=int, default=300, help="cuts of each kind of file")
    parser.add_argument("--only", choices=("rot", "hostile"))
    args = parser.parse_args()
    result = _started(args.out, {"flips": args.flips, "cuts": args.cuts})
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        if args.only != "hostile":
            run = make_run(place / "rot").path
            make_cell(run)
            _fill(result["rot"], KINDS, lambda kind: rot(run, kind, args.flips, args.cuts), result, args.out)
        if args.only != "rot":
            good = _train(place / "good")
            _fill(result["hostile"], list(HOSTILE), lambda title: _suffer(good, place, title), result, args.out)
    result["summary"] = _summary(result)
    write_json(args.out, result)
    say(json.dumps(result["summary"], indent=1))


def _started(out: Path, size: dict[str, int]) -> dict[str, Any]:
    """Return the result to go on with: that of the file if it is of this commit and these sizes, else an empty one."""
    fresh = {**header("reliability_files.py"), "size": size, "rot": {}, "hostile": {}}
    if out.exists():
        old = json.loads(out.read_text())
        if (old.get("commit"), old.get("size")) == (fresh.get("commit"), size):
            return old
    return fresh


def _fill(
    table: dict[str, Any], keys: Any, measure: Callable[[str], dict[str, Any]], result: dict[str, Any], out: Path
) -> None:
    for key in keys:
        if key not in table:
            table[key] = measure(key)
            say(f"{key:<45} {table[key]}")
            write_json(out, result)


def _train(place: Path) -> Path:
    place.mkdir()
    (row,) = run_audited(place, "run", ["train", *SMALL.split()])
    assert row["code"] == 0, row["err"]
    return place / "run"


def _suffer(good: Path, parent: Path, title: str) -> dict[str, Any]:
    """Give a hostile folder to every command, each time a fresh copy. Returns exit codes and what went wrong."""
    codes, wrong = {}, []
    for command in COMMANDS:
        place = parent / "hostile"
        shutil.copytree(good, place / "run")
        prepare(place, HOSTILE[title])
        os.environ["HOSTILE_PLACE"] = str(place)
        before = contents(place / "outside")
        rows = run_audited(place, "run", list(command))
        code = rows[0]["code"] if rows else None
        codes[command[0]] = code
        if code not in DOCUMENTED:
            wrong.append(f"{command[0]}: " + ("did not end" if code is None else f"exit {code}"))
        wrong += [f"{command[0]}: {event}" for row in rows for event in row["events"]]
        if contents(place / "outside") != before or (place / "ran").exists():
            wrong.append(f"{command[0]}: left the folder of the run")
        shutil.rmtree(place)
    return {"codes": codes, "wrong": wrong}


def _summary(result: dict[str, Any]) -> dict[str, Any]:
    counts = {
        name: sum(row[name] for row in result["rot"].values()) for name in ("detected", "harmless", "silent", "crashed")
    }
    return {
        "rot": {"kinds": len(result["rot"]), **counts},
        "hostile": {
            "folders": len(result["hostile"]),
            "commands": sum(len(row["codes"]) for row in result["hostile"].values()),
            "wrong": sum(len(row["wrong"]) for row in result["hostile"].values()),
        },
    }


if __name__ == "__main__":
    main()
