"""Serve samples of torchrl's replay buffer with its SliceSampler, in memory or in memory-mapped files.

BENCHMARKS/.peers/torchrl/bin/python torchrl_replay.py vector 100000 [--storage disk]
"""

from __future__ import annotations

import tempfile
import time
from importlib.metadata import version

import numpy as np
import torch
from replay_data import EPISODE, B, T, episode, options
from serve import serve
from tensordict import TensorDict
from torchrl.data import LazyMemmapStorage, LazyTensorStorage, SliceSampler, TensorDictReplayBuffer


def main() -> None:
    args = options(__doc__)
    with tempfile.TemporaryDirectory(prefix="torchrl-replay-") as folder:
        disk = args.storage == "disk"
        storage = LazyMemmapStorage(args.steps, scratch_dir=folder) if disk else LazyTensorStorage(args.steps)
        sampler = SliceSampler(slice_len=T, traj_key="episode", strict_length=True, cache_values=True)
        buffer = TensorDictReplayBuffer(storage=storage, sampler=sampler, batch_size=B * T)
        data = {key: torch.from_numpy(value) for key, value in episode(args.kind, np.random.default_rng(0)).items()}
        begin = time.perf_counter()
        for k in range(args.steps // EPISODE):
            buffer.extend(TensorDict({**data, "episode": torch.full((EPISODE,), k)}, [EPISODE]))
        added = 1e6 * (time.perf_counter() - begin) / args.steps
        facts = {"add_us_a_step": added, "torchrl": version("torchrl")}
        serve({"sample": lambda: buffer.sample().reshape(B, T)}, facts)


if __name__ == "__main__":
    main()
