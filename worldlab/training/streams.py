"""Named random streams: every random number of a run comes from one of these, never from a global generator.

The numbers of a stream depend only on the run's seed and the stream's name. Other streams, and the order in which
streams are created, have no effect.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldlab.errors import CheckpointError


class Streams:
    """The random streams of one run.

    seed: the run's seed, any non-negative integer.
    """

    def __init__(self, seed: int):
        self.seed = seed
        self._torch: dict[tuple[str, str], torch.Generator] = {}
        self._numpy: dict[str, np.random.Generator] = {}

    def torch(self, name: str, device: str | torch.device = "cpu") -> torch.Generator:
        """Return torch's generator of a name on a device; always the same object.

        Raises: RuntimeError from torch if the device does not exist.
        """
        key = (name, str(torch.device(device)))
        if key not in self._torch:
            self._torch[key] = torch.Generator(device).manual_seed(self._hash("torch", name) % 2**64)
        return self._torch[key]

    def numpy(self, name: str) -> np.random.Generator:
        """Return NumPy's generator of a name; always the same object, independent of `torch(name)`."""
        if name not in self._numpy:
            self._numpy[name] = self.fresh_numpy(name)
        return self._numpy[name]

    def fresh_numpy(self, name: str) -> np.random.Generator:
        """Return a new generator that begins where `numpy(name)` began."""
        return np.random.Generator(np.random.PCG64(self._hash("numpy", name)))

    def derive(self, name: str) -> int:
        """Return a seed in [0, 2**31) for other generators, such as `env.reset(seed=...)`.

        Consumes no random number.
        """
        return self._hash("derive", name) % 2**31

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return (tensors, JSON) for `restore`: uint8 states of torch, PCG64 states of NumPy."""
        tensors = {f"{device}/{name}": generator.get_state() for (name, device), generator in self._torch.items()}
        numpy = {name: generator.bit_generator.state for name, generator in self._numpy.items()}
        return tensors, {"seed": self.seed, "numpy": numpy}

    def restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Set every stream to a saved state in place, including generators returned earlier.

        A stream that is not in the saved state restarts from its seed.
        Raises: CheckpointError for another seed, a missing device or a state that does not fit.
        """
        if state.get("seed") != self.seed:
            raise CheckpointError(
                f"the checkpoint's random streams have seed {state.get('seed')}, this run has seed {self.seed}",
                fix=f"resume with --seed {state.get('seed')}, or start another run",
            )
        for (name, _), generator in self._torch.items():
            generator.manual_seed(self._hash("torch", name) % 2**64)
        for name, generator in self._numpy.items():
            generator.bit_generator.state = np.random.PCG64(self._hash("numpy", name)).state
        try:
            for key, value in tensors.items():
                device, name = key.split("/", 1)
                self.torch(name, device).set_state(value.cpu())
            for name, value in state["numpy"].items():
                self.numpy(name).bit_generator.state = value
        except (RuntimeError, ValueError, TypeError, KeyError, OverflowError) as error:
            raise CheckpointError(
                "the checkpoint's random streams cannot be restored here",
                cause=str(error),
                fix="resume on the device and with the torch version that wrote the checkpoint (see run.json)",
            ) from error

    def _hash(self, kind: str, name: str) -> int:
        # SHA-256 instead of hash(): stable across processes, platforms and Python versions. torch's CPU generator uses
        # only the low 32 bits of a seed, and these are as well mixed as the rest.
        text = f"worldlab\0{self.seed}\0{kind}\0{name}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")
