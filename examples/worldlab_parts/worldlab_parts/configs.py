"""Settings of the parts.

Each is a flag of `worldlab train`, with the text below it as its help. Do not import torch here.
"""

from worldlab import Config, field, sized


class FSQConfig(Config):
    """Settings of the encoder."""

    codes: int = sized(nano=6, tiny=8, small=16, medium=16, large=32, gt=0)
    """Number of codes G."""
    levels: int = field(8, gt=1)
    """Levels L of each code."""
    width: int = sized("width", gt=0)
    """Channels after the first convolution; they double each time the image is halved."""
    units: int = sized("units", gt=0)
    """Width of the layers that encode vectors."""


class MinGRUConfig(Config):
    """Settings of the dynamics."""

    memory: int = sized("memory", gt=0)
    """Width H of the memory."""
    units: int = sized("units", gt=0)
    """Width of the layer before the prior."""
    min_std: float = field(0.05, gt=0)
    """Minimum std of the prior, so that its density stays finite."""


class LaplaceConfig(Config):
    """Settings of the decoder."""

    scale: float = field(0.2, gt=0)
    """Scale of each number at first; it is learned."""
    width: int = sized("width", gt=0)
    """Channels before the last convolution."""
    units: int = sized("units", gt=0)
    """Width of the layers that decode vectors."""


class ShootingConfig(Config):
    """Settings of the agent."""

    horizon: int = field(8, ge=1, nano=3)
    """Imagined steps H of a plan."""
    candidates: int = field(256, ge=1, nano=64)
    """Plans imagined at every decision."""
    gamma: float = field(0.99, gt=0, le=1)
    """Discount per decision."""
    exploration: float = field(0.3, ge=0)
    """Exploration noise while collecting: its std (continuous actions), or the probability of a random action."""
    units: int = sized("units", gt=0)
    """Width of the value."""
    rate: float = field(1e-3, gt=0)
    """Learning rate of the value."""
    slow_rate: float = field(0.02, gt=0, le=1)
    """Rate at which the slow value, which is the target, tracks the value."""


class NiceConfig(Config):
    """Settings of the launcher."""

    niceness: int = field(10, ge=0, le=19)
    """By how much the priority of a cell is lower than that of this process."""
    attempts: int = field(3, ge=1)
    """How often a cell is started that is killed."""
