"""Measure imagined steps per second of worldlab's five dynamics and of torchrl's RSSM, and of simulators.

    python benchmarks/imagination.py --out benchmarks/results/imagination.json

A dream of 15 steps starts from 1, 64, 1,024 or 4,096 states, without gradients. "prior" rolls the dynamics out alone.
"heads" adds the reward and continue heads of worldlab; torchrl's rollout has the reward only. The models are those of
the workload vector in updates.py. `simulators` gives the speed of each dynamics as a multiple of a simulator's, both in
decisions, measured in the same rounds. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from interleave import Comparison, Contender, Worker, header, ratio, write_json
from peers import PeerError, python_of

import envs

DYNAMICS = ("vae", "flow", "autoregressive", "gan", "cpc")
BATCHES = (1, 64, 1024, 4096)
CALLS = ("prior", "heads")
SIMULATORS = {
    "HalfCheetah, gymnasium": ("HalfCheetah", "gymnasium", 1, 0),
    "HalfCheetah, worldlab, 8 envs": ("HalfCheetah", "worldlab", 8, 0),
    "CarRacing, gymnasium": ("CarRacing", "gymnasium", 1, 0),
    "CarRacing, worldlab, 8 envs, 2 workers": ("CarRacing", "worldlab", 8, 2),
}


def dreams(name: str, worker: Worker, args: argparse.Namespace) -> list[Contender]:
    """Return the rollouts of one model; worldlab's of the same size is the base of torchrl's."""
    base = "worldlab vae" if name == "torchrl" else name
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
        worker = Worker("worldlab_imagine.py", "vector", f"--set=dynamics.name={name}", *shared)
        found += dreams(f"worldlab {name}", worker, args)
    try:
        worker = Worker("torchrl_imagine.py", *shared, python=python_of("torchrl"), root=None)
        found += dreams("torchrl", worker, args)
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
    parser.add_argument("--dynamics", nargs="+", choices=DYNAMICS, default=list(DYNAMICS))
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
