"""Measure imagined steps per second of worldlab's five dynamics and of torchrl's RSSM, and of simulators.

    python benchmarks/imagination.py --out benchmarks/results/imagination.json

A dream of 15 steps starts from 1, 64, 1,024 or 4,096 states, without gradients. "prior" rolls the dynamics out alone.
"heads" adds the reward and continue heads of worldlab; torchrl's rollout has the reward only. The models are those of
the workload vector in updates.py, but each dynamics has the parameters of the RSSM within 2%. Large matrix products go
to oneDNN where that is faster, as in a run; torchrl is measured both ways. `simulators` gives the speed of each dynamics
as a multiple of a simulator's, both in decisions, measured in the same rounds. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from interleave import Comparison, Contender, Worker, header, ratio, write_json
from peers import PeerError, python_of

import envs

SIZES = {
    "vae": (248, 96),
    "flow": (224, 96),
    "autoregressive": (96, 120),
    "gan": (212, 96),
    "cpc": (134, 96),
}
"""Memory and units with which each dynamics has 307 thousand parameters; cpc's include those that only training uses."""
TORCHRL = {"torchrl": "highest", "torchrl, medium": "medium"}
"""The precision of torch's products that torchrl is measured with, by contender."""
BATCHES = (1, 64, 1024, 4096)
CALLS = ("prior", "heads")
SIMULATORS = {
    "HalfCheetah, gymnasium": ("HalfCheetah", "gymnasium", 1, 0),
    "HalfCheetah, worldlab, 8 envs": ("HalfCheetah", "worldlab", 8, 0),
    "CarRacing, gymnasium": ("CarRacing", "gymnasium", 1, 0),
    "CarRacing, worldlab, 8 envs, 2 workers": ("CarRacing", "worldlab", 8, 2),
}


def dreams(name: str, worker: Worker, args: argparse.Namespace) -> list[Contender]:
    """Return the rollouts of one model. The base of torchrl's is the RSSM of worldlab, of the same size."""
    base = "worldlab vae" if name in TORCHRL else name
    return [
        Contender(
            f"{name}, {call} {n}", worker, f"{call}-{n}", 1, args.seconds, f"{base}, {call} {n}", n * args.horizon
        )
        for n in args.batches
        for call in CALLS
    ]


def contenders(args: argparse.Namespace, left_out: dict[str, str]) -> list[Contender]:
    """Return all models and simulators. left_out: receives a peer that cannot be installed."""
    shared = ["--batches", *map(str, args.batches), "--horizon", str(args.horizon), "--threads", str(args.threads)]
    found = []
    for name in args.dynamics:
        memory, units = SIZES[name]
        sizes = {"name": name, "memory": memory, "units": units}
        worker = Worker(
            "worldlab_imagine.py", "vector", *(f"--set=dynamics.{k}={v}" for k, v in sizes.items()), *shared
        )
        found += dreams(f"worldlab {name}", worker, args)
    try:
        for name, matmul in TORCHRL.items():
            worker = Worker("torchrl_imagine.py", f"--matmul={matmul}", *shared, python=python_of("torchrl"), root=None)
            found += dreams(name, worker, args)
    except PeerError as error:
        left_out["torchrl"] = str(error)
    found += [envs.contender(*how[:1], name, *how[1:], args.seconds, name) for name, how in SIMULATORS.items()]
    return found


def multiples(comparison: Comparison, batch: int) -> dict[str, Any]:
    """Return, for each dream of this batch, its speed as a multiple of each simulator's, with its interval."""
    units = {one.name: one.units for one in comparison.contenders}
    dreamt = [name for name in units if name.endswith(f" {batch}") and name not in SIMULATORS]
    return {
        name: {real: ratio(comparison.rounds, real, name, units[name] / units[real]) for real in SIMULATORS}
        for name in dreamt
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dynamics", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--batches", type=int, nargs="+", default=list(BATCHES))
    parser.add_argument("--horizon", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.7, help="least duration of a block")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    left_out: dict[str, str] = {}
    result = {**header("imagination.py", "gymnasium", "mujoco"), "horizon": args.horizon, "threads": args.threads}
    comparison = Comparison(contenders(args, left_out), left_out=left_out)

    def store(found: Comparison) -> None:
        simulators = {str(n): multiples(found, n) for n in args.batches}
        if args.out:
            write_json(args.out, {**result, **found.found(), "simulators": simulators})

    comparison.measure(args.rounds, store)
    store(comparison)
    comparison.show("imagination")


if __name__ == "__main__":
    main()
