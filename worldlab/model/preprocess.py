"""Converts observations between the environment's form and the model's, for training, acting and drawing."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from worldlab.distributions import symexp, symlog
from worldlab.specs import ObsSpec

LEVELS = 255.0
LARGEST = torch.finfo(torch.float32).max


class Preprocessor(nn.Module):
    """Converts uint8 images [*, H, W, C] <-> float [*, C, H, W] in [-0.5, 0.5], and scales vectors.

    Its buffers (mean and std for "normalize") are saved with the model, so acting always uses the scaling of training.
    """

    def __init__(self, obs: ObsSpec, scaling: Literal["symlog", "normalize", "none"]):
        super().__init__()
        self.obs = obs
        self.scaling = scaling
        for key, spec in obs.vectors.items():
            self.register_buffer(f"mean_{key}", torch.zeros(spec.shape))
            self.register_buffer(f"std_{key}", torch.ones(spec.shape))

    @torch.no_grad()
    def fit(self, key: str, values: Tensor) -> None:
        """Set mean and std from raw vectors [N, n]; constant entries keep std 1."""
        std = values.std(0)
        self.get_buffer(f"mean_{key}").copy_(values.mean(0))
        self.get_buffer(f"std_{key}").copy_(torch.where(std > 1e-6, std, torch.ones_like(std)))

    def forward(self, raw: dict[str, Tensor]) -> dict[str, Tensor]:
        """Convert raw observations with any leading dimensions to the form that components receive."""
        return {
            key: self._image(raw[key]) if spec.kind == "image" else self._vector(key, raw[key])
            for key, spec in self.obs.entries
        }

    @staticmethod
    def _image(image: Tensor) -> Tensor:
        # Divide before moving channels, so that the dtype conversion makes the only copy.
        return (image.float() / LEVELS - 0.5).movedim(-1, -3)

    def _vector(self, key: str, vector: Tensor) -> Tensor:
        if self.scaling == "symlog":
            return symlog(vector.float())
        if self.scaling == "normalize":
            # The prefill covers only a part of the range; symlog keeps values far outside it within a few units.
            scaled = (vector.float() - self.get_buffer(f"mean_{key}")) / self.get_buffer(f"std_{key}")
            return symlog(scaled.clamp(-LARGEST, LARGEST))  # a finite observation of 1e38 divided by a small std is not
        return vector.float()

    def restore(self, key: str, value: Tensor) -> Tensor:
        """Convert a component's image or vector to the environment's units: uint8 [*, H, W, C] or float [*, n]."""
        if self.obs[key].kind == "image":
            levels = ((value + 0.5) * LEVELS).round().clamp(0, LEVELS)
            return levels.to(torch.uint8).movedim(-3, -1)
        if self.scaling == "symlog":
            return symexp(value)
        if self.scaling == "normalize":
            return symexp(value) * self.get_buffer(f"std_{key}") + self.get_buffer(f"mean_{key}")
        return value
