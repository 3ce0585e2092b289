"""Settings of the agents. Torch-free, so that `--help` is."""

from __future__ import annotations

from typing import Literal

from worldlab import Config, field


class RandomConfig(Config):
    """Nothing to set."""


class DreamerConfig(Config):
    """Actor and critic, trained on imagined steps."""

    horizon: int = field(15, ge=1)
    """Imagined steps H from each start."""
    gamma: float = field(0.99, gt=0, le=1)
    """Discount per decision."""
    lambda_: float = field(0.95, ge=0, le=1)
    """Mix of imagined rewards and bootstrapped values in the returns."""
    entropy: float = field(3e-4, ge=0)
    """Weight of the policy's entropy, in units of normalised return."""
    gradient: Literal["auto", "pathwise", "reinforce"] = "auto"
    """How the actor learns. auto: pathwise for continuous actions where the dynamics can be differentiated."""
    units: int = field(128, gt=0)
    """Width of actor and critic."""
    layers: int = field(2, ge=1)
    """Hidden layers of actor and critic."""
    actor_rate: float = field(1e-4, gt=0)
    """Learning rate of the actor."""
    critic_rate: float = field(3e-4, gt=0)
    """Learning rate of the critic."""
    slow_rate: float = field(0.02, gt=0, le=1)
    """Rate at which the slow critic follows the critic, per update."""
    slow_weight: float = field(1.0, ge=0)
    """Weight of the critic's loss towards the slow critic."""
    average_rate: float = field(0.005, gt=0, le=1)
    """Rate at which the actor that is judged follows the one that learns, per update; 1 judges the last iterate."""
    min_std: float = field(0.1, gt=0)
    """Smallest standard deviation of continuous actions."""
    unimix: float = field(0.01, ge=0, lt=1)
    """Share of a uniform mixed into discrete policies."""
