"""The tasks of control.py, and the scores that others published for them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

PUBLISHED = Path(__file__).parent / "data" / "published.json"
STATES = ("tdmpc2", "sac", "dreamerv3")
PICTURES = ("vision/dreamerv3",)
NAMES = {"tdmpc2": "TD-MPC2", "sac": "SAC", "dreamerv3": "DreamerV3", "vision/dreamerv3": "DreamerV3"}
"""What tables and pictures call a source of published.json."""


@dataclass(frozen=True)
class Task:
    """A task with its budget.

    steps: decisions. threshold: the return to reach, the goal of the project. repeat: frames of a decision. flags: of
    `worldlab train`, for this task. published: the task's name in published.json, and sources: whose scores are shown.
    scale: what a return is divided by in averages over tasks; None leaves the task out of them. held_out: whether
    settings are never chosen on it; such a task is measured only if it is named.
    """

    env: str
    steps: int
    threshold: float | None = None
    seeds: int = 5
    repeat: int = 1
    flags: str = ""
    published: str = ""
    sources: tuple[str, ...] = ()
    scale: float | None = None
    held_out: bool = False

    @property
    def frames(self) -> int:
        """Frames of a whole run."""
        return self.steps * self.repeat


def _dmc(name: str, steps: int, threshold: float, *, published: str = "", **fields: Any) -> Task:
    common = {"repeat": 2, "seeds": 3, "scale": 1000.0, "published": published or name, "sources": STATES}
    return Task(f"dmc:{name}", steps, threshold, **(common | fields))


def _seen(name: str, steps: int, threshold: float) -> Task:
    return _dmc(name, steps, threshold, flags="--env.pixels", sources=PICTURES)


PIXELS = "--env.pixels --env.size 64"
TASKS: dict[str, Task] = {
    "cartpole": Task("CartPole-v1", 6_000, 475),
    "pendulum": Task("Pendulum-v1", 4_000, -200),
    "acrobot": Task("Acrobot-v1", 6_000, -100),
    "mountain-car": Task("MountainCarContinuous-v0", 20_000, 90),
    # At half the frames of the published score of 839.
    "cartpole-swingup": _dmc("cartpole-swingup", 25_000, 800, seeds=5),
    # TD-MPC2's means at 100,000 frames.
    "walker-walk": _dmc("walker-walk", 50_000, 962),
    "cheetah-run": _dmc("cheetah-run", 50_000, 519),
    "reacher-easy": _dmc("reacher-easy", 50_000, 937),
    # DreamerV3's means at 50,000 frames, between the points of its curves before and after.
    "cartpole-swingup-pixels": _seen("cartpole-swingup", 25_000, 341),
    "walker-walk-pixels": _seen("walker-walk", 25_000, 425),
    "half-cheetah": Task("HalfCheetah-v5", 25_000),
    "hopper": Task("Hopper-v5", 25_000),
    "reacher": Task("Reacher-v5", 5_000, -5),
    "cartpole-pixels": Task("CartPole-v1", 10_000, 400, flags=PIXELS, seeds=3),
    "pendulum-pixels": Task("Pendulum-v1", 10_000, -250, flags=PIXELS, seeds=3),
    "carracing-cpc": Task("CarRacing-v3", 40_000, 850, flags="--encoder cpc", repeat=4, seeds=3),
    "carracing-vae": Task("CarRacing-v3", 40_000, 850, flags="--encoder vae", repeat=4, seeds=3),
    "cup-catch": _dmc("ball-in-cup-catch", 50_000, 981, published="cup-catch", held_out=True),
    "finger-spin": _dmc("finger-spin", 50_000, 947, held_out=True),
    "pendulum-swingup": _dmc("pendulum-swingup", 50_000, 724, held_out=True),
}
"""Every task by name. Thresholds are the project's goals, for control at these budgets."""


def read_published(path: Path = PUBLISHED) -> dict[str, dict[str, Any]]:
    """Return the published curves by source and task."""
    return json.loads(path.read_text(encoding="utf-8"))["curves"]


def mean_curve(found: Mapping[str, Sequence[float]] | Sequence[Sequence[Sequence[float]]]) -> list[tuple[float, float]]:
    """Return the (frame, mean return over seeds) of a published curve.

    found: {frame: [return of each seed]}, or [[frame, return], ...] of each seed, whose frames may differ. These are
    interpolated at the frames of all seeds, as far as every seed goes.
    """
    if isinstance(found, Mapping):
        return sorted((float(frame), float(np.mean(returns))) for frame, returns in found.items())
    seeds = [np.array(seed, float) for seed in found if seed]
    first, last = max(seed[0, 0] for seed in seeds), min(seed[-1, 0] for seed in seeds)
    frames = sorted({float(x) for seed in seeds for x in seed[:, 0] if first <= x <= last})
    means = np.mean([np.interp(frames, seed[:, 0], seed[:, 1]) for seed in seeds], axis=0)
    return [(frame, float(value)) for frame, value in zip(frames, means, strict=True)]


def return_at(curve: Sequence[tuple[float, float]], frames: float) -> float | None:
    """Return a curve's return at a number of frames, interpolated between its points; None outside of it."""
    points = np.array(curve, float)
    if not len(points) or not points[0, 0] <= frames <= points[-1, 0]:
        return None
    return float(np.interp(frames, points[:, 0], points[:, 1]))


def published_of(task: Task, curves: Mapping[str, Mapping[str, Any]], frames: int) -> dict[str, Any]:
    """Return by source the mean curve up to some frames ("curve") and the return at these frames ("at_our_frames")."""
    found = {}
    for source in task.sources:
        if task.published not in curves.get(source, {}):
            continue
        curve = mean_curve(curves[source][task.published])
        end = return_at(curve, frames)
        shown = [point for point in curve if point[0] < frames]
        found[source] = {
            "curve": [*shown, (float(frames), end)] if end is not None else shown,
            "at_our_frames": None if end is None else round(end, 1),
        }
    return found
