"""Measure what reliability costs: the processor time of whole runs with and without it, in turn.

    python benchmarks/reliability_cost.py --out benchmarks/results/reliability_cost.json

`workers/unsafe_train.py` is `worldlab train` without checkpoints because of the time, writes between checkpoints, recorded
actions, digests and time limits. Each pair of runs gives a ratio of processor seconds, child processes included: on a machine
that others use, seconds of the clock would measure them. With `--before TREE`, `--help` is compared to that of another
checkout. The result is written after every pair, and a restart goes on.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from interleave import WORKERS, header, say, source_path, write_json
from machine import ROOT, commit

RUNS = {
    "debug": ["train", "--env", "CartPole", "--preset", "debug", "--run", "run"],
    "laptop": ["train", "--env", "CartPole", "--preset", "laptop", "--steps", "1500", "--run", "run"],
}


HELPS = 40
"""Pairs of `--help`."""


def measure(words: list[str], safe: bool, root: Path = ROOT) -> dict[str, float]:
    """Run a command in a new process. Returns: its seconds of processor time and of the clock. Raises: SystemExit if it fails."""
    program = ["-m", "worldlab"] if safe else [str(WORKERS / "unsafe_train.py")]
    with tempfile.TemporaryDirectory() as folder:
        before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        done = subprocess.run(
            [sys.executable, *program, *words],
            cwd=folder,
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": source_path(root), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            sys.exit(done.stderr[-2000:])
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"cpu": round(cpu, 4), "wall": round(time.monotonic() - begin, 1)}


def summary(pairs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the median of the ratios, and the lowest and the highest."""
    ratios = [pair["with"]["cpu"] / pair["without"]["cpu"] for pair in pairs]
    return {
        "median_ratio_of_cpu": round(statistics.median(ratios), 4),
        "lowest": round(min(ratios), 4),
        "highest": round(max(ratios), 4),
        "pairs": pairs,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--before", type=Path, help="the root of an older checkout, for --help")
    args = parser.parse_args()
    head = header("reliability_cost.py")
    found: dict[str, Any] = json.loads(args.out.read_text())["runs"] if args.out.exists() else {}
    for name in args.runs:
        pairs = found.get(name, {}).get("pairs", [])
        while len(pairs) < args.pairs:
            order = (True, False) if len(pairs) % 2 else (False, True)
            pair = {"with" if safe else "without": measure(RUNS[name], safe) for safe in order}
            pairs.append(pair)
            say(f"{name}: {pair}")
            found[name] = {"command": f"worldlab {' '.join(RUNS[name])}", **summary(pairs)}
            write_json(args.out, {**head, "runs": found})

    if args.before:
        pairs = [
            {"with": measure(["--help"], True), "without": measure(["--help"], True, args.before)} for _ in range(HELPS)
        ]
        found["help"] = {"command": "worldlab --help", "before": commit(args.before)["commit"], **summary(pairs)}
        write_json(args.out, {**head, "runs": found})


if __name__ == "__main__":
    main()
