"""Settings of the rectified-flow parts. Importable without torch."""

from __future__ import annotations

from typing import Literal

from worldlab import Config, field, sized

Solver = Literal["euler", "heun"]


class RectifiedFlowDynamicsConfig(Config):
    """Settings of the rectified-flow dynamics."""

    memory: int = sized("memory", ge=1)
    """Width of the recurrent memory h."""
    units: int = sized("units", ge=1)
    """Hidden units of the input and velocity networks."""
    layers: int = sized(nano=1, tiny=2, small=2, medium=2, large=2, ge=1)
    """Residual blocks of the velocity network."""
    steps: int = field(4, ge=1)
    """Solver steps from noise to a latent. Each evaluates the velocity network once (euler) or twice (heun, except the
    last)."""
    solver: Solver = "heun"
    """ODE solver: euler (first order) or heun (second order)."""
    draws: int = field(4, ge=1)
    """Random times and noises per latent in an update."""
    unconditional: float = field(0.2, gt=0, lt=1)
    """Share of frames whose memory is hidden in an update, which trains the marginal p(z) that score_latent needs."""
    nodes: int = field(16, ge=2)
    """Noise levels at which score_latent compares the errors with and without the memory."""
    scale: float = field(1.0, ge=0)
    """Weight of the flow-matching loss."""


class RectifiedFlowDecoderConfig(Config):
    """Settings of the rectified-flow decoder."""

    width: int = sized("width", ge=1)
    """Channels after the U-Net's first convolution; they double at each of its stages."""
    units: int = sized("units", ge=1)
    """Hidden units of the conditioning networks and of the velocity network for vectors."""
    layers: int = sized(nano=1, tiny=2, small=2, medium=2, large=2, ge=1)
    """Residual blocks of the velocity network for vectors."""
    frames: int = field(32, ge=0)
    """Random frames of a batch used in one update; 0 means all. Without images all frames are always used."""
    steps: int = field(4, ge=1)
    """Solver steps from noise to an observation. Each evaluates the velocity network once (euler) or twice (heun,
    except the last)."""
    solver: Solver = "heun"
    """ODE solver: euler (first order) or heun (second order)."""
    shift: float = field(3.0, gt=0)
    """Concentration of images' training times and solver steps near the noise; 1: uniform in time."""
    draws: int = field(4, ge=1)
    """Random times and noises per vector in an update; an image gets one."""
    unconditional: float = field(0.2, gt=0, lt=1)
    """Share of frames whose features are hidden in an update, which trains the marginal p(o) that the score needs."""
    nodes: int = field(4, ge=2)
    """Noise levels at which the score compares the errors with and without the features."""
    scale: float = field(1.0, ge=0)
    """Weight of the flow-matching losses."""
    guide: float = field(1.0, ge=0)
    """Weight of an image's squared error at pure noise, computed in every update: the fastest training signal for the
    features."""
