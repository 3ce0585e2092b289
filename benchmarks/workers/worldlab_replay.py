"""Serve samples of worldlab's replay as tensors.

PYTHONPATH=.:plugins:agents:envs python benchmarks/workers/worldlab_replay.py vector 100000 [--storage disk]
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from replay_data import EPISODE, SHAPES, B, T, episode, options
from serve import serve

from worldlab.experience.replay import Replay


def main() -> None:
    args = options(__doc__)
    scalar: tuple[int, ...] = ()
    schema = {"obs": SHAPES[args.kind], "prev_action": ((6,), "float32"), "reward": (scalar, "float32")}
    schema |= {"cont": (scalar, "float32"), "is_first": (scalar, "bool")}
    with tempfile.TemporaryDirectory(prefix="worldlab-replay-") as folder:
        disk = args.storage == "disk"
        replay = Replay(schema, args.steps, 1, Path(folder) / "replay" if disk else None, args.storage)
        data = episode(args.kind, np.random.default_rng(0))
        data = {"prev_action" if key == "action" else key: value for key, value in data.items()}
        flat = {key: value[:, 0] if key in ("reward", "cont", "is_first") else value for key, value in data.items()}
        begin = time.perf_counter()
        for k in range(args.steps):
            replay.append(0, {key: value[k % EPISODE] for key, value in flat.items()})
        replay.flush()
        added = 1e6 * (time.perf_counter() - begin) / args.steps
        rng = np.random.default_rng(0)

        def sample() -> object:
            return {key: torch.from_numpy(value) for key, value in replay.sample(B, T, rng).items()}

        serve({"sample": sample}, {"add_us_a_step": added})
        replay.close()


if __name__ == "__main__":
    main()
