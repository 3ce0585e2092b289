"""Runs that are killed, stopped or denied the disk, then continued by the same command, and compared with a whole run.

Each process is a fork of one that has imported torch. benchmarks/reliability.py does at length what the suite does in small.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forks import SECONDS, start_fork

from worldlab.runs.checkpoint import latest_valid
from worldlab.runs.failpoints import VARIABLE

TINY = shlex.split("""
--env CartPole --preset laptop --strict --device cpu --size nano --seed 3 --steps 96 --train.prefill 48 --train.pretrain 4
--train.ratio 0.25 --train.batch-size 2 --train.batch-length 8 --train.starts 8 --agent.horizon 3 --env.time-limit 30
--eval.every 40 --eval.episodes 1 --eval.final-episodes 1 --log.every 7 --log.checkpoint 20 --log.keep 2 --log.pictures 0
--track none
""")
"""A strict run with everything that a resume must continue: episodes across checkpoints, evaluations, uneven log lines."""


@dataclass(frozen=True)
class Ended:
    """How a process ended, after how many seconds, and what it printed to stderr."""

    code: int
    seconds: float
    err: str


def train(
    place: Path,
    run: str,
    flags: list[str],
    *,
    failpoint: str = "",
    after: float | None = None,
    number: int = signal.SIGKILL,
) -> Ended:
    """Run `worldlab train FLAGS --run RUN --resume`. after: seconds from its begin to a signal.

    failpoint: see worldlab.runs.failpoints.
    """
    environment = dict(os.environ) | ({VARIABLE: failpoint} if failpoint else {})
    out, err = place / f"{run}.stdout", place / f"{run}.stderr"
    line = ("train", *flags, "--run", run, "--resume")
    err.unlink(missing_ok=True)
    begin = time.monotonic()
    process = start_fork(become_train, place, line, environment, out, err)
    if after is not None:
        while not err.exists() and process.exitcode is None:  # a fork that has not begun is no `worldlab train`
            time.sleep(0.005)
    process.join(SECONDS if after is None else after)
    if after is not None and process.pid is not None and process.exitcode is None:
        os.kill(process.pid, number)
        process.join(SECONDS)
    process.kill()
    process.join()
    assert process.exitcode is not None
    return Ended(process.exitcode, time.monotonic() - begin, err.read_text() if err.exists() else "")


def become_train(place: Path, line: tuple[str, ...], environment: dict[str, str], out: Path, err: Path) -> None:
    """Become `worldlab LINE` in the folder `place`, with its output in two files."""
    from PIL import Image

    from worldlab.evaluation import open_loop

    open_loop.vector_strip = lambda *_, **__: Image.new("RGB", (8, 8))  # to plot takes longer than the rest
    os.chdir(place)
    os.environ.clear()
    os.environ.update(environment)
    sys.path.insert(0, str(place))
    sys.argv = ["worldlab", *line]
    for file, stream in ((out, sys.stdout), (err, sys.stderr)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream.fileno())
    from worldlab.cli import main

    sys.exit(main(list(line)))


def outcome(run: Path) -> dict[str, Any]:
    """Return what an interruption must not change: the newest checkpoint, metrics, result, episodes and experience."""
    checkpoint = latest_valid(run / "checkpoints", move=False)
    state = checkpoint.state
    del state["counters"]["seconds"]  # the only entry that depends on the clock
    result = json.loads((run / "result.json").read_text())
    del result["wall_seconds"]
    tensors = [checkpoint.path / f"{name}.safetensors" for name in checkpoint.names]
    digests = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in [run / "metrics.jsonl", *tensors, *sorted(run.glob("replay/seg-*.log"))]
    }
    episodes = [row.rpartition(",")[0] for row in (run / "monitor.csv").read_text().splitlines()[1:]]
    return {**digests, "state": state, "result": result, "episodes": episodes}


def leftovers(run: Path) -> list[str]:
    """Return the names of half-written files and folders."""
    marks = (".stage-", ".trash-", ".temp-")
    return [path.name for path in run.rglob("*") if path.name.startswith(marks)]


def points(place: Path, flags: list[str]) -> list[str]:
    """Return every failpoint that a whole run reaches, in order. The run is left in place/"traced"."""
    trace = place / "points"
    ended = train(place, "traced", flags, failpoint=f"*:0=trace:{trace}")
    assert ended.code == 0, ended.err
    return trace.read_text().split()
