"""The results of a comparison as plain data, which statistics and reports read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

Status = Literal["finished", "failed", "missing"]


@dataclass(frozen=True)
class Quantity:
    """A quantity that is measured of a trained model.

    name: a key of `Trial.measures`, e.g. "probe/linear_r2". unit: "" if it has none. better: the better direction,
    None if neither is. estimator: one sentence on how the value is computed.
    """

    name: str
    title: str
    unit: str
    better: Literal["higher", "lower"] | None
    estimator: str


@dataclass(frozen=True)
class Measurement:
    """The value of a quantity in one run.

    value: None if it is undefined. error: the standard error within this run, None if there is none. why: the reason
    why the value is undefined.
    """

    value: float | None
    error: float | None = None
    why: str = ""


@dataclass(frozen=True)
class Method:
    """A compared method: a world model with its agent, or a baseline.

    key: short, unique, safe as a file name. label: the name to display. encoder, dynamics, decoder, agent: registered
    names; "" if a baseline has none.
    """

    key: str
    label: str
    kind: Literal["model", "baseline"]
    encoder: str = ""
    dynamics: str = ""
    decoder: str = ""
    agent: str = ""


@dataclass(frozen=True)
class Trial:
    """The results of a method on an environment with one seed.

    folder: relative to the folder of the comparison. cause: of a failure. returns: of the episodes of the final
    evaluation. curve: (env_steps, mean return) of each evaluation, the final one last.
    """

    method: str
    env: str
    seed: int
    status: Status
    folder: str = ""
    cause: str = ""
    env_steps: int = 0
    updates: int = 0
    wall_seconds: float = 0.0
    parameters: int = 0
    returns: tuple[float, ...] = ()
    curve: tuple[tuple[int, float], ...] = ()
    measures: Mapping[str, Measurement] = field(default_factory=dict)

    @property
    def score(self) -> float:
        """Mean return of the final evaluation; NaN if the trial did not finish."""
        return float(np.mean(self.returns)) if self.status == "finished" and self.returns else float("nan")


@dataclass(frozen=True)
class Reference:
    """The returns that define normalised scores 0 and 1 on an environment. why: the source of both."""

    zero: float
    one: float
    why: str


@dataclass(frozen=True)
class Comparison:
    """The complete data of a report.

    methods, envs: in the order of display. budgets: the budget of every trial, by environment ("env_steps", "updates",
    ...). about: command, presets, versions, hardware, data hashes, date.
    """

    title: str
    methods: tuple[Method, ...]
    envs: tuple[str, ...]
    seeds: tuple[int, ...]
    trials: tuple[Trial, ...]
    quantities: tuple[Quantity, ...] = ()
    references: Mapping[str, Reference] = field(default_factory=dict)
    budgets: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """The least and the largest possible return of an episode, by environment, where they are known."""

    def of(self, method: str, env: str) -> tuple[Trial, ...]:
        """Return the trials of a method on an environment, sorted by seed."""
        trials = (trial for trial in self.trials if (trial.method, trial.env) == (method, env))
        return tuple(sorted(trials, key=lambda trial: trial.seed))

    def scores(self, method: str, env: str) -> np.ndarray:
        """Return the mean returns float64 [n] of the finished trials, one per seed."""
        return np.array([trial.score for trial in self.of(method, env) if trial.status == "finished"], float)

    def normalised(self, method: str, env: str) -> np.ndarray:
        """Return `scores` normalised by the environment's reference. Raises: KeyError if it has none."""
        reference = self.references[env]
        return (self.scores(method, env) - reference.zero) / (reference.one - reference.zero)
