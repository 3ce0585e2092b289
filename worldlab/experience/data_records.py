"""Turns a data set into replay records, in streams, and splits it into episodes for training and held-out ones."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
from gymnasium import spaces

from worldlab.env.resize import area_weights, resize
from worldlab.env.spaces import STEP_FIELDS, Schema, action_spec, record_schema
from worldlab.errors import ConfigError, one_line
from worldlab.experience.dataset import CHUNK, Dataset, chunks, encoded_actions
from worldlab.experience.segments import record_dtype, schema_json

HELD_OUT = 0.1
"""Share of the episodes that offline training never sees."""


def resized_space(space: spaces.Dict, size: int | None) -> spaces.Dict:
    """Return an observation space with its images resized to size x size; None keeps them."""
    if size is None:
        return space
    images = {key: part for key, part in space.items() if part.dtype == np.uint8}
    changed = {key: spaces.Box(0, 255, (size, size, part.shape[-1]), np.uint8) for key, part in images.items()}  # type: ignore[index]
    return spaces.Dict({**space.spaces, **changed})


class EpisodeRecords:
    """The replay records of each episode: the reset, then one record a decision, arrival-aligned.

    schema: the layout of the run. size: side to which images are resized; None keeps them.
    Raises: ConfigError if observations or actions differ from the schema.
    """

    def __init__(self, dataset: Dataset, schema: Schema, size: int | None = None):
        facts = dataset.facts
        own = record_schema(resized_space(facts.observation_space, size), action_spec(facts.action_space))
        if sorted(own.items()) != sorted(schema.items()):
            raise ConfigError(
                "the recorded experience has other observations or actions than this run",
                cause=f"expected {schema_json(schema)}, found {schema_json(own)}"[:400],
                fix="record it with the same env, env.size, env.pixels and env.repeat; env.size resizes images",
            )
        self.dataset = dataset
        self.dtype = record_dtype(schema)
        self._weights = {
            key: (area_weights(part.shape[0], size), area_weights(part.shape[1], size))
            for key, part in facts.observation_space.items()
            if size is not None and part.dtype == np.uint8 and part.shape is not None and part.shape[:2] != (size, size)
        }

    def records(self, episode: int) -> Iterator[np.ndarray]:
        """Yield an episode's records in pieces. Raises: ConfigError for what is not finite or has another shape."""
        facts = self.dataset.episodes[episode]
        if facts.length == 0:  # only a reset was recorded
            yield self._convert(episode, 0, 0)
        for start, stop in chunks(facts.length):
            yield self._convert(episode, start, stop)

    def _convert(self, episode: int, start: int, stop: int) -> np.ndarray:
        steps, facts = self.dataset.read(episode, start, stop), self.dataset.episodes[episode]
        first = start == 0
        out = np.zeros(stop - start + first, self.dtype)
        arrived = out[1:] if first else out
        for key, values in steps.obs.items():
            kept = values if first else values[1:]
            if kept.shape[0] != len(out):
                raise _mixed(facts.name, key, f"{len(out)} observations expected, {kept.shape[0]} found")
            shape = self.dtype[key].shape
            resized = np.stack([resize(one, *self._weights[key]) for one in kept]) if key in self._weights else kept
            if resized.shape[1:] != shape:
                raise _mixed(facts.name, key, f"the data set has {shape}, this episode {resized.shape[1:]}")
            out[key] = resized
        arrived["prev_action"] = encoded_actions(self.dataset, steps)
        arrived["reward"] = steps.reward
        out["cont"] = 1.0
        out["is_first"] = False
        if first:
            out["is_first"][0] = True
        if stop == facts.length and stop > start and facts.terminated:
            out["cont"][-1] = 0.0
        self._check_finite(facts.name, start, out)
        return out

    def _check_finite(self, name: str, start: int, out: np.ndarray) -> None:
        for key in out.dtype.names or ():
            values = out[key]
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                row = int(np.flatnonzero(~np.isfinite(values).reshape(len(out), -1).all(1))[0])
                row += (start > 0) - (key in STEP_FIELDS)  # counted as observations, or as decisions
                raise ConfigError(
                    one_line(f"episode {name}: {key} is not finite at step {start + row}"),
                    cause="NaN or infinity, also as float32, would spread to all weights",
                    fix="leave the episode out, or correct it; worldlab data inspect lists all of them",
                )


def _mixed(name: str, key: str, what: str) -> ConfigError:
    return ConfigError(
        one_line(f"episode {name}: the shape of {key!r} differs"),
        cause=what,
        fix="give all episodes the same shapes; worldlab data inspect lists those that differ",
    )


class RecordStreams:
    """Streams of records, read by position: the episodes of each stream one after the other.

    streams: the episodes of each stream. totals: records of each stream. decisions: those of the shortest stream times
    the number of streams.
    """

    def __init__(self, source: EpisodeRecords, streams: Sequence[Sequence[int]]):
        self._source = source
        self._streams = [list(stream) for stream in streams]
        lengths = [[source.dataset.episodes[e].length for e in stream] for stream in self._streams]
        self._starts = [np.cumsum([0, *(length + 1 for length in stream)]) for stream in lengths]
        self.totals = [int(starts[-1]) for starts in self._starts]
        self.decisions = min((sum(stream) for stream in lengths), default=0) * len(lengths)
        self._cached: dict[int, tuple[int, int, np.ndarray, Iterator[np.ndarray]]] = {}

    def record(self, stream: int, at: int) -> np.void | None:
        """Return the record at a position; None at the end of the stream. Positions are read in order, mostly."""
        if at >= self.totals[stream]:
            return None
        index = int(np.searchsorted(self._starts[stream], at, side="right")) - 1
        offset = at - int(self._starts[stream][index])
        cached = self._cached.get(stream)
        if cached is None or cached[0] != index or offset < cached[1]:
            pieces = self._source.records(self._streams[stream][index])
            cached = (index, 0, next(pieces), pieces)
        while offset >= cached[1] + len(cached[2]):
            cached = (index, cached[1] + len(cached[2]), next(cached[3]), cached[3])
        self._cached[stream] = cached
        return cached[2][offset - cached[1]]

    def start_of(self, stream: int, at: int) -> int:
        """Return the position of the reset of the episode that holds position `at`."""
        starts = self._starts[stream]
        return int(starts[np.searchsorted(starts, at, side="right") - 1])

    def sha256(self) -> str:
        """Return the hash of all records, stream by stream, in hex. It reads everything once."""
        return sha256_of(self._source, [episode for stream in self._streams for episode in stream])


def sha256_of(source: EpisodeRecords, episodes: Sequence[int]) -> str:
    """Return the hash of the records of some episodes, in hex: equal data have one hash in every format."""
    digest = hashlib.sha256()
    for episode in episodes:
        for piece in source.records(episode):
            digest.update(piece.tobytes())
    return digest.hexdigest()


def deal(dataset: Dataset, count: int) -> list[list[int]]:
    """Return the episodes of `count` streams: as they were recorded, else dealt in turn.

    Raises: ConfigError if they were recorded in another number of environments, or are fewer than the streams.
    """
    recorded = dataset.streams()
    if recorded is not None:
        if len(recorded) != count:
            raise ConfigError(
                f"the experience was recorded with env.num_envs {len(recorded)}, this run has {count}",
                fix=f"--env.num-envs {len(recorded)}",
            )
        return [list(stream) for stream in recorded]
    dealt = [list(range(first, len(dataset.episodes), count)) for first in range(count)]
    if not dealt[-1]:
        raise ConfigError(
            f"the data set has {len(dataset.episodes)} episodes for env.num_envs {count}", fix="--env.num-envs 1"
        )
    return dealt


def split(dataset: Dataset) -> tuple[list[int], list[int]]:
    """Return the episodes for training and the held-out ones, a tenth. They depend on the number of episodes only.

    So all models and seeds hold out the same ones. A data set of one episode holds out none.
    """
    usable = [index for index, episode in enumerate(dataset.episodes) if episode.length]
    count = max(1, round(HELD_OUT * len(usable))) if len(usable) > 1 else 0
    held_out = sorted(np.random.default_rng(0).permutation(usable)[:count].tolist())
    return [index for index in usable if index not in set(held_out)], held_out


__all__ = ["CHUNK", "EpisodeRecords", "RecordStreams", "deal", "resized_space", "sha256_of", "split"]
