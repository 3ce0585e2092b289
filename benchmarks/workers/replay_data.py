"""The experience that the replay workers store and how they sample it: B16 T64 from episodes of 1,000 steps."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

B, T, EPISODE = 16, 64, 1000
SHAPES: dict[str, tuple[tuple[int, ...], str]] = {"vector": ((24,), "float32"), "pixels": ((64, 64, 3), "uint8")}


def options(description: str | None) -> argparse.Namespace:
    """Read the options of a replay worker."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=list(SHAPES))
    parser.add_argument("steps", type=int)
    parser.add_argument("--storage", choices=["ram", "disk"], default="ram")
    return parser.parse_args()


def episode(kind: str, rng: np.random.Generator) -> dict[str, Any]:
    """Return one episode of random experience, [1000, ...]."""
    shape, n = SHAPES[kind][0], EPISODE
    pixels = kind == "pixels"
    obs = rng.integers(0, 256, (n, *shape), dtype=np.uint8) if pixels else rng.standard_normal((n, *shape), np.float32)
    first = np.zeros((n, 1), bool)
    first[0] = True
    return {
        "obs": obs,
        "action": rng.uniform(-1, 1, (n, 6)).astype(np.float32),
        "reward": rng.standard_normal((n, 1), np.float32),
        "cont": np.ones((n, 1), np.float32),
        "is_first": first,
    }
