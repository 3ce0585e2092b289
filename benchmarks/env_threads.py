"""Measure decisions per second of CarRacing in worker processes, with one BLAS thread per worker and by default.

    python benchmarks/env_threads.py --out benchmarks/results/env_threads.json

Blocks of both kinds are interleaved, and the ratio is that of their medians. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from worldlab.env import process
from worldlab.env.find import open_adapter
from worldlab.env.pool import EnvPool
from worldlab.registry import load_registry
from worldlab.settings import EnvSettings

BLOCKS, STEPS = 5, 30


def measure(envs: int, workers: int, free: bool) -> float:
    """Return decisions per second. free: workers may use any number of threads."""
    for name in process.BLAS_THREADS:
        os.environ.pop(name, None)
    kept = process.one_thread
    process.one_thread = nullcontext if free else kept  # type: ignore[assignment]
    adapter, env_id = open_adapter(load_registry(), "CarRacing")
    settings = EnvSettings(id=env_id, repeat=4, size=64)
    try:
        with EnvPool(lambda: adapter.make(env_id, settings), envs, workers, 0) as envs_pool:
            envs_pool.reset()
            action = np.array([0.0, 0.2, 0.0], np.float32)
            begin = time.perf_counter()
            for _ in range(STEPS):
                envs_pool.step([action] * envs)
            return envs * STEPS / (time.perf_counter() - begin)
    finally:
        process.one_thread = kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    found: dict[str, list[float]] = {"one_thread": [], "free": []}
    for _ in range(BLOCKS):
        for name, values in found.items():
            values.append(round(measure(args.envs, args.workers, name == "free"), 1))
    medians = {name: statistics.median(values) for name, values in found.items()}
    result: dict[str, Any] = {
        "command": f"python benchmarks/env_threads.py --envs {args.envs} --workers {args.workers}",
        "cores": len(os.sched_getaffinity(0)),
        "numpy": np.__version__,
        "decisions_per_s": found,
        "ratio_of_medians": round(medians["one_thread"] / medians["free"], 2),
    }
    print(json.dumps(result))
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
