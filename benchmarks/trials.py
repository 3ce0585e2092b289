"""Makes the trials of a reliability script one after the other, and writes what is done so far.

A script has sections; a section has a function that makes trial number N and returns a dict whose "good" says whether the
promise held. A restart goes on with the trials that are missing.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interleave import header, say, write_json

SUMS = ("events", "lost", "stale", "silent")
"""Entries of a trial that a section adds up."""
HIGHEST = ("seconds",)
"""Entries of a trial of which a section has the highest."""


@dataclass(frozen=True)
class Section:
    """What is tried. work: makes trial number N, counted from 0, in a folder. trials: how many."""

    promise: str
    work: Callable[[Path, int], dict[str, Any]]
    trials: int


def arguments(text: str | None, sections: Mapping[str, Section]) -> argparse.Namespace:
    """Read the command line of a script. text: its docstring."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sections", nargs="+", choices=sections, default=list(sections))
    parser.add_argument("--trials", type=int, help="trials of each section")
    return parser.parse_args()


def make_trials(
    script: str, args: argparse.Namespace, sections: Mapping[str, Section], place: Path, **facts: object
) -> None:
    """Make the trials that are missing. facts: further entries of the result."""
    work = args.out.with_suffix(".work.json")  # the trials so far
    done: dict[str, list[dict[str, Any]]] = json.loads(work.read_text()) if work.exists() else {}
    head = header(script)
    for name in args.sections:
        section, trials = sections[name], done.setdefault(name, [])
        while len(trials) < (args.trials or section.trials):
            begin = time.monotonic()
            trials.append(section.work(place, len(trials)))
            say(f"{name} {len(trials)}: {trials[-1]} ({time.monotonic() - begin:.0f} s)")
            write_json(work, done)
            found = {key: summary(sections[key].promise, tried) for key, tried in done.items() if tried}
            before = json.loads(args.out.read_text())["sections"] if args.out.exists() else {}
            write_json(args.out, {**head, **facts, "sections": before | found})
    work.unlink(missing_ok=True)


def summary(promise: str, trials: list[dict[str, Any]]) -> dict[str, Any]:
    """Add up the trials of a section."""
    endings = Counter[str]()
    for trial in trials:
        endings.update(trial.get("codes", {}))
    bad = [trial for trial in trials if not trial["good"]]
    sums = {key: sum(one[key] for one in trials) for key in SUMS if key in trials[0]}
    peaks = {key: max(one[key] for one in trials) for key in HIGHEST if key in trials[0]}
    return {
        "promise": promise,
        "trials": len(trials),
        "as_promised": len(trials) - len(bad),
        **sums,
        **peaks,
        "exit_codes": dict(sorted(endings.items())),
        "failed": bad,
    }
