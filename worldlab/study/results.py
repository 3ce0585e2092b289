"""What a comparison found, as plain data: what statistics and reports read, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

Status = Literal["finished", "failed", "missing"]


@dataclass(frozen=True)
class Quantity:
    """Something that is measured of a trained model. name: "probe/linear_r2", a key of `Trial.measures`; unit: "" if it has
    none; better: which way is better, None if neither; estimator: how the number comes about, one sentence."""

    name: str
    title: str
    unit: str
    better: Literal["higher", "lower"] | None
    estimator: str


@dataclass(frozen=True)
class Measurement:
    """One value with its standard error (within this run; None if it has none), or None and the reason why it is undefined."""

    value: float | None
    error: float | None = None
    why: str = ""


@dataclass(frozen=True)
class Method:
    """What is compared: a mix and its agent, or a baseline. key: short, unique, safe as a file name; label: for people.

    encoder, dynamics, decoder, agent: registered names, "" where a baseline has none.
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
    """One method on one environment with one seed. returns: of the final evaluation's episodes; curve: (env_steps, mean
    return) of each evaluation, the final one last; folder: relative to the comparison's; cause: of a failure."""

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
    """The two returns between which scores of an environment are normalised: 0 and 1. why: where they come from."""

    zero: float
    one: float
    why: str


@dataclass(frozen=True)
class Comparison:
    """Everything a report needs. methods and envs in the order they are shown; budgets: by env, what every trial was given
    ("env_steps", "updates", ...); about: command, preset, versions, hardware, data hash, dates."""

    title: str
    methods: tuple[Method, ...]
    envs: tuple[str, ...]
    seeds: tuple[int, ...]
    trials: tuple[Trial, ...]
    quantities: tuple[Quantity, ...] = ()
    references: Mapping[str, Reference] = field(default_factory=dict)
    budgets: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)

    def of(self, method: str, env: str) -> tuple[Trial, ...]:
        """The trials of a method on an environment, by seed."""
        found = (trial for trial in self.trials if (trial.method, trial.env) == (method, env))
        return tuple(sorted(found, key=lambda trial: trial.seed))

    def scores(self, method: str, env: str) -> np.ndarray:
        """Mean returns float64 [n] of the finished trials, one a seed."""
        return np.array([trial.score for trial in self.of(method, env) if trial.status == "finished"], float)

    def normalised(self, method: str, env: str) -> np.ndarray:
        """The same on the environment's scale from 0 to 1. Raises: KeyError if it has no reference."""
        reference = self.references[env]
        return (self.scores(method, env) - reference.zero) / (reference.one - reference.zero)
