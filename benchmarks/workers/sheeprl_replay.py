"""Serve samples of sheeprl's EnvIndependentReplayBuffer as tensors, in memory or in memory-mapped files.

BENCHMARKS/.peers/sheeprl/bin/python sheeprl_replay.py vector 100000 [--storage disk]
"""

from __future__ import annotations

import tempfile
import time
from importlib.metadata import version

import numpy as np
from replay_data import EPISODE, B, T, episode, options
from serve import serve
from sheeprl.data.buffers import EnvIndependentReplayBuffer, SequentialReplayBuffer, get_tensor


def main() -> None:
    args = options(__doc__)
    with tempfile.TemporaryDirectory(prefix="sheeprl-replay-") as folder:
        where = {"memmap": True, "memmap_dir": folder} if args.storage == "disk" else {"memmap": False}
        buffer = EnvIndependentReplayBuffer(args.steps, n_envs=1, buffer_cls=SequentialReplayBuffer, seed=0, **where)
        data = {key: value[:, None] for key, value in episode(args.kind, np.random.default_rng(0)).items()}
        begin = time.perf_counter()
        for _ in range(args.steps // EPISODE):
            buffer.add(data)
        added = 1e6 * (time.perf_counter() - begin) / args.steps

        def sample() -> object:
            found = buffer.sample(batch_size=B, sequence_length=T, n_samples=1)
            return {key: get_tensor(value) for key, value in found.items()}

        serve({"sample": sample}, {"add_us_a_step": added, "sheeprl": version("sheeprl")})


if __name__ == "__main__":
    main()
