"""Measure the seconds from a command to its first output: help, the first update, and the first picture.

    python benchmarks/startup.py --out benchmarks/results/startup.json

Each command runs in a new process and an empty folder. The first update ends when its losses are in metrics.jsonl, after
a prefill of 40 steps and no other updates before it. The first picture is a dream of the same run. Each number is the
median of five; the commands take turns. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from interleave import header, say, source_path, write_json

LIMIT_S = 300.0
FIRST = ("--train.prefill", "40", "--train.pretrain", "1", "--steps", "1000", "--eval.every", "0")
Done = Callable[[Path], bool]
"""Whether the output that is waited for exists in a folder."""


def train(env: str, *options: str) -> list[str]:
    return ["train", "--env", env, "--run", "run", *FIRST, *options]


def has_update(folder: Path) -> bool:
    """Return whether the run has logged an update."""
    for path in folder.rglob("metrics.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue  # a line that is being written
            if any(str(key).startswith("loss/") for key in record):
                return True
    return False


def has_picture(folder: Path) -> bool:
    """Return whether the run has drawn a dream."""
    return any(path.stat().st_size for path in folder.rglob("dream-*") if path.is_file())


def commands(env: str) -> dict[str, tuple[list[str], Done | None]]:
    """Return each command and what ends its measurement; None is its own end."""
    return {
        "help": (["--help"], None),
        "first update": (train(env, "--log.every", "1", "--log.pictures", "0"), has_update),
        "first picture": (train(env, "--log.pictures", "64"), has_picture),
    }


def measure(words: list[str], done: Done | None) -> float:
    """Return the seconds until a command is done. Raises: SystemExit with its output if it fails or takes too long."""
    with tempfile.TemporaryDirectory(prefix="worldlab-startup-") as name, tempfile.TemporaryFile("w+") as output:
        env = {**os.environ, "PYTHONPATH": source_path()}
        command = [sys.executable, "-m", "worldlab", *words]
        begin = time.perf_counter()
        process = subprocess.Popen(command, cwd=name, env=env, stdout=output, stderr=subprocess.STDOUT)
        try:
            while time.perf_counter() - begin < LIMIT_S:
                ended = process.poll() is not None
                if done is None and ended and process.returncode == 0:
                    return time.perf_counter() - begin
                if done is not None and done(Path(name)):
                    return time.perf_counter() - begin
                if ended:
                    break
                time.sleep(0.005)
        finally:
            process.kill()
            process.wait()
        output.seek(0)
        sys.exit(f"worldlab {' '.join(words)} did not get there:\n{output.read()[-2000:]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="Pendulum")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    chosen = commands(args.env)
    seconds: dict[str, list[float]] = {name: [] for name in chosen}
    result = {**header("startup.py"), "env": args.env}
    for _ in range(args.rounds):
        for name, (words, done) in chosen.items():
            seconds[name].append(round(measure(words, done), 3))
            say(f"{name}: {seconds[name][-1]} s")
    rows: dict[str, Any] = {
        name: {"command": f"worldlab {' '.join(words)}", "median_s": statistics.median(found), "seconds": found}
        for (name, (words, _)), found in zip(chosen.items(), seconds.values(), strict=True)
    }
    for name, row in rows.items():
        print(f"{name:16} {row['median_s']:.2f} s  {row['seconds']}")
    if args.out:
        write_json(args.out, {**result, "rows": rows})


if __name__ == "__main__":
    main()
