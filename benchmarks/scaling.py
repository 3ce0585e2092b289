"""Fit how the time of an update, a sample and a decision grows with its size: slopes on logarithmic axes.

    python benchmarks/scaling.py --out benchmarks/results/scaling.json

A slope of 1 means that twice the size takes twice the time; 0 means that the size does not matter. The sizes of an axis
are measured in turn, a slope is fitted in each round, and its interval is the bootstrap over the rounds. All is measured
on the workloads vector and pixels of updates.py, with one value changed. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from interleave import Comparison, Contender, Worker, estimate, header, write_json


@dataclass(frozen=True)
class Axis:
    """A quantity that is varied. worker: script and options for a value. call: what is timed."""

    what: str
    values: tuple[int, ...]
    worker: Callable[[int], tuple[str, ...]]
    call: str = "update"


def setting(name: str, *fixed: str, kind: str = "vector") -> Callable[[int], tuple[str, ...]]:
    """Return the worker of a training update in which one setting is varied."""
    others = [f"--set={change}" for change in fixed]
    return lambda value: ("worldlab_update.py", kind, f"--set={name}={value}", *others)


FEW = "train.starts=256"
AXES = {
    "latent": Axis("codes of 4 classes in the latent", (8, 16, 32, 64, 128), setting("encoder.groups")),
    "length": Axis("steps T of a sequence", (16, 32, 64, 128), setting("train.batch_length", FEW)),
    "horizon": Axis("imagined steps H", (5, 10, 20, 40), setting("agent.horizon", FEW)),
    "starts": Axis("states from which the agent imagines", (64, 128, 256, 512, 1024), setting("train.starts")),
    "side": Axis(
        "side of the image", (32, 64, 128), lambda side: ("worldlab_update.py", "pixels", "--side", str(side))
    ),
    "replay": Axis(
        "steps in the replay",
        (1_000, 10_000, 100_000, 1_000_000),
        lambda steps: ("worldlab_replay.py", "vector", str(steps)),
        "sample",
    ),
    "candidates": Axis(
        "candidates of a planner (MPPI, horizon 12, 6 iterations)",
        (64, 128, 256, 512, 1024, 2048),
        lambda count: ("worldlab_plan.py", "vector", "--candidates", str(count)),
        "decide",
    ),
}


def slopes(comparison: Comparison, axis: Axis) -> list[float]:
    """Return the slope of log time over log size in each complete round."""
    x = np.log(axis.values)
    complete = [now for now in comparison.rounds if len(now) == len(x)]
    return [float(np.polyfit(x, np.log([now[str(value)] for value in axis.values]), 1)[0]) for now in complete]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axes", nargs="+", choices=list(AXES), default=list(AXES))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="least duration of a block")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    result: dict[str, Any] = {**header("scaling.py"), "threads": args.threads, "axes": {}}
    for name in args.axes:
        axis = AXES[name]
        threads = [] if name == "replay" else ["--threads", str(args.threads)]
        found = [
            Contender(str(value), Worker(*axis.worker(value), *threads), axis.call, 2, args.seconds)
            for value in axis.values
        ]
        comparison = Comparison(found)
        measured = comparison.measure(args.rounds)
        slope = estimate(slopes(comparison, axis))
        result["axes"][name] = {"what": axis.what, "slope": slope, **measured}
        comparison.show(name)
        print(f"{name}: slope {slope['estimate']} {slope['interval_95'] or ''} over {axis.what}", flush=True)
        if args.out:
            write_json(args.out, result)


if __name__ == "__main__":
    main()
