"""Compare the time of a sample from worldlab's replay with torchrl's SliceSampler and sheeprl's buffer.

    python benchmarks/replay.py --out benchmarks/results/replay.json

A sample is 16 sequences of 64 steps as tensors, from memory or from files: of 24 numbers a step, or of 64 x 64 x 3
pixels. `add_us_a_step` is the time to store a step; worldlab stores single steps, and the peers whole episodes of 1,000.
Run it on an idle machine.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from interleave import Comparison, Contender, Worker, header, write_json
from peers import REQUIREMENTS, PeerError, python_of

SIZES = {"vector": (10_000, 100_000, 1_000_000), "pixels": (10_000, 100_000)}
"""Steps in the replay."""


def contenders(kind: str, steps: int, storage: str, calls: int, left_out: dict[str, str]) -> list[Contender]:
    """Return worldlab and the peers. left_out: receives the peers that cannot be installed."""
    options = [kind, str(steps), "--storage", storage]
    found = [Contender("worldlab", Worker("worldlab_replay.py", *options), "sample", calls)]
    for peer in REQUIREMENTS:
        try:
            worker = Worker(f"{peer}_replay.py", *options, python=python_of(peer), root=None)
            found.append(Contender(peer, worker, "sample", calls))
        except PeerError as error:
            left_out[peer] = str(error)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--storage", nargs="+", choices=["ram", "disk"], default=["ram", "disk"])
    parser.add_argument("--largest", type=int, default=1_000_000, help="leave larger replays out")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--samples", type=int, default=40, help="samples in a block")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    result: dict[str, Any] = {**header("replay.py"), "cases": []}
    for kind in args.kinds:
        for steps in (size for size in SIZES[kind] if size <= args.largest):
            for storage in args.storage:
                left_out: dict[str, str] = {}
                found = contenders(kind, steps, storage, args.samples, left_out)
                comparison = Comparison(found, left_out=left_out)
                case = {"kind": kind, "steps": steps, "storage": storage, **comparison.measure(args.rounds)}
                result["cases"].append(case)
                comparison.show(f"{kind} {steps:,} {storage}")
                if args.out:
                    write_json(args.out, result)


if __name__ == "__main__":
    main()
