"""Chooses the random numbers of dreams."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

Kind = Literal["fixed", "fresh", "none"]


@dataclass(frozen=True)
class Noise:
    """How dreams draw their latents.

    kind "fixed": every dream starts from the same seed, so only what you change changes the dream. "fresh": every dream
    has a seed of its own. "none": the most likely latent. temperature: of the prior; it has no effect without noise.
    """

    kind: Kind = "fixed"
    seed: int = 0
    temperature: float = 1.0

    def generator(self, device: torch.device) -> torch.Generator | None:
        """Return the generator of a new dream; None for the most likely latents."""
        if self.kind == "none":
            return None
        generator = torch.Generator(device)
        if self.kind == "fixed":
            return generator.manual_seed(self.seed)
        generator.seed()
        return generator
