"""Builds a Comparison from the cells' files: trials, score references, budgets, versions and hardware."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from worldlab.config.resolve import RunConfig
from worldlab.runs import storage
from worldlab.runs.folder import git_state, versions
from worldlab.runs.machine import available_cores
from worldlab.study.compare.cell_file import read_cell
from worldlab.study.compare.plan import Cell, Plan
from worldlab.study.compare.shared_data import data_source_text
from worldlab.study.results import Comparison, Reference, Trial

MIN_EPISODES = 10
"""Episodes of random play from which their standard deviation is used as a scale."""


def collect(plan: Plan, folder: Path, places: Mapping[str, Path], command: str = "") -> Comparison:
    """Read a comparison from its folder, finished or not.

    places: the folder of each cell, by the cell's name. command: the command line, for the report.
    """
    results = [(cell, _trial(cell, folder, places[cell.name], plan.matrix.sizes)) for cell in plan.cells]
    shown = [(cell, trial) for cell, trial in results if cell.method in plan.methods]
    order = {method.key: at for at, method in enumerate(plan.methods)}
    trials = sorted((t for _, t in shown), key=lambda t: (order[t.method], plan.matrix.envs.index(t.env), t.seed))
    references = {}
    for env in plan.matrix.envs:
        reference = find_reference([(cell, trial) for cell, trial in results if cell.env == env])
        if reference is not None:
            references[env] = reference
    return Comparison(
        title=plan.title,
        methods=plan.methods,
        envs=plan.matrix.envs,
        seeds=plan.matrix.seeds,
        trials=tuple(trials),
        quantities=plan.quantities,
        references=references,
        bounds=plan.bounds,
        budgets={env: {**budget, **_updates(shown, env)} for env, budget in plan.budgets.items()},
        about=_about(plan, [places[cell.name] for cell in plan.cells], command),
    )


def find_reference(trials: Sequence[tuple[Cell, Trial]]) -> Reference | None:
    """Return the returns that define scores 0 and 1 on one environment, given the cells of that environment.

    Score 0 is the mean return of random play. Score 1 is the environment's reward threshold in Gymnasium, if it has
    one that applies to the task as configured here. Else it is the mean return of the best method, but at least one
    standard deviation of random play (1 if its returns are all equal) above 0, because a scale as narrow as chance
    would inflate noise. Returns None before random play has finished, and where there is neither a threshold nor
    MIN_EPISODES of random play.
    """
    finished = [(cell, trial) for cell, trial in trials if trial.status == "finished"]
    random = [value for cell, trial in finished if cell.kind == "random" for value in trial.returns]
    if not random:
        return None
    zero = float(np.mean(random))
    why = f"0: mean return of {len(random)} episodes of random actions"
    solved = reward_threshold(trials[0][0].config)
    if solved is not None and solved > zero:
        return Reference(zero, solved, f"{why}; 1: the reward threshold in Gymnasium")
    if len(random) < MIN_EPISODES:
        return None
    scores: dict[str, list[float]] = {}
    for cell, trial in finished:
        if cell.kind != "random":
            scores.setdefault(cell.method.label, []).append(trial.score)
    means = {label: float(np.mean(of)) for label, of in scores.items()}
    best = max(means, key=means.__getitem__, default="")
    spread = float(np.std(random))
    width = spread if spread > 1e-9 * abs(zero) else 1.0  # the returns are equal up to rounding
    if best and means[best] >= zero + width:
        return Reference(zero, means[best], f"{why}; 1: the best mean return in this comparison ({best})")
    unit = "a standard deviation" if width == spread else "a return of 1"
    return Reference(zero, zero + width, f"{why}; 1: {unit} above it, as no mean return is higher")


def reward_threshold(config: RunConfig) -> float | None:
    """Return the reward threshold of an environment in Gymnasium, at which it counts as solved.

    Returns None if there is none, or if the configured time limit is shorter than the registered one.
    """
    env = config.core.env
    try:
        spec = gymnasium.spec(env.id.rpartition(":")[2])
    except gymnasium.error.Error:
        return None
    if env.time_limit is not None and (spec.max_episode_steps or 0) > env.time_limit * env.repeat:
        return None
    return None if spec.reward_threshold is None else float(spec.reward_threshold)


def _trial(cell: Cell, folder: Path, place: Path, sizes: str) -> Trial:
    known = read_cell(place)
    trial = known.trial if known is not None else Trial("", cell.env, cell.seed, "missing")
    if known is not None and known.sizes != sizes:
        trial = replace(
            trial, measures={}
        )  # these used other sizes than the matrix has now, so they are measured again
    return replace(trial, method=cell.method.key, folder=place.relative_to(folder).as_posix())


def _updates(trials: Sequence[tuple[Cell, Trial]], env: str) -> dict[str, float]:
    """Return the number of updates per model, if it is the same for all finished models."""
    updates = {
        trial.updates for cell, trial in trials if (cell.kind, cell.env, trial.status) == ("model", env, "finished")
    }
    return {"updates": float(updates.pop())} if len(updates) == 1 else {}


def _about(plan: Plan, places: Sequence[Path], command: str) -> dict[str, Any]:
    configs = [cell.config.core for cell in plan.cells]
    about: dict[str, Any] = {
        "command": command,
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "presets": list(plan.matrix.presets),
        "strict": all(config.strict for config in configs),
        **({"measured": plan.matrix.sizes} if plan.quantities else {}),
        "launcher": plan.matrix.launcher,
        "versions": versions(),
        "plugins": list(plan.plugins),
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": available_cores(),
        "git": git_state(),
    }
    if any(config.minutes is not None for config in configs):
        about["minutes"] = "training stopped at a time limit where steps took longer: not bit-reproducible"
    if plan.matrix.shared_data:
        about["data_played_by"] = data_source_text(plan)
    commits = _commits(places)
    if len(commits) > 1:
        about["commits"] = commits
    data = _data(plan, places)
    return about | ({"data": data} if data else {})


def _commits(places: Sequence[Path]) -> list[str]:
    """Return the git commits recorded in the run folders, with counts: "b9bd76a in 48 runs"."""
    counts: Counter[str] = Counter()
    for place in places:
        git = _facts(place).get("git")
        if isinstance(git, Mapping) and "commit" in git:
            counts[f"{str(git['commit'])[:7]}{', changed since' if git.get('dirty') else ''}"] += 1
    return [f"{commit} in {count} runs" for commit, count in counts.most_common()]


def _data(plan: Plan, places: Sequence[Path]) -> dict[str, str]:
    """Return the SHA-256 of the recorded data that models learn from, by environment."""
    digests: dict[str, str] = {}
    for cell, place in zip(plan.cells, places, strict=True):
        if cell.config.core.data and cell.env not in digests:
            data = _facts(place).get("data")
            digest = data.get("sha256") if isinstance(data, Mapping) else None
            digest = digest.get("training") if isinstance(digest, Mapping) else digest
            digests |= {cell.env: str(digest)} if digest else {}
    return digests


def _facts(place: Path) -> Mapping[str, Any]:
    """Return the content of a cell's run.json; {} if there is none that can be read: these facts are no scores."""
    try:
        content = storage.read_json(place / "run.json")
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, Mapping) else {}


def _processor() -> str:
    """Return the name of the processor, from /proc/cpuinfo on Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
