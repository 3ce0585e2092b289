"""Aligns stored rows: whether an action and a reward stand with the observation before or after them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from worldlab.errors import one_line

Rows = Callable[[str, int, int], np.ndarray]
"""Reads rows [start, stop) of a stored array, by its name."""
RANGE_BYTES = 2**20
"""Bytes of actions that are read at a time to find their range."""
SAMPLED = 50
"""Episodes whose first and last rows are looked at."""


@dataclass(frozen=True)
class Alignment:
    """Where the rows of a decision are, relative to the observation before it: 0 on departure, 1 on arrival."""

    action: int
    reward: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ends:
    """What stands in the first and the last row of an episode.

    Data on arrival begin with an action and a reward of 0, data on departure often end with an action of 0.
    """

    name: str
    first_action: np.ndarray
    last_action: np.ndarray
    first_reward: float


def find_alignment(ends: Sequence[Ends]) -> Alignment:
    """Return the alignment of episodes with as many actions and rewards as observations, by their first and last rows.

    Episodes that do not follow the majority are named in the notes.
    """
    first = [not np.any(end.first_action) for end in ends]
    last = [not np.any(end.last_action) for end in ends]
    rewards = [end.first_reward == 0 for end in ends]
    action = sum(first) > len(ends) / 2 and sum(first) >= sum(last)
    reward = sum(rewards) > len(ends) / 2
    notes = [f"actions stand on {_side(action)}, rewards on {_side(reward)}"] if not (action and reward) else []
    notes += _odd("action", ends, first) if action else []
    notes += _odd("reward", ends, rewards) if reward else []
    return Alignment(int(action), int(reward), tuple(notes))


def _side(arrival: bool) -> str:
    return "arrival" if arrival else "departure"


def _odd(what: str, ends: Sequence[Ends], zero: Sequence[bool]) -> list[str]:
    names = [end.name for end, is_zero in zip(ends, zero, strict=True) if not is_zero]
    return (
        [one_line(f"{what}s stand on arrival, but on departure in episode {', '.join(names[:5])}", 200)]
        if names
        else []
    )


def action_range(rows: Rows, name: str, spans: Sequence[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray, bool]:
    """Return the smallest and the largest entries of the actions in some rows, and whether all of them are one-hot.

    Rows of zeros, which stand at a reset, are left out.
    """
    low, high, one_hot = np.inf, -np.inf, True
    for start, stop in spans:
        width = rows(name, start, start + 1).nbytes if stop > start else 1
        for at in range(start, stop, step := max(1, RANGE_BYTES // max(1, width))):
            values = rows(name, at, min(stop, at + step))
            flat = values.reshape(len(values), -1)
            flat = flat[flat.any(1)] if flat.shape[1] > 1 else flat
            if len(flat):
                low, high = np.minimum(low, flat.min(0)), np.maximum(high, flat.max(0))
                one_hot = one_hot and bool(np.isin(flat, (0, 1)).all() and (flat.sum(1) == 1).all())
    return np.atleast_1d(low), np.atleast_1d(high), one_hot


__all__ = ["SAMPLED", "Alignment", "Ends", "Rows", "action_range", "find_alignment"]
