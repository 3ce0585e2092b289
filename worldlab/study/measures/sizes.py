"""How much is measured: what costs time, in one place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """Amounts of data, draws and work."""

    episodes: int = 40
    """Recorded episodes; at least 10. Of ten, four are learned from, two decide when to stop, four are judged."""
    length: int = 100
    """Observations recorded of an episode, at most."""
    probe_epochs: int = 100
    """Passes over the frames that an MLP probe makes, at most."""
    supervised_updates: int = 400
    """Updates of the supervised encoder, at most."""
    starts: int = 4
    """Dreams that begin in each judged episode, for the energy score."""
    samples: int = 39
    """Draws of each dream. 20 k - 1 of them make a central interval of exactly 90%."""
    frames: int = 16
    """Frames whose bits are counted."""
    draws: int = 64
    """Importance weights of each; dear where the decoder is a PixelCNN."""
    pictures: int = 96
    """Pictures drawn and compared with real ones."""
    trained: int = 2_000
    """Pictures trained on among which the nearest is looked for."""
    contexts: int = 4
    """Remembered pasts from which each state's odds are asked."""
    outcomes: int = 50
    """Next states dreamt from each past, for each action."""
    gap_episodes: int = 8
    """Episodes in which the dream is compared with what happened."""
    gap_horizon: int = 30
    """Decisions over which it is."""
    past: int = 32
    """Steps that a naive imagination computes again at each new one."""
    seconds: float = 0.5
    """Of each timing, at least."""

    def __post_init__(self) -> None:
        assert self.episodes >= 10 and self.length > 1
        assert (self.samples + 1) % 20 == 0


QUICK = Sizes(
    episodes=20,
    length=60,
    probe_epochs=40,
    supervised_updates=150,
    starts=2,
    samples=19,
    frames=8,
    draws=16,
    pictures=48,
    trained=500,
    contexts=2,
    outcomes=25,
    gap_episodes=4,
    gap_horizon=15,
    seconds=0.1,
)
"""For trying things out, with errors to match."""
