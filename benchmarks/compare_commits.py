"""Compare today's speed of an update with that of another commit, in one interleaved run.

    python benchmarks/compare_commits.py                             # against the commit of the last result
    python benchmarks/compare_commits.py --commit 7d545c2 --workloads laptop --out /tmp/compare.json

The code of the other commit is unpacked into a temporary folder, and today's worker runs it. A ratio above 1 says that
today's code is faster. Absolute times of different days cannot be compared, since a machine drifts; this ratio can.

Workloads: vector and pixels, as in updates.py, and laptop: the laptop preset on CartPole, Pendulum and CarRacing, with
vae in all roles and with autoregressive dynamics, on one thread and as the preset says.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from interleave import Comparison, Contender, Worker, header, say, write_json
from machine import ROOT, load

LAST = ROOT / "benchmarks" / "results" / "updates.json"
ENVS = ("cartpole", "pendulum", "carracing")
DYNAMICS = ("vae", "autoregressive")
WORKLOADS = ("vector", "pixels", "laptop")


def last_commit(path: Path = LAST) -> str:
    """Return the commit of the newest result of updates.py. Raises: SystemExit if there is none."""
    if not path.is_file():
        sys.exit(f"{path} is missing: give --commit")
    setups = [entry["setup"] for entry in json.loads(path.read_text(encoding="utf-8"))["workloads"].values()]
    found = {setup["commit"] for setup in setups}
    if len(found) != 1:
        sys.exit(f"{path} holds results of {len(found)} commits: give --commit")
    return found.pop()


def unpack(name: str, folder: Path) -> None:
    """Write the files of a commit into a folder. Raises: SystemExit if there is no such commit."""
    done = subprocess.run(["git", "-C", str(ROOT), "archive", name], capture_output=True)
    if done.returncode:
        sys.exit(done.stderr.decode().strip())
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")


def cases(workload: str, threads: int) -> dict[str, list[str]]:
    """Return the options of worldlab's worker for each case of a workload."""
    if workload != "laptop":
        return {workload: [workload, "--threads", str(threads)]}
    found = {}
    for env in ENVS:
        for dynamics in DYNAMICS:
            options = [f"laptop-{env}", *(f"--set={role}.name=vae" for role in ("encoder", "decoder"))]
            options.append(f"--set=dynamics.name={dynamics}")
            found[f"{env}, {dynamics} dynamics, 1 thread"] = [*options, "--threads", "1"]
            found[f"{env}, {dynamics} dynamics"] = options
    return found


def pair(name: str, options: list[str], old: Path, args: argparse.Namespace) -> list[Contender]:
    """Return the case today and at the other commit."""
    changes = [f"--set={change}" for change in args.set]
    today = Contender(f"{name}: today", Worker("worldlab_update.py", *options, *changes), count=args.updates)
    before = Worker("worldlab_update.py", *options, root=old)
    found = [today, Contender(f"{name}: then", before, count=args.updates, base=today.name)]
    if options[-1] == "1":  # one thread: a run with two cores then uses a second process
        second = Worker("worldlab_update.py", *options, *changes, "--beside")
        found.append(
            Contender(f"{name}: two processes", second, count=args.updates, base=today.name, summary=statistics.mean)
        )
    return found


def check_equal(name: str, contenders: list[Contender]) -> None:
    """Say so if the two do not measure the same number of parameters."""
    counts = [one.worker.facts.get("parameters") for one in contenders]
    if counts[0] != counts[1]:
        say(f"{name}: today's model has other parameters than then: {counts}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commit", help="by default the commit of benchmarks/results/updates.json")
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--only", default="", help="only cases whose name contains this text")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="SECTION.KEY=VALUE", help="a setting of today's code only"
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--updates", type=int, default=5, help="updates in a block")
    parser.add_argument("--threads", type=int, default=2, help="not for laptop")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    name = args.commit or last_commit()
    chosen = {k: v for workload in args.workloads for k, v in cases(workload, args.threads).items() if args.only in k}
    result: dict[str, Any] = {**header("compare_commits.py"), "then": name, "cases": {}}
    with tempfile.TemporaryDirectory(prefix="worldlab-commit-") as folder:
        unpack(name, Path(folder))
        for case, options in chosen.items():
            contenders = pair(case, options, Path(folder), args)
            comparison, before = Comparison(contenders), load()
            found = comparison.measure(args.rounds)
            check_equal(case, contenders)
            result["cases"][case] = {"load": [before, load()], **found}
            comparison.show("")
            if args.out:
                write_json(args.out, result)


if __name__ == "__main__":
    main()
