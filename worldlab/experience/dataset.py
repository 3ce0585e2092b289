"""Defines the data set: recorded episodes that a run learns from, whatever their format.

A format is a plugin of the role "dataset": `register.dataset("npz", "package.module:NpzFormat", config=None, ...)`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from gymnasium import spaces

from worldlab.env.spaces import action_spec, decode_action, encode_action, obs_spec
from worldlab.errors import ConfigError, EnvError, build_part, one_line

CHUNK = 256
"""Decisions read at a time: memory does not grow with the data set or with its episodes."""
CHUNK_BYTES = 2**28
"""Largest size in bytes of what is read at a time: a larger one is refused."""


@dataclass(frozen=True)
class EpisodeFacts:
    """What is known of an episode before its steps are read.

    name: how messages name it. length: decisions; the episode has length + 1 observations. terminated: whether its last
    decision ended it for good. truncated: whether it was cut there; both are False for an episode still in progress.
    """

    name: str
    length: int
    terminated: bool
    truncated: bool


@dataclass(frozen=True)
class Steps:
    """Consecutive decisions [T] of an episode, with the observations before and after each.

    obs: {key: [T + 1, ...]}. action: [T, ...], of the data set's action space; `obs[t + 1]` and `reward[t]` followed
    `action[t]`. reward: [T].
    """

    obs: dict[str, np.ndarray]
    action: np.ndarray
    reward: np.ndarray


@dataclass(frozen=True)
class DatasetFacts:
    """The description of a data set.

    format: name of its format. observation_space: a Dict of uint8 images (H, W, C) and float32 vectors (n,); a single
    image is called "image", a single vector "vector". action_space: Discrete or a finite Box. env_id: the environment
    it was recorded in, "" if it does not say. missing: sentences about what the data do not hold. encoded: actions are
    stored as a model sees them (one-hot, or scaled to [-1, 1]), float32 [T, A].
    """

    format: str
    observation_space: spaces.Dict
    action_space: spaces.Space
    env_id: str = ""
    missing: tuple[str, ...] = ()
    encoded: bool = False


class Dataset(ABC):
    """Recorded episodes, read from disk in pieces."""

    facts: DatasetFacts
    episodes: Sequence[EpisodeFacts]

    @abstractmethod
    def read(self, episode: int, start: int, stop: int) -> Steps:
        """Read decisions [start, stop) of an episode; at most CHUNK of them. Raises: ConfigError for damaged data."""

    def streams(self) -> Sequence[Sequence[int]] | None:
        """Return the episodes of each environment that was recorded, in order; None if the format has no such order."""
        return None

    def close(self) -> None:  # noqa: B027  # a data set without open files has nothing to close
        """Close the files."""


@runtime_checkable
class DatasetFormat(Protocol):
    """What a plugin registers as `dataset`: a class without constructor arguments, or an instance."""

    def recognises(self, name: str) -> bool:
        """Return whether a path or name looks like this format. It reads little, and raises nothing."""
        ...

    def open(self, name: str) -> Dataset:
        """Open a data set. Raises: ConfigError if it is damaged or hostile; PluginError if a package is missing."""
        ...


@runtime_checkable
class WritesDataset(Protocol):
    """A format that can also be written."""

    def write(self, source: Dataset, path: Path) -> None:
        """Write all episodes of a data set to a path that does not exist. Raises: ConfigError, StorageError."""
        ...


class FormatRegistry(Protocol):
    """Lists and loads formats: the part of `worldlab.registry.Registry` that this module uses."""

    def names(self, role: str) -> Sequence[str]: ...
    def get(self, role: str, name: str) -> Any: ...


def open_dataset(name: str, registry: FormatRegistry) -> Dataset:
    """Open a data set by path, or by "FORMAT:name"; the format of a path is recognised.

    Raises: ConfigError if no format recognises it, or two do; PluginError if a package is missing.
    """
    prefix, colon, rest = name.partition(":")
    if colon and prefix in registry.names("dataset"):
        return load_format(prefix, registry).open(rest)
    found = [one for one in registry.names("dataset") if load_format(one, registry).recognises(name)]
    if len(found) == 1:
        return load_format(found[0], registry).open(name)
    formats = ", ".join(registry.names("dataset"))
    if found:
        raise ConfigError(
            one_line(f"{one_line(name[-50:], 50)!r} can be read as {' and as '.join(found)}"),
            fix=f"--data {found[0]}:{one_line(name)}",
        )
    there = "no format recognises it" if Path(name).exists() else "there is no such file or folder"
    raise ConfigError(
        f"no data set at {one_line(name[-60:], 60)!r}",
        cause=f"{there}; formats: {formats}",
        fix="--data PATH, or --data FORMAT:PATH to choose the format; worldlab data inspect PATH shows what is read",
    )


def absolute_name(name: str) -> str:
    """Return the name of a data set, a path as an absolute one, which is also found from another folder."""
    path = Path(name).expanduser()
    return str(path.absolute()) if name and path.exists() else name


def load_format(name: str, registry: FormatRegistry) -> DatasetFormat:
    """Return a registered format. Raises: PluginError if it is not there or is no format."""
    loaded = registry.get("dataset", name).load()
    return build_part(DatasetFormat, loaded, f"dataset plugin {name!r}", "a format", "recognises(name) or open(name)")


def check_facts(facts: DatasetFacts, episodes: Sequence[EpisodeFacts]) -> None:
    """Check that a model can be built for a data set. Raises: ConfigError."""
    if not any(episode.length for episode in episodes):
        raise ConfigError(
            f"the {facts.format} data set has no episode with a decision", fix="record some: worldlab record"
        )
    try:
        obs_spec(facts.observation_space)
        action_spec(facts.action_space)
    except EnvError as error:
        raise ConfigError(f"the {facts.format} data set: {error.message}"[:100], cause=error.cause) from error
    step = sum(int(np.prod(part.shape)) * part.dtype.itemsize for part in facts.observation_space.values())  # type: ignore[union-attr]
    if step * CHUNK > CHUNK_BYTES:
        raise ConfigError(
            f"an observation of the data set takes {step:,} bytes, at most {CHUNK_BYTES // CHUNK:,} are accepted",
            fix="store smaller images",
        )


def encoded_actions(dataset: Dataset, steps: Steps) -> np.ndarray:
    """Return the actions as a model sees them: float32 [T, A]. Raises: ConfigError for one outside of the space."""
    if dataset.facts.encoded:
        return np.asarray(steps.action, np.float32)
    try:
        return encode_action(dataset.facts.action_space, steps.action).astype(np.float32)
    except EnvError as error:
        raise ConfigError(
            error.message, cause=error.cause, fix="correct the data or its declared action space"
        ) from error


def native_actions(dataset: Dataset, steps: Steps) -> np.ndarray:
    """Return the actions in the data set's action space, [T, ...]."""
    return np.asarray(
        decode_action(dataset.facts.action_space, steps.action) if dataset.facts.encoded else steps.action
    )


def chunks(length: int) -> list[tuple[int, int]]:
    """Return the pieces (start, stop) in which an episode is read."""
    return [(start, min(length, start + CHUNK)) for start in range(0, length, CHUNK)]


__all__ = [
    "CHUNK",
    "CHUNK_BYTES",
    "Dataset",
    "DatasetFacts",
    "DatasetFormat",
    "EpisodeFacts",
    "Steps",
    "WritesDataset",
    "absolute_name",
    "check_facts",
    "chunks",
    "encoded_actions",
    "load_format",
    "native_actions",
    "open_dataset",
]
