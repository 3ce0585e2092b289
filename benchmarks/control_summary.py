"""Turns the finished runs of control.py into its result: curves, scores with intervals, stability, thresholds."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from control_tasks import Task, published_of

from worldlab.study.statistics import Interval, interval, iqm

STABLE = 0.9
"""The share of the way from random play to a run's best evaluation that its final evaluation must keep."""
MADE_BY = ("commit", "changed", "cpu")
"""What a run was made by: the commit, whether there were changes on top of it, and the processor."""
Run = dict[str, Any]
"""The result of one run: final, returns, best, random, stability, steps_to, minutes_to, minutes, curve, ..."""


def read_run(folder: Path) -> Run:
    """Return the numbers of a finished run folder: final, returns, curve [(step, minutes, return), ...], and facts."""
    result = _read(folder / "result.json")
    evaluations = [line for line in _lines(folder / "metrics.jsonl") if "eval/return" in line]
    clock = np.array([(line["step"], line["seconds"]) for line in _lines(folder / "perf.jsonl") if "seconds" in line])
    seconds = [0.0] * len(evaluations)
    if len(clock):
        seconds = np.interp([line["step"] for line in evaluations], clock[:, 0], whole_seconds(clock[:, 1]))
    curve = {
        line["step"]: (round(float(at) / 60, 3), line["eval/return"])
        for line, at in zip(evaluations, seconds, strict=True)
    }
    return {
        "steps": result["env_steps"],
        "updates": result["updates"],
        "minutes": round(result["wall_seconds"] / 60, 2),
        "alarms": result["alarms"],
        "final": result["return_mean"],
        "returns": result["returns"],
        "curve": [[step, minutes, value] for step, (minutes, value) in sorted(curve.items())],
    }


def whole_seconds(seconds: np.ndarray) -> np.ndarray:
    """Return the seconds of the whole run from those of its sessions [n]: each session of a resumed run counts from 0."""
    restarts = np.diff(seconds, prepend=0.0) < 0
    return seconds + np.cumsum(np.where(restarts, np.roll(seconds, 1), 0.0))


def read_baseline(path: Path) -> Run:
    """Return the numbers of a run without a world model, as workers/model_free.py writes them.

    The minutes of its evaluations are in proportion to its steps.
    """
    found = _read(path)
    minutes = found["wall_seconds"] / 60
    steps = max(found["env_steps"], 1)
    return {
        "steps": found["env_steps"],
        "updates": found["updates"],
        "minutes": round(minutes, 2),
        "alarms": [],
        "final": float(np.mean(found["returns"])),
        "returns": found["returns"],
        "curve": [[step, round(minutes * step / steps, 3), value] for step, value in found["curve"]],
    }


def assess(run: Run, random: float, threshold: float | None) -> Run:
    """Return a run with its best evaluation, its stability, and the steps and minutes to the threshold."""
    best = max([run["final"], *(value for *_, value in run["curve"])])
    reached = next((point for point in run["curve"] if threshold is not None and point[2] >= threshold), None)
    ratio = stability(run["final"], best, random)
    return {
        **run,
        "best": best,
        "stability": ratio,
        "stable": None if ratio is None else ratio >= STABLE,
        "steps_to": None if reached is None else reached[0],
        "minutes_to": None if reached is None else reached[1],
    }


def stability(final: float, best: float, random: float) -> float | None:
    """Return (final - random) / (best - random): the share kept of what a run once reached. None if it reached nothing
    above random play.
    """
    return None if best <= random else round((final - random) / (best - random), 4)


def summarise(
    task: Task, runs: Mapping[str, Mapping[int, Run]], random: Run, curves: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the result of one task. runs: {agent: {seed: run}}, finished ones only. random: the run of random play."""
    chance = random["final"]
    agents = {}
    for agent, seeds in runs.items():
        found = {seed: assess(run, chance, task.threshold) for seed, run in sorted(seeds.items())}
        if found:
            agents[agent] = _summarise_agent(found, task)
    return {
        "env": task.env,
        "flags": task.flags,
        "repeat": task.repeat,
        "threshold": task.threshold,
        "held_out": task.held_out,
        "frames": task.frames,
        "random": {key: random[key] for key in ("final", "returns", "command", *MADE_BY)},
        "agents": agents,
        "published": published_of(task, curves, task.frames),
    }


def _summarise_agent(runs: Mapping[int, Run], task: Task) -> dict[str, Any]:
    finals = np.array([run["final"] for run in runs.values()])
    rated = [run["stable"] for run in runs.values() if run["stable"] is not None]
    return {
        "runs": {str(seed): run for seed, run in runs.items()},
        "iqm": as_json(interval(finals[:, None], iqm)),
        "solved": None if task.threshold is None else sum(final >= task.threshold for final in finals.tolist()),
        "stable": sum(rated),
        "stability_runs": len(rated),
    }


def average(tasks: Mapping[str, Task], results: Mapping[str, Any]) -> dict[str, Any]:
    """Return, for each agent, the IQM over all runs of the tasks on one scale that it has runs of, and their names."""
    scores: dict[str, dict[str, list[float]]] = {}
    for name, result in results.items():
        scale = tasks[name].scale
        for agent, found in result["agents"].items() if scale else ():
            scores.setdefault(agent, {})[name] = [run["final"] / scale for run in found["runs"].values()]
    return {
        agent: {"tasks": list(by_task), "iqm": as_json(interval([np.array(x) for x in by_task.values()], iqm))}
        for agent, by_task in scores.items()
    }


def as_json(found: Interval) -> dict[str, Any]:
    """Return an interval as plain data; its ends are None if there is one run only."""
    ends = None if math.isnan(found.low) else [_number(found.low), _number(found.high)]
    return {"estimate": _number(found.estimate), "interval_95": ends, "runs": found.runs, "method": found.method}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(f"{value:.5g}")


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
