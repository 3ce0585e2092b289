"""The pytest plugin of worldlab: the marker `slow`, and fixtures for a plugin author's own tests.

The entry point `pytest11` loads it in every run of pytest in the environment, so it imports only pytest; the fixtures
import torch when a test uses them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import torch

    from worldlab.interfaces import Batch


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker `slow`, unless the test suite has already described it."""
    lines = config.getini("markers")
    if not any(line.partition(":")[0].strip() == "slow" for line in lines):
        config.addinivalue_line("markers", "slow: trains a model for a second or more (set by worldlab.testing)")


@pytest.fixture
def worldlab_generator() -> torch.Generator:
    """Return a CPU generator with the same seed in every test, for the noise of a component."""
    from worldlab.model.noise import stream

    return stream(0)


@pytest.fixture
def worldlab_bench() -> Callable[..., Any]:
    """Return `worldlab.testing.build`, which builds a component into a whole world model with reference partners:

    def test_hello(worldlab_bench):
        bench = worldlab_bench(HelloEncoder, latent_dim=4)
        assert bench.encoder.embed(bench.obs(5)).shape == (5, 16)
    """
    from worldlab.testing.runner import build

    return build


@pytest.fixture
def worldlab_batch() -> Callable[..., Batch]:
    """Return a function that makes a batch [rows, length] of toy data: a moving dot, with its position as the reward.

    Call it with (obs="image", action="continuous", rows=4, length=8, seed=0).
    """

    def make(obs: str = "image", action: str = "continuous", rows: int = 4, length: int = 8, seed: int = 0) -> Any:
        from worldlab.model.noise import stream
        from worldlab.testing import toys

        return toys.moving_dot(toys.OBS[obs], toys.ACTIONS[action], rows, length, stream(seed))

    return make
