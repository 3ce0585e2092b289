"""Reads a data set's actions in the units of the environment that the agent will act in."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import final

import numpy as np
from gymnasium import spaces

from worldlab.env.spaces import action_spec
from worldlab.errors import one_line
from worldlab.experience.dataset import Dataset, Steps, native_actions

log = logging.getLogger("worldlab")


def in_units_of(dataset: Dataset, space: spaces.Space) -> Dataset:
    """Return the data set with its actions in an environment's action space.

    A model sees actions scaled by their bounds. Data without declared bounds get guessed ones, and a gas pedal of 0 to 1
    that was scaled as -1 to 1 would be another action for the agent than for the model. A data set with the same space, or
    with actions of another kind or number, is returned as it is: the latter does not fit the run's records, which is an
    error of its own.
    """
    own = dataset.facts.action_space
    if own == space or action_spec(own) != action_spec(space):
        return dataset
    log.info(
        "%s",
        one_line(
            f"actions of the data set, {own}, are read as those of the environment, {space}, and clipped to it", 300
        ),
    )
    return _InUnits(dataset, space)


@final
class _InUnits(Dataset):
    def __init__(self, source: Dataset, space: spaces.Space) -> None:
        self.facts = replace(source.facts, action_space=space, encoded=False)
        self.episodes = source.episodes
        self._source = source

    def read(self, episode: int, start: int, stop: int) -> Steps:
        steps = self._source.read(episode, start, stop)
        native = np.asarray(native_actions(self._source, steps))
        return replace(steps, action=native.reshape(len(native), *(self.facts.action_space.shape or ())))

    def streams(self) -> Sequence[Sequence[int]] | None:
        return self._source.streams()

    def close(self) -> None:
        self._source.close()


__all__ = ["in_units_of"]
