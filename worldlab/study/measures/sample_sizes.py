"""Sample sizes of the measures: every number that trades time for precision."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SampleSizes:
    """How much data, how many samples and how much compute the measures use."""

    episodes: int = 40
    """Recorded episodes, at least 10. Of every ten, four fit the probes, two stop their training early, four are the
    test set."""
    length: int = 100
    """Maximum number of observations recorded per episode."""
    probe_epochs: int = 100
    """Maximum number of epochs that train an MLP probe."""
    supervised_updates: int = 400
    """Maximum number of updates that train the supervised encoder."""
    starts: int = 4
    """Dreams started per test episode, for the energy score."""
    samples: int = 39
    """Samples per dream. With 20 k - 1 samples, a central interval of exactly 90% exists."""
    frames: int = 16
    """Frames whose bits per dimension are estimated."""
    draws: int = 64
    """Importance samples per frame; expensive with an autoregressive decoder."""
    images: int = 96
    """Images drawn by the model and compared with real images."""
    training_images: int = 2_000
    """Training images searched for the nearest neighbour of a dreamt image."""
    contexts: int = 4
    """Recorded contexts per state from which next states are dreamt."""
    outcomes: int = 50
    """Next states dreamt per context and action."""
    gap_episodes: int = 8
    """Episodes in which dreamt and real returns are compared."""
    gap_horizon: int = 30
    """Decisions over which dreamt and real returns are compared."""
    past: int = 32
    """Past steps that an imagination without cache recomputes at each new step."""
    seconds: float = 0.5
    """Minimum duration of each timing."""

    def __post_init__(self) -> None:
        assert self.episodes >= 10 and self.length > 1
        assert (self.samples + 1) % 20 == 0


QUICK = SampleSizes(
    episodes=20,
    length=60,
    probe_epochs=40,
    supervised_updates=150,
    starts=2,
    samples=19,
    frames=8,
    draws=16,
    images=48,
    training_images=500,
    contexts=2,
    outcomes=25,
    gap_episodes=4,
    gap_horizon=15,
    seconds=0.1,
)
"""Small samples for a first look; standard errors are larger accordingly."""
