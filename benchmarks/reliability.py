"""Count how many interrupted runs end with the bytes of an uninterrupted one.

    python benchmarks/reliability.py --out benchmarks/results/reliability.json

T-KILL kills a run with SIGKILL at random moments and at random failpoints (worldlab.runs.failpoints), or lets a write
fail there (ENOSPC, EIO). "every failpoint" kills one run at each failpoint that an uninterrupted run reaches. T-STOP
sends SIGINT and SIGTERM at random moments. After each interruption the same command,
`worldlab train ... --run X --resume`, goes on. A chain is one run with `--links` interruptions; at its end the newest
checkpoint, metrics.jsonl, result.json (without its seconds), monitor.csv (without its seconds) and the replay must be
those of the uninterrupted run, byte for byte.

The result is written after every chain, and a restart goes on with the chains that are missing. `--sections` chooses
what to measure; SECTIONS is where another section is added.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interleave import header, say, write_json
from machine import ROOT

sys.path.insert(0, str(ROOT / "tests" / "kits"))
from interrupted_runs import TINY, leftovers, outcome, points, train

ACTIONS = ("kill", "kill", "errno:ENOSPC", "errno:EIO")


@dataclass(frozen=True)
class Whole:
    """The uninterrupted run: what it leaves, its seconds, and the number of failpoints that it reaches."""

    place: Path
    left: dict[str, Any]
    seconds: float
    points: list[str]


def failpoint_link(whole: Whole, run: str, chance: random.Random) -> tuple[str, int]:
    """Let one operation fail. Returns what was done, and the exit code."""
    begun = (whole.place / run).exists()  # a resumed run has fewer operations before it
    count, action = chance.randrange(1, len(whole.points) // (3 if begun else 1) + 1), chance.choice(ACTIONS)
    return action, train(whole.place, run, TINY, failpoint=f"*:{count}={action}").code


def moment(whole: Whole, run: str, chance: random.Random) -> float:
    """Return a random moment, in seconds. A resumed run has less to do than a whole one."""
    return chance.uniform(0, whole.seconds / (2 if (whole.place / run).exists() else 1))


def kill_link(whole: Whole, run: str, chance: random.Random) -> tuple[str, int]:
    after = moment(whole, run, chance)
    return "SIGKILL", train(whole.place, run, TINY, after=after, number=signal.SIGKILL).code


def stop_link(whole: Whole, run: str, chance: random.Random) -> tuple[str, int]:
    number = chance.choice((signal.SIGINT, signal.SIGTERM))
    after = moment(whole, run, chance)
    return number.name, train(whole.place, run, TINY, after=after, number=number).code


EVERY = "T-KILL every failpoint"
SECTIONS: dict[str, Callable[[Whole, str, random.Random], tuple[str, int]]] = {
    "T-KILL failpoints": failpoint_link,
    "T-KILL moments": kill_link,
    "T-STOP": stop_link,
}
EXPECTED = {0, 6, -signal.SIGKILL, 128 + signal.SIGINT, 128 + signal.SIGTERM, -signal.SIGTERM}
"""Exit codes after an interruption. 0: it came too late. -SIGTERM: before there is anything to save; a shell shows 143."""


def chain(whole: Whole, section: str, number: int, links: int) -> dict[str, Any]:
    """Interrupt a run several times, let it finish, and compare."""
    run = f"{section.replace(' ', '-')}-{number}"
    shutil.rmtree(whole.place / run, ignore_errors=True)
    chance = random.Random(f"{section} {number}")
    return finish(whole, run, [SECTIONS[section](whole, run, chance) for _ in range(links)])


def kill_at(whole: Whole, count: int) -> dict[str, Any]:
    """Kill a run at one failpoint, counted from 1, let it finish, and compare."""
    run = f"failpoint-{count}"
    shutil.rmtree(whole.place / run, ignore_errors=True)
    killed = train(whole.place, run, TINY, failpoint=f"*:{count}=kill")
    return {"failpoint": count, **finish(whole, run, [("kill", killed.code)])}


def draw(left: set[int], points: list[str]) -> int:
    """Take a random one of the failpoints that are left, so that what is done so far is a sample.

    Points after an operation come last: the disk is then as before the next operation.
    """
    others = [count for count in left if not points[count - 1].endswith(".after")]
    count = random.choice(sorted(others or left))
    left.remove(count)
    return count


def finish(whole: Whole, run: str, done: list[tuple[str, int]]) -> dict[str, Any]:
    """Let an interrupted run go on to its end, and compare. done: the interruptions and their exit codes."""
    ended = train(whole.place, run, TINY)
    found = outcome(whole.place / run) if ended.code == 0 else {}
    differ = sorted(key for key in whole.left.keys() | found.keys() if found.get(key) != whole.left.get(key))
    left = leftovers(whole.place / run)
    if not differ and not left:
        shutil.rmtree(whole.place / run)
    codes = [f"{what}: {code}" for what, code in done]
    return {
        "links": codes,
        "hit": sum(code != 0 for _, code in done),
        "wrong_codes": [code for _, code in done if code not in EXPECTED] + ([ended.code] if ended.code else []),
        "differ": differ,
        "left": left,
    }


def summary(chains: list[dict[str, Any]]) -> dict[str, Any]:
    """Add up the chains of a section."""
    same = [one for one in chains if not (one["wrong_codes"] or one["differ"])]
    return {
        "interruptions": sum(one["hit"] for one in chains),
        "interruptions_in_chains_with_the_same_bytes": sum(one["hit"] for one in same),
        "chains": len(chains),
        "chains_with_the_same_bytes": len(same),
        "leftover_files": sum(len(one["left"]) for one in chains),
        "endings": dict(sorted(Counter(link for one in chains for link in one["links"]).items())),
        "failed": [one for one in chains if one not in same or one["left"]],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sections", nargs="+", choices=[*SECTIONS, EVERY], default=[*SECTIONS, EVERY])
    parser.add_argument("--chains", type=int, default=20, help="chains of each random section")
    parser.add_argument("--links", type=int, default=5, help="interruptions in a chain")
    args = parser.parse_args()
    work = args.out.with_suffix(".work.json")  # the chains so far
    done: dict[str, list[dict[str, Any]]] = json.loads(work.read_text()) if work.exists() else {}
    head = header("reliability.py")
    with tempfile.TemporaryDirectory() as folder:
        whole = uninterrupted(Path(folder))
        for section in args.sections:
            chains = done.setdefault(section, [])
            left = set(range(1, len(whole.points) + 1)) - {one.get("failpoint") for one in chains}
            wanted = len(chains) + len(left) if section == EVERY else args.chains
            while len(chains) < wanted:
                if section == EVERY:
                    chains.append(kill_at(whole, draw(left, whole.points)))
                else:
                    chains.append(chain(whole, section, len(chains), args.links))
                say(f"{section} {len(chains)}/{wanted}: {chains[-1]}")
                write_json(work, done)
                write_json(args.out, result(args.out, head, whole, done))
    work.unlink(missing_ok=True)


def uninterrupted(place: Path) -> Whole:
    """Make the run to compare with, twice: the second time every failpoint is listed."""
    train(place, "first", TINY)  # starts the server of forks, which takes its own time
    ended = train(place, "whole", TINY)
    assert ended.code == 0, ended.err
    whole = Whole(place, outcome(place / "whole"), ended.seconds, points(place, TINY))
    assert outcome(place / "traced") == whole.left, "two uninterrupted runs differ"
    return whole


def result(out: Path, head: dict[str, Any], whole: Whole, done: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return the file's content: sections measured elsewhere stay."""
    before = json.loads(out.read_text())["sections"] if out.exists() else {}
    sections = before | {section: summary(chains) for section, chains in done.items()}
    if EVERY in done:
        killed = {one["failpoint"] for one in done[EVERY]}
        states = {count for count, point in enumerate(whole.points, 1) if not point.endswith(".after")}
        sections[EVERY] |= {
            "failpoints": len(whole.points),
            "states": len(states),
            "states_killed": len(states & killed),
        }
    return {
        **head,
        "run": " ".join(TINY),
        "failpoints": len(whole.points),
        "seconds_of_a_run": round(whole.seconds, 2),
        "sections": sections,
    }


if __name__ == "__main__":
    main()
