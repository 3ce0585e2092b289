"""Draws the curves of control.py: a row for each task, over environment frames and over minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from control_tasks import NAMES

from worldlab.study.statistics import Band, curve_band, iqm

POINTS = 40
"""Points of a band over the runs of a task."""


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw the IQM of each agent with its 95% band, its seeds pale, random play, the threshold and published curves."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    tasks = result["tasks"]
    figure = Figure(figsize=(10, 2.7 * len(tasks)), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(tasks), 2, squeeze=False, sharey="row")
    colours = {agent: f"C{i}" for i, agent in enumerate(dict.fromkeys(a for t in tasks.values() for a in t["agents"]))}
    for (name, task), (left, right) in zip(tasks.items(), grid, strict=True):
        for agent, found in task["agents"].items():
            runs = [run["curve"] for run in found["runs"].values()]
            by_frame = [[(task["repeat"] * step, value) for step, _, value in run] for run in runs]
            _draw_agent(left, by_frame, colours[agent], agent)
            _draw_agent(right, [[(minutes, value) for _, minutes, value in run] for run in runs], colours[agent], agent)
        for source, style in zip(task["published"], ("--", ":", "-.")):
            curve = task["published"][source]["curve"]
            if curve:
                left.plot(*zip(*curve), style, color="0.35", linewidth=1.2, label=f"{NAMES[source]} (published)")
        for axes, title in ((left, "frames"), (right, "minutes")):
            axes.axhline(task["random"]["final"], color="0.7", linewidth=0.8)
            if task["threshold"] is not None:
                axes.axhline(task["threshold"], color="0.7", linewidth=0.8, linestyle=(0, (6, 4)))
            axes.set_xlabel(title)
            axes.spines[["top", "right"]].set_visible(False)
        left.set(ylabel="return", title=f"{name} ({task['env']})")
        left.legend(frameon=False, fontsize=7)
    figure.savefig(path)


def _draw_agent(axes: Any, curves: list[list[tuple[float, float]]], colour: str, label: str) -> None:
    """Draw the seeds' curves pale, and their IQM with its band as far as all seeds go."""
    for curve in curves:
        axes.plot(*zip(*curve), color=colour, alpha=0.25, linewidth=0.8)
    found = band(curves)
    axes.plot(found.grid, found.estimate, color=colour, linewidth=1.6, label=label)
    axes.fill_between(found.grid, found.low, found.high, color=colour, alpha=0.15, linewidth=0)


def band(curves: list[list[tuple[float, float]]]) -> Band:
    """Return the IQM of the seeds' curves with its interval, from where all have begun to where the first one ends."""
    begun, ended = max(curve[0][0] for curve in curves), min(curve[-1][0] for curve in curves)
    return curve_band(curves, np.unique(np.linspace(begun, max(begun, ended), POINTS)), iqm)
