"""Compare the speed of environments in worldlab's EnvPool with plain Gymnasium and its AsyncVectorEnv.

    python benchmarks/envs.py --out benchmarks/results/envs.json

CarRacing repeats each action for 4 frames and gives 64 x 64 pixels; HalfCheetah gives vectors. Every row counts
decisions per second, summed over its environments. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

from interleave import Comparison, Contender, Worker, header, write_json

ENVS = ("CarRacing", "HalfCheetah")
DECISIONS = {"CarRacing": 20, "HalfCheetah": 1000}
"""Decisions of each environment in one call: about a second's work."""
PLAIN = "gymnasium, 1 env"


def runners(cores: int) -> dict[str, tuple[str, int, int]]:
    """Return (runner, environments, workers) by name."""
    return {
        PLAIN: ("gymnasium", 1, 0),
        f"gymnasium async, {cores} envs": ("async", cores, cores),
        "gymnasium async, 8 envs": ("async", 8, 8),
        "worldlab, 1 env, no worker": ("worldlab", 1, 0),
        "worldlab, 1 env, 1 worker": ("worldlab", 1, 1),
        f"worldlab, {cores} envs, {cores} workers": ("worldlab", cores, cores),
        "worldlab, 8 envs, no worker": ("worldlab", 8, 0),
        f"worldlab, 8 envs, {cores} workers": ("worldlab", 8, cores),
    }


def contender(env: str, name: str, runner: str, envs: int, workers: int, seconds: float, base: str = "") -> Contender:
    """Return a runner as a contender; its blocks give means, since only some steps reset an environment."""
    options = [env, runner, "--envs", str(envs), "--workers", str(workers), "--decisions", str(DECISIONS[env])]
    made = Worker("env_steps.py", *options)
    units = envs * DECISIONS[env]
    return Contender(name, made, "steps", 1, seconds, base, units, summary=statistics.fmean)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", nargs="+", choices=ENVS, default=list(ENVS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0, help="least duration of a block")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    result: dict[str, Any] = {**header("envs.py", "gymnasium", "mujoco"), "envs": {}}
    for env in args.envs:
        chosen = runners(args.cores).items()
        comparison = Comparison([contender(env, name, *how, args.seconds, PLAIN) for name, how in chosen])
        found = comparison.measure(args.rounds)
        result["envs"][env] = found
        comparison.show(env)
        if args.out:
            write_json(args.out, result)


if __name__ == "__main__":
    main()
