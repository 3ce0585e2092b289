"""Settings of the rectified-flow parts. Importable without torch."""

from __future__ import annotations

from typing import Literal

from worldlab import Config, field

Solver = Literal["euler", "heun"]


class RectifiedFlowDynamicsConfig(Config):
    """Settings of the rectified-flow dynamics."""

    memory: int = field(256, ge=1)
    """Width of the recurrent memory h."""
    units: int = field(256, ge=1)
    """Hidden units of the input and velocity networks."""
    layers: int = field(2, ge=1)
    """Residual blocks of the velocity network."""
    steps: int = field(4, ge=1)
    """Steps from noise to a latent; each costs the velocity network once (euler) or twice (heun, but for the last)."""
    solver: Solver = "heun"
    """How the steps are taken: euler (first order) or heun (second order)."""
    draws: int = field(4, ge=1)
    """Times and noises at which each latent is asked for in an update."""
    unconditional: float = field(0.2, gt=0, lt=1)
    """Share of frames whose memory is hidden in an update: teaches p(z), which score_latent compares with."""
    nodes: int = field(16, ge=2)
    """Noise levels at which score_latent compares the errors with and without the memory."""
    scale: float = field(1.0, ge=0)
    """Weight of the flow-matching loss."""


class RectifiedFlowDecoderConfig(Config):
    """Settings of the rectified-flow decoder."""

    width: int = field(32, ge=1)
    """Channels after the U-Net's first convolution; they double at each of its stages."""
    units: int = field(256, ge=1)
    """Hidden units of the conditioning networks and of the velocity of vectors."""
    layers: int = field(2, ge=1)
    """Residual blocks of the velocity of vectors."""
    frames: int = field(32, ge=0)
    """Random frames of a batch explained in one update; 0 means all, as it does where there are no pictures."""
    steps: int = field(4, ge=1)
    """Steps from noise to an observation; each costs the velocity network once (euler) or twice (heun, but the last)."""
    solver: Solver = "heun"
    """How the steps are taken: euler (first order) or heun (second order)."""
    shift: float = field(3.0, gt=0)
    """How much more often pictures are asked for, and steps taken, near the noise; 1: evenly in time."""
    draws: int = field(4, ge=1)
    """Times and noises at which each vector is asked for in an update; a picture is asked for once."""
    unconditional: float = field(0.2, gt=0, lt=1)
    """Share of frames whose features are hidden in an update: teaches p(o), which the score compares with."""
    nodes: int = field(4, ge=2)
    """Noise levels at which the score compares the errors with and without the features."""
    scale: float = field(1.0, ge=0)
    """Weight of the flow-matching losses."""
    guide: float = field(1.0, ge=0)
    """Weight of a picture's squared error at pure noise, asked for in every update: what reaches the features soonest."""
