"""The variants of the model that control.py compares with the plain one, and the table of their differences."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from worldlab.study.statistics import Difference, difference

PLAIN = "dreamer"
"""The agent of all variants, and the name of the row without a variant."""
VARIANTS: dict[str, str] = {
    "ensemble": "--dynamics ensemble",
    "ensemble-pessimism": "--dynamics ensemble --agent.pessimism 1",
    "imle": "--dynamics imle",
    "imle-ensemble": "--dynamics ensemble --dynamics.member imle --agent.confidence 1",
    "made": "--dynamics made",
    "particles": "--model.samples 4",
    "vq": "--encoder vq",
    "fsq": "--encoder fsq",
}
"""Flags of each variant by the name that control.py takes as an agent."""


def final_difference(task: Mapping[str, Any], variant: str) -> Difference:
    """Return the final returns of a variant minus those of the plain model."""
    return _difference(task, variant, lambda run: run["final"])


def curve_difference(task: Mapping[str, Any], variant: str) -> Difference:
    """Return the same difference for the mean over a run's evaluations: which model learns faster, at equal updates."""
    return _difference(task, variant, curve_mean)


def curve_mean(run: Mapping[str, Any]) -> float:
    """Return the mean of the evaluations of a run."""
    return statistics.fmean(value for *_, value in run["curve"])


def return_at(run: Mapping[str, Any], minutes: float) -> float | None:
    """Return the last evaluation of a run within some minutes; None if there is none so early."""
    found = [value for _, at, value in run["curve"] if at <= minutes]
    return found[-1] if found else None


def _difference(task: Mapping[str, Any], variant: str, score: Callable[[Mapping[str, Any]], float]) -> Difference:
    mine, plain = ([score(run) for run in task["agents"][name]["runs"].values()] for name in (variant, PLAIN))
    return difference(np.array(mine)[:, None], np.array(plain)[:, None])
