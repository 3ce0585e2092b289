"""Offline training: all episodes for training enter the replay at the start, the held-out ones are for evaluation."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from worldlab.env.spaces import Schema
from worldlab.errors import ConfigError
from worldlab.experience.data_records import EpisodeRecords, sha256_of, split
from worldlab.experience.dataset import Dataset
from worldlab.experience.replay import Replay, estimate_bytes

if TYPE_CHECKING:
    from worldlab.experience.replay import Storage

log = logging.getLogger("worldlab")
SHORTEST = 7
"""Fewest observations of a sequence that is evaluated: those that the model sees first, and two that it predicts."""
IN_MEMORY = 2**28
"""Largest size in bytes of the training data that are kept in memory; larger ones are read from the run's replay/."""


def training_steps(dataset: Dataset) -> int:
    """Return the number of records of the training episodes."""
    return sum(dataset.episodes[episode].length + 1 for episode in split(dataset)[0])


def open_replay(dataset: Dataset, schema: Schema, folder: Path, storage: Storage, **resumed: Any) -> Replay:
    """Return the replay that holds exactly the training episodes: on a device, in memory or, if large, on disk only.

    resumed: `position` and `exact` of `Replay.open`, for a run that is resumed.
    """
    total = training_steps(dataset)
    place = "disk" if storage == "ram" and estimate_bytes(schema, total) > IN_MEMORY else storage
    if resumed:
        return Replay.open(folder, schema, total, 1, place, **resumed)
    return Replay(schema, total, 1, folder, place)


class HeldOut:
    """The held-out episodes of a data set. size: side to which images are resized."""

    def __init__(self, dataset: Dataset, schema: Schema, size: int | None = None):
        self.dataset = dataset
        self.records = EpisodeRecords(dataset, schema, size)
        self.training, self.episodes = split(dataset)

    @property
    def long_enough(self) -> bool:
        """Return whether there are held-out sequences to evaluate a model on."""
        lengths = [self.dataset.episodes[episode].length + 1 for episode in self.episodes]
        return bool(lengths) and int(np.median(lengths)) >= SHORTEST

    def windows(self, count: int, length: int) -> dict[str, np.ndarray]:
        """Return at most `count` sequences, spread over the episodes: {key: [B, L, ...]}. L is at most `length`.

        It is shorter where over half of the episodes are. Raises: ConfigError if there is no held-out episode.
        """
        lengths = [self.dataset.episodes[episode].length + 1 for episode in self.episodes]
        if not lengths:
            raise ConfigError(
                "the data set has one episode, so none is held out",
                cause="training and held-out data are split by episode",
                fix="record more episodes: worldlab record --episodes 10",
            )
        length = min(length, int(np.median(lengths)))
        if length < SHORTEST:
            raise ConfigError(
                f"half of the held-out episodes have less than {SHORTEST} observations",
                cause="a model observes some before it predicts the others",
                fix="record longer episodes",
            )
        places = [
            (episode, start)
            for episode, steps in zip(self.episodes, lengths, strict=True)
            for start in range(0, steps - length + 1, length)
        ]
        chosen = [places[index] for index in sorted({int(i) for i in np.linspace(0, len(places) - 1, count)})]
        rows = [
            self._window(episode, [s for e, s in chosen if e == episode], length) for episode in {e for e, _ in chosen}
        ]
        stacked = np.concatenate(rows)
        return {key: np.ascontiguousarray(stacked[key]) for key in stacked.dtype.names or ()}

    def _window(self, episode: int, starts: Sequence[int], length: int) -> np.ndarray:
        """Return sequences of an episode as records [B, L]."""
        out = np.zeros((len(starts), length), self.records.dtype)
        at = 0
        for piece in self.records.records(episode):
            for row, start in zip(out, starts, strict=True):
                first, stop = max(start, at), min(start + length, at + len(piece))
                if first < stop:
                    row[first - start : stop - start] = piece[first - at : stop - at]
            at += len(piece)
        return out


class OfflineData:
    """Fills the replay with the training episodes, with the interface of `Collector`. Then a step takes none.

    sha256: hashes of the training and of the held-out records; they are known once `start` has filled the replay.
    """

    def __init__(self, dataset: Dataset, replay: Replay, size: int | None = None):
        self.finished: list[tuple[float, int]] = []
        self.held_out = HeldOut(dataset, replay.schema, size)
        self.sha256: dict[str, str] = {}
        self._dataset = dataset
        self._replay = replay
        self.decisions = sum(dataset.episodes[episode].length for episode in self.held_out.training)

    def start(self) -> None:
        """Append all training episodes, unless the replay of a resumed run has them already."""
        if len(self._replay):
            return
        held_out = self.held_out
        names = ", ".join(self._dataset.episodes[episode].name for episode in held_out.episodes[:10])
        more = f" and {len(held_out.episodes) - 10} more" if len(held_out.episodes) > 10 else ""
        log.info(
            "offline: %d episodes of %d decisions to train on; held out: %s%s",
            *(len(held_out.training), self.decisions, names or "none", more),
        )
        records, schema = held_out.records, self._replay.schema
        for episode in held_out.training:
            for piece in records.records(episode):
                for record in piece:
                    self._replay.append(0, {key: record[key] for key in schema})
        self._replay.flush()
        self.sha256 = {
            "training": sha256_of(records, held_out.training),
            "held_out": sha256_of(records, held_out.episodes),
        }
        log.info("offline: sha256 of the training data %s", self.sha256["training"])

    def begin(self, random: Any = None, *, prefill: bool = True) -> None:
        """Do nothing: there is no environment to step."""

    def end(self) -> int:
        """Return 1: a step of an offline run only counts the updates that are due."""
        return 1

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return nothing: the replay holds all data."""
        return {}, {}

    def close(self) -> None:
        """Close the files of the data set."""
        self._dataset.close()


__all__ = ["HeldOut", "OfflineData", "open_replay"]
