"""Small encoders with codes, and frames for them."""

from __future__ import annotations

from typing import Any

import torch
from config_kit import configured
from family_kit import gen as gen
from torch import Tensor
from worldlab_vae.configs import FSQEncoderConfig, VQEncoderConfig
from worldlab_vae.fsq import FSQEncoder
from worldlab_vae.vq import VQEncoder

from worldlab.specs import ActionSpec, ArraySpec, ObsSpec, Specs

OBS = ObsSpec((("vector", ArraySpec("vector", (4,))),))
CODED: dict[str, tuple[Any, Any, dict[str, int]]] = {
    "vq": (VQEncoder, VQEncoderConfig, {"tokens": 3, "codes": 8, "code_dim": 2}),
    "fsq": (FSQEncoder, FSQEncoderConfig, {"tokens": 3, "levels": 3, "dims": 2}),
}


def build_coded(name: str, **settings: Any) -> Any:
    """Build an encoder with 3 tokens of about 8 codes on vectors of 4, in float64."""
    cls, config, small = CODED[name]
    chosen = configured(config, **{"units": 16, "width": 4, **small, **settings})
    torch.manual_seed(0)
    return cls(chosen, Specs(OBS, ActionSpec("continuous", 2), cls.latent_spec(chosen), 8, False)).double()


def clusters(rows: int, count: int, width: int, seed: int = 0) -> Tensor:
    """Return points [rows, width] around `count` equally likely centres, whose distances are large."""
    centre = 10 * torch.randn(count, width, generator=gen(0))
    which = torch.randint(count, (rows,), generator=gen(seed))
    return centre[which] + 0.1 * torch.randn(rows, width, generator=gen(seed + 1))
