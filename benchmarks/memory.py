"""Measure the memory of a run, and how much it grows with the number of updates.

    python benchmarks/memory.py --out benchmarks/results/memory.json

`runs` gives the highest resident memory of `worldlab train` and its child processes together. Pages that they share
count once for each process. `growth` makes updates on a fixed batch, without a run around them: after the first 100 the
resident memory should stay the same. The slope is fitted to its values after every 50 updates.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from interleave import Worker, header, say, source_path, write_json

MIB = 2**20
BLOCK, WARM = 50, 100
ENVS = ("Pendulum", "CarRacing")
KINDS = ("vector", "pixels", "laptop-pendulum", "laptop-carracing")
QUIET = ("--eval.every", "0", "--eval.final-episodes", "1", "--log.pictures", "0")


def peak_of_run(env: str, steps: int) -> dict[str, Any]:
    """Train for some steps. Returns: the highest resident memory of the process tree in MiB. Raises: SystemExit."""
    words = ["train", "--env", env, "--run", "run", "--steps", str(steps), *QUIET]
    if env == "CarRacing":
        words += ["--train.prefill", str(steps // 2), "--train.pretrain", "20"]
    with tempfile.TemporaryDirectory(prefix="worldlab-memory-") as name, tempfile.TemporaryFile("w+") as output:
        command = [sys.executable, "-m", "worldlab", *words]
        variables = {**os.environ, "PYTHONPATH": source_path()}
        process = psutil.Popen(command, cwd=name, env=variables, stdout=output, stderr=subprocess.STDOUT)
        peak = 0
        while process.poll() is None:
            peak = max(peak, resident(process))
            time.sleep(0.1)
        if process.returncode:
            output.seek(0)
            sys.exit(f"worldlab {' '.join(words)} failed:\n{output.read()[-2000:]}")
    return {"command": f"worldlab {' '.join(words)}", "peak_mib": round(peak / MIB)}


def resident(process: psutil.Process) -> int:
    """Return the resident bytes of a process and its children."""
    total = 0
    try:
        for one in (process, *process.children(recursive=True)):
            total += one.memory_info().rss
    except psutil.Error:  # one has just ended
        pass
    return total


def growth(kind: str, updates: int, threads: int) -> dict[str, Any]:
    """Return the resident memory over a number of updates, in MiB, and its slope in KiB an update."""
    worker = Worker("worldlab_update.py", kind, "--threads", str(threads))
    values = []
    try:
        worker.start()
        for _ in range(WARM // BLOCK):
            worker.run("update", BLOCK)
        values.append(worker.memory()["now"])
        for _ in range(max(1, updates // BLOCK)):
            worker.run("update", BLOCK)
            values.append(worker.memory()["now"])
        peak = worker.memory()["peak"]
    finally:
        worker.close()
    slope = float(np.polyfit(BLOCK * np.arange(len(values)), np.array(values) / 1024, 1)[0])
    return {
        "updates": BLOCK * (len(values) - 1),
        "first_mib": round(values[0] / MIB, 1),
        "last_mib": round(values[-1] / MIB, 1),
        "peak_mib": round(peak / MIB, 1),
        "slope_kib_an_update": round(slope, 3),
        "mib": [round(value / MIB, 1) for value in values],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", nargs="*", choices=ENVS, default=list(ENVS))
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=list(KINDS))
    parser.add_argument("--steps", type=int, default=2000, help="steps of a run")
    parser.add_argument("--updates", type=int, default=1000, help="updates after the first 100")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    result: dict[str, Any] = {**header("memory.py"), "runs": {}, "growth": {}}
    for env in args.envs:
        result["runs"][env] = peak_of_run(env, args.steps)
        say(f"{env}: {result['runs'][env]}")
    for kind in args.kinds:
        found = result["growth"][kind] = growth(kind, args.updates, args.threads)
        say(f"{kind}: {found}")
        if args.out:
            write_json(args.out, result)
    if args.out:
        write_json(args.out, result)


if __name__ == "__main__":
    main()
