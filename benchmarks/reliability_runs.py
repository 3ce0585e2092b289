"""Count runs on full disks, runs that start at once in one folder, and equal runs under other circumstances.

    python benchmarks/reliability_runs.py --out benchmarks/results/reliability_runs.json

T-FULL trains in a folder that is a file system of 8 to 700 KB (needs root). It must end with exit code 6 and name the
bytes; after the file system has grown, the same command must end with the bytes of a run that had room. T-LOCK starts
ten runs at once in one folder: one trains, nine are refused with exit code 8 and name it. T-SEED makes one strict run
again in new processes with other hash seeds, time zones, languages, folders and numbers of workers: all bytes are equal.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from interleave import header, say, write_json
from machine import ROOT

sys.path.insert(0, str(ROOT / "tests" / "kits"))
from forks import start_fork
from interrupted_runs import TINY, become_train, outcome, train

AT_ONCE = 10
ROOM = 64 * 2**20
SMALLEST, LARGEST = 8_000, 700_000
ZONES, LANGUAGES = ("UTC", "Asia/Kathmandu", "America/St_Johns"), ("C", "C.UTF-8", "de_DE.UTF-8")


def fill_disk(place: Path, number: int, whole: dict[str, Any]) -> dict[str, Any]:
    """Train on a file system that is too small, then on one with room."""
    size = int(SMALLEST * (LARGEST / SMALLEST) ** random.Random(number).random())
    run = place / f"full-{number}"
    run.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(run)], check=True)
    try:
        first = train(place, run.name, TINY)
        named = "bytes" in first.err and "No space left" in first.err
        subprocess.run(["mount", "-o", f"remount,size={ROOM}", str(run)], check=True)
        second = train(place, run.name, TINY)
        same = second.code == 0 and outcome(run) == whole
    finally:
        subprocess.run(["umount", "-l", str(run)], check=True)
    good = same and (first.code == 0 or (first.code == 6 and named))
    return {
        "size": size,
        "ended": first.code,
        "named": named,
        "same": same,
        "good": good,
        "err": "" if good else first.err[-600:],
    }


def start_at_once(place: Path, number: int, whole: dict[str, Any]) -> dict[str, Any]:
    """Start several runs in one folder; compare the one that trains with the run that was alone."""
    run = f"lock-{number}"
    line = ("train", *TINY, "--run", run, "--resume")
    files = [(place / f"{run}.{i}.out", place / f"{run}.{i}.err") for i in range(AT_ONCE)]
    processes = [start_fork(become_train, place, line, dict(os.environ), *pair) for pair in files]
    for process in processes:
        process.join(240)
    codes = [process.exitcode for process in processes]
    refused = [err.read_text() for code, (_, err) in zip(codes, files, strict=True) if code == 8]
    named = sum("process" in text.lower() or "pid" in text.lower() for text in refused)
    # A run that begins when another has finished finds a finished run, and has nothing to do.
    good = set(codes) <= {0, 8} and 0 in codes and named == len(refused) and outcome(place / run) == whole
    return {"codes": Counter(map(str, codes)), "named": named, "good": good, "err": "" if good else refused[:1]}


def repeat(place: Path, number: int, whole: dict[str, Any]) -> dict[str, Any]:
    """Make the same run in a new process, in other circumstances."""
    chance = random.Random(number)
    workers = chance.choice((0, 1))
    folder = place / f"seed-{number}" / ("x" * chance.randrange(1, 30))
    folder.mkdir(parents=True)
    circumstances = {
        "PYTHONHASHSEED": str(chance.randrange(2**31)),
        "TZ": chance.choice(ZONES),
        "LC_ALL": chance.choice(LANGUAGES),
    }
    command = [sys.executable, "-m", "worldlab", "train", *TINY, "--env.workers", str(workers), "--run", "run"]
    done = subprocess.run(command, cwd=folder, env={**os.environ, **circumstances}, capture_output=True, text=True)
    differ = (
        sorted(key for key, value in outcome(folder / "run").items() if whole[key] != value)
        if done.returncode == 0
        else ["all"]
    )
    return {**circumstances, "workers": workers, "differ": differ, "good": not differ}


SECTIONS: dict[str, tuple[Callable[[Path, int, dict[str, Any]], dict[str, Any]], int]] = {
    "T-FULL": (fill_disk, 50),
    "T-LOCK": (start_at_once, 10),
    "T-SEED": (repeat, 20),
}
"""What is tried, and how often."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--trials", type=int, help="trials of each section")
    args = parser.parse_args()
    work = args.out.with_suffix(".work.json")  # the trials so far
    done: dict[str, list[dict[str, Any]]] = json.loads(work.read_text()) if work.exists() else {}
    head = header("reliability_runs.py")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        assert train(place, "whole", TINY).code == 0
        whole = outcome(place / "whole")
        for section in args.sections:
            trials = done.setdefault(section, [])
            work_of, wanted = SECTIONS[section]
            while len(trials) < (args.trials or wanted):
                begin = time.monotonic()
                trials.append(work_of(place, len(trials), whole))
                say(f"{section} {len(trials)}: {trials[-1]} ({time.monotonic() - begin:.0f} s)")
                write_json(work, done)
                sections = {name: summary(found) for name, found in done.items()}
                before = json.loads(args.out.read_text())["sections"] if args.out.exists() else {}
                write_json(args.out, {**head, "run": " ".join(TINY), "sections": before | sections})
                shutil.rmtree(place / f"seed-{len(trials) - 1}", ignore_errors=True)
    work.unlink(missing_ok=True)


def summary(trials: list[dict[str, Any]]) -> dict[str, Any]:
    """Add up the trials of a section."""
    endings = Counter[str]()
    for trial in trials:
        endings.update(trial.get("codes", {str(trial["ended"]): 1} if "ended" in trial else {}))
    bad = [trial for trial in trials if not trial["good"]]
    return {
        "trials": len(trials),
        "as_promised": len(trials) - len(bad),
        "exit_codes": dict(sorted(endings.items())),
        "failed": bad,
    }


if __name__ == "__main__":
    main()
