"""Images of squares at random positions."""

from __future__ import annotations

import numpy as np

from worldlab.specs import ArraySpec, ObsSpec
from worldlab.study.measures.recording import Recording

SIDE = 16
IMAGE = ObsSpec((("image", ArraySpec("image", (3, SIDE, SIDE))),))


def recording(length=24, episodes=20):
    """Return a recording of squares at random positions."""
    rng = np.random.default_rng(0)
    image = np.full((episodes, length, SIDE, SIDE, 3), 60, np.uint8)
    for row, column in np.ndindex(episodes, length):
        x, y = rng.integers(0, SIDE - 5, 2)
        image[row, column, y : y + 5, x : x + 5] = rng.integers(0, 256, 3)
    zeros = np.zeros((episodes, length), np.float32)
    first = np.arange(length)[None].repeat(episodes, 0) == 0
    data = {"image": image, "prev_action": zeros[..., None], "reward": zeros, "cont": zeros + 1, "is_first": first}
    return Recording(data, np.full(episodes, length))
