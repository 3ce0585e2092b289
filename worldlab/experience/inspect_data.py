"""Reads a data set once and reports what is in it, what is missing and what is wrong, each with its episode."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium import spaces

from worldlab.errors import ConfigError, one_line
from worldlab.experience.data_records import split
from worldlab.experience.dataset import Dataset, Steps, chunks, encoded_actions, native_actions

NAMED = 20
"""Most findings that are listed."""
PICTURES = 12
"""Frames of the strip."""


@dataclass
class Inspection:
    """What `inspect` found. findings: sentences about what is wrong. rows: episode, return, length and end of each."""

    facts: dict[str, Any]
    findings: list[str] = field(default_factory=list)
    returns: list[float] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    held_out: list[str] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Return the report as `worldlab data inspect` prints it."""
        ends = self.facts.pop("ends")
        return {
            **self.facts,
            "episodes": len(self.lengths),
            "ends": ends,
            "decisions": sum(self.lengths),
            "return": _spread(self.returns),
            "length": _spread(self.lengths),
            "held out": f"{len(self.held_out)} episodes with --offline: {', '.join(self.held_out[:10])}",
            "wrong": "; ".join(self.findings[:NAMED]) or "nothing",
        }


def inspect(dataset: Dataset) -> Inspection:
    """Read every step of a data set in pieces."""
    facts, episodes = dataset.facts, dataset.episodes
    ends = {
        "terminated": sum(episode.terminated for episode in episodes),
        "cut": sum(episode.truncated for episode in episodes),
    }
    ends["unfinished"] = len(episodes) - sum(ends.values())
    found = Inspection(
        {
            "format": facts.format,
            "env": facts.env_id or "not named",
            "observations": ", ".join(f"{key} {_shape(part)}" for key, part in facts.observation_space.items()),
            "actions": one_line(facts.action_space, 60),
            "missing": "; ".join(facts.missing) or "nothing",
            "ends": ends,
        }
    )
    for number in range(len(episodes)):
        _inspect_episode(dataset, number, found)
    if not ends["terminated"] and len(set(found.lengths)) > 1:
        found.findings.append("no episode terminates, but their lengths differ: are terminations missing?")
    found.held_out = [episodes[number].name for number in split(dataset)[1]]
    return found


def _inspect_episode(dataset: Dataset, number: int, found: Inspection) -> None:
    name, total = dataset.episodes[number].name, 0.0
    try:
        for start, stop in chunks(dataset.episodes[number].length):
            steps = dataset.read(number, start, stop)
            found.findings += [f"episode {name}, {what}" for what in _problems(dataset, steps, start)]
            total += float(np.sum(steps.reward, dtype=np.float64))
            encoded_actions(dataset, steps)
    except ConfigError as error:
        found.findings.append(one_line(f"episode {name}: {error.message}", 200))
    found.returns.append(total)
    found.lengths.append(dataset.episodes[number].length)


def _problems(dataset: Dataset, steps: Steps, start: int) -> list[str]:
    """Return what is wrong in a piece of an episode."""
    said = []
    for key, values in {**steps.obs, "action": steps.action, "reward": steps.reward}.items():
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(1))[0])
            said.append(f"step {start + row}: {key} is not finite")
    space = dataset.facts.action_space
    if isinstance(space, spaces.Box) and not said:
        native = native_actions(dataset, steps).reshape(len(steps.reward), -1)
        margin = 1e-5 * (space.high - space.low).ravel()
        outside = ((native < space.low.ravel() - margin) | (native > space.high.ravel() + margin)).any(1)
        if outside.any():
            row = int(np.flatnonzero(outside)[0])
            said.append(f"step {start + row}: an action is outside of its space, and would be clipped")
    return said


def strip_of(dataset: Dataset) -> tuple[str, np.ndarray] | None:
    """Return name and frames of the longest episode's beginning: images [T, H, W, C], else a vector [T, D]."""
    episodes = dataset.episodes
    longest = max(range(len(episodes)), key=lambda number: episodes[number].length)
    _, stop = chunks(episodes[longest].length)[0]
    obs = dataset.read(longest, 0, stop).obs
    key = max(obs, key=lambda name: obs[name].ndim)
    every = max(1, math.ceil(len(obs[key]) / PICTURES)) if obs[key].ndim == 4 else 1
    return key, obs[key][::every]


def _shape(part: spaces.Space) -> str:
    return f"{part.dtype} {list(part.shape or ())}"


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "none"
    return f"mean {np.mean(values):.6g}, least {min(values):.6g}, most {max(values):.6g}"


__all__ = ["Inspection", "inspect", "strip_of"]
