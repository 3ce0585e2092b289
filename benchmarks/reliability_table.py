"""The table of faults of docs/reliability.md: what was tried how often, and what others do. `tables.py` writes it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PEERS = ROOT / "benchmarks" / "data" / "reliability_peers.json"
HEADER = ["test", "what was tried", "trials", "as promised", "silent or lost", "others"]
KILLS = {
    "T-KILL moments": "SIGKILL at a random moment of a strict run; it ends with the same bytes",
    "T-KILL failpoints": "SIGKILL, or a failed write, at a random failpoint; the same",
    "T-KILL every failpoint": "SIGKILL at {killed} of the {failpoints} failpoints of a run, one by one, among them {states_killed} "
    "of the {states} before or within an operation; the same",
    "T-STOP": "SIGINT or SIGTERM at a random moment; the same, exit code 130 or 143",
}
RUNS = {
    "T-FULL": "a file system of 8 to 700 KB: exit code 6; the same bytes after it has grown",
    "T-LOCK": "ten starts at once in one folder: one trains, nine end with exit code 8",
    "T-SEED": "another hash seed, time zone, language, folder and number of workers: the same bytes",
}
ENVS = {
    "D1": "one of eight environments raises: one step is lost, no record crosses the crash, the others play on",
    "D2": "one of eight hangs: the same, reported at most a second after its limit",
    "D3": "one of eight workers is killed: the same, no zombie is left",
    "D4": "30 kinds of wrong returns, in process and in workers: refused at that step, with what was expected",
    "D5": "the environment returns the same array at each of 10,000 steps: no record follows it",
    "D6": "a MuJoCo simulation diverges: a crash at that step, no such record",
    "D7": "an environment without seeds: `check-env` finds it, a resume is reported as approximate",
    "D8": "50 workers in turn are killed and replaced: no descriptor, child or memory is left",
    "D9": "the old interface, spaces that are missing, unusable or differ: refused before the first step",
}
NUMBERS = {
    "T-NAN": "NaN, inf or 1e38 once, in a module, a loss, an observation, a reward or an action: reported in its update, "
    "changes no weight of its player, is in no checkpoint",
    "T-NAN for ever": "the same in every update: exit code 5 after ten, the checkpoint whole",
    "T-CFG": "a wrong configuration: exit code 2 within 0.5 s of processor time, before torch is imported",
}


def rows() -> Iterator[list[str]]:
    """Yield the rows of the table."""
    peers = json.loads(PEERS.read_text(encoding="utf-8"))
    for test, *cells in _measured():
        yield [test, *cells, peers.get(test, "")]


def _measured() -> Iterator[list[str]]:
    kills = _read("reliability.json")
    for test, what in KILLS.items():
        if test in kills["sections"]:
            found = kills["sections"][test]
            yield _kill_row(test, what.format(killed=found["chains"], **found), found)
    yield from _rows("reliability_runs.json", RUNS)
    files = _read("reliability_files.json")
    flips, rot, hostile = files["size"], files["summary"]["rot"], files["summary"]["hostile"]
    tried = f"{flips['flips']:,} flipped bits and {flips['cuts']} cuts of each of {rot['kinds']} kinds of file"
    total = rot["detected"] + rot["harmless"] + rot["silent"] + rot["crashed"]
    yield ["T-ROT", tried, f"{total:,}", f"{rot['detected'] + rot['harmless']:,}", str(rot["silent"])]
    tried = f"{hostile['folders']} folders of a stranger, each given to four commands under an audit hook: no event"
    yield ["hostile", tried, str(hostile["commands"]), str(hostile["commands"] - hostile["wrong"]), "0"]
    yield from _rows("reliability_numbers.json", NUMBERS)
    yield from _rows("reliability_envs.json", ENVS)
    for name, run in _read("soak.json")["runs"].items():
        yield _soak_row(name, run)


def _read(name: str) -> Any:
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def _kill_row(test: str, what: str, found: dict[str, Any]) -> list[str]:
    same = found["interruptions_in_chains_with_the_same_bytes"]
    return [test, what, str(found["interruptions"]), str(same), str(found["interruptions"] - same)]


def _rows(file: str, tests: dict[str, str]) -> Iterator[list[str]]:
    sections = _read(file)["sections"]
    for test, what in tests.items():
        if test not in sections:
            continue
        found = sections[test]
        trials, bad = found["trials"], found["trials"] - found["as_promised"]
        each = found.get("events", trials) // trials if test in ("D1", "D2", "D3", "D8") else 1
        lost = sum(found.get(key, 0) for key in ("lost", "stale", "silent"))
        yield [test, what, f"{trials * each:,}", f"{(trials - bad) * each:,}", str(lost)]


def _soak_row(name: str, run: dict[str, Any]) -> list[str]:
    ends, ranges = run["rss_mib_an_hour"]["interval_95"], run["ranges"]
    what = (
        f"`{run['command']}` for {run['minutes']:.0f} minutes, {run['steps']:,} steps: memory (RSS) grows by "
        f"{run['rss_mib_an_hour']['estimate']:.1f} [{ends[0]:.1f}, {ends[1]:.1f}] MiB an hour, its replay included; "
        f"{_range(ranges['descriptors'])} descriptors, {_range(ranges['threads'])} threads"
    )
    return ["soak", what, f"{run['samples']} samples", "", ""]


def _range(ends: list[int]) -> str:
    return str(ends[0]) if ends[0] == ends[1] else f"{ends[0]} or {ends[1]}"


def costs() -> Iterator[list[str]]:
    """Yield the rows of the table of costs."""
    for run in _read("reliability_cost.json")["runs"].values():
        against = f"at commit {run['before'][:7]}" if "before" in run else "without what makes runs reliable"
        spread = f"{_percent(run['lowest'])} to {_percent(run['highest'])}"
        yield [f"`{run['command']}`", against, str(len(run["pairs"])), _percent(run["median_ratio_of_cpu"]), spread]


def _percent(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.1f}%"
