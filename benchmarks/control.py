"""Measure control: tasks x seeds x agents, beside Stable-Baselines3 at the same steps and beside published scores.

    python benchmarks/control.py                                             # all tasks that are not held out
    python benchmarks/control.py --tasks cartpole walker-walk --seeds 3 --agents dreamer tdmpc model-free
    python benchmarks/control.py --tasks cartpole --flags "--agent.dreamer.gamma 0.99" --runs runs/gamma --out gamma.json

Each cell is a run folder RUNS/TASK/AGENT/seed-N, made by `worldlab train` with the task's steps and no time limit. It can
be stopped at any moment: the same command reads finished cells, resumes begun ones from their checkpoints, and starts
the rest. `model-free` is PPO or SAC of Stable-Baselines3, which learns in the environment itself (begun runs start
again), and model-free:NAME another of its algorithms; each task also has one run of random play. NAME@4 gives an agent
four times the steps. A variant of control_variants.py is `dreamer` with other flags:

    python benchmarks/control.py --tasks pendulum reacher --agents dreamer imle ensemble made --runs runs/variants \
        --out benchmarks/results/variants.json

The result is written after every cell, and at the end a picture beside it. It keeps the runs that it has already, if they
were made with the same flags, so tasks, agents and seeds can be added on another day or machine; each run has what made it
(MADE_BY). `--anew` drops those of the chosen agents and tasks first, for example after a default has changed.
The score of a run is the mean of 20 fresh episodes at its end. Seeds go round all tasks before the next seed begins.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from control_chart import draw
from control_summary import MADE_BY, Run, average, read_baseline, read_run, summarise
from control_tasks import TASKS, Task, read_published
from control_variants import PLAIN, VARIANTS
from interleave import header, say, source_path, write_json
from machine import ROOT, commit, machine

OUT = ROOT / "benchmarks" / "results" / "control.json"
WORKER = ROOT / "benchmarks" / "workers" / "model_free.py"
EVALUATIONS = 10
"""Evaluations of a run on the way to its end."""
EPISODES = 10
"""Episodes of an evaluation on the way; 5 where an episode has 500 decisions or more."""
State = Literal["finished", "begun", "new"]
Earlier = dict[str, Any]
"""The tasks of an earlier result by name."""


@dataclass(frozen=True)
class Cell:
    """One run of one agent. folder: of the run; files beside it hold its command and its output."""

    name: str
    task: Task
    agent: str
    seed: int
    folder: Path
    flags: tuple[str, ...]

    @property
    def method(self) -> str:
        """The agent itself, without its factor of steps and without a variant's name."""
        name = self.agent.partition("@")[0]
        return PLAIN if name in VARIANTS else name

    @property
    def trains(self) -> bool:
        """Whether `worldlab train` makes the run, rather than the worker for methods without a world model."""
        return self.method != "random" and self.method.partition(":")[0] != "model-free"

    def command(self, resume: bool = False) -> list[str]:
        """Return the command that makes the run, or that resumes it."""
        if not self.trains:
            return [sys.executable, str(WORKER), self.method, str(self.folder / "result.json"), *self.flags]
        train = [sys.executable, "-m", "worldlab", "train", "--run", str(self.folder)]
        return [*train, "--resume"] if resume else [*train, "--agent", self.method, *self.flags]

    @property
    def shown(self) -> str:
        """The command as a result has it, without the folder of the run."""
        words = ["worldlab", "train", "--agent"] if self.trains else ["python", "benchmarks/workers/model_free.py"]
        return shlex.join([*words, self.method, *self.flags])

    def beside(self, ending: str) -> Path:
        """Return a file beside the folder, such as seed-0.log."""
        return self.folder.with_name(self.folder.name + ending)


def cells_of(tasks: dict[str, Task], agents: list[str], seeds: int | None, runs: Path, extra: str) -> list[Cell]:
    """Return the cells in the order of their runs: random play first, then seed by seed."""
    found = [_cell(name, task, "random", 0, runs, extra) for name, task in tasks.items()]
    most = max(seeds or task.seeds for task in tasks.values())
    for seed in range(most):
        for name, task in tasks.items():
            if seed < (seeds or task.seeds):
                found += [_cell(name, task, agent, seed, runs, extra) for agent in agents]
    return found


def _cell(name: str, task: Task, agent: str, seed: int, runs: Path, extra: str) -> Cell:
    episodes, steps = 5 if task.scale else EPISODES, task.steps * int(agent.partition("@")[2] or 1)
    budget = {"steps": steps, "minutes": "none", "seed": seed, "eval.every": max(1, steps // EVALUATIONS)}
    budget |= {"eval.episodes": episodes, "eval.final-episodes": 20, "env": task.env, "env.repeat": task.repeat}
    flags = [word for flag, value in budget.items() for word in (f"--{flag}", str(value))]
    variant = VARIANTS.get(agent.partition("@")[0], "")
    words = (*flags, *shlex.split(task.flags), *shlex.split(variant), *shlex.split(extra))
    return Cell(
        name, task, agent, seed, runs / name / agent.replace(":", "-").replace("@", "-x") / f"seed-{seed}", words
    )


def read_earlier(out: Path, tasks: Mapping[str, Task], extra: str, dropped: Sequence[str] = ()) -> Earlier:
    """Return the tasks of the result in a file, or nothing if there is none; of `tasks`, without the dropped agents.

    Raises: SystemExit if a run that is left of one of these tasks was made with other flags.
    """
    if not out.is_file():
        return {}
    earlier = json.loads(out.read_text(encoding="utf-8"))["tasks"]
    for name in earlier.keys() & tasks.keys():
        earlier[name] = without(earlier[name], dropped)
        for agent, seed, run in runs_of(earlier[name]):
            if run["command"] != _cell(name, tasks[name], agent, seed, Path(), extra).shown:
                sys.exit(
                    f"{out} has a run of {name} with other flags ({run['command']}): give another --out, or --anew"
                )
    return earlier


def without(result: Mapping[str, Any], agents: Sequence[str]) -> dict[str, Any]:
    """Return the result of a task without the runs of these agents."""
    return {**result, "agents": {name: found for name, found in result["agents"].items() if name not in agents}}


def missing(cells: list[Cell], earlier: Earlier) -> list[Cell]:
    """Return the cells without an earlier run."""
    had = {(name, agent, seed) for name, result in earlier.items() for agent, seed, _ in runs_of(result)}
    return [cell for cell in cells if (cell.name, cell.agent, cell.seed) not in had]


def runs_of(result: Mapping[str, Any]) -> list[tuple[str, int, Run]]:
    """Return (agent, seed, run) of each run in the result of a task, that of random play first."""
    found = [(agent, int(seed), run) for agent, each in result["agents"].items() for seed, run in each["runs"].items()]
    return [("random", 0, result["random"]), *found]


def state_of(cell: Cell) -> State:
    """Return how far a cell is. Raises: SystemExit if its folder holds another run, which is never touched."""
    record = cell.beside(".json")
    if cell.folder.exists() and not record.is_file():
        sys.exit(f"{cell.folder} holds a run that is not ours: give another --runs")
    if record.is_file() and json.loads(record.read_text(encoding="utf-8"))["flags"] != list(cell.flags):
        sys.exit(f"{cell.folder} holds a run with other flags: {record} has them; give another --runs, or remove it")
    if (cell.folder / "result.json").is_file():
        return "finished"
    return "begun" if any((cell.folder / "checkpoints").glob("step-*")) else "new"


def make(cell: Cell, stop: threading.Event) -> str:
    """Make the run of a cell, unless it is finished. Returns what went wrong, or an empty text."""
    state = state_of(cell)
    if state == "finished" or stop.is_set():
        return ""
    if state == "new":
        shutil.rmtree(cell.folder, ignore_errors=True)
        cell.folder.parent.mkdir(parents=True, exist_ok=True)
        record = {"flags": list(cell.flags), **commit(), "cpu": machine()["cpu"]}
        write_json(cell.beside(".json"), record)  # whole: other threads read it
        if not cell.trains:
            cell.folder.mkdir()
    say(f"{cell.name}, {cell.agent}, seed {cell.seed}: {'resumed' if state == 'begun' else 'started'}")
    with cell.beside(".log").open("a", encoding="utf-8") as log:
        # In a session of its own: Ctrl-C reaches this process alone, which then stops the run once.
        process = subprocess.Popen(
            cell.command(state == "begun"), stdout=log, stderr=log, env=_environment(), start_new_session=True
        )
        try:
            while process.poll() is None and not stop.wait(0.2):
                pass
        finally:
            process.terminate()  # a run saves a checkpoint; nothing happens to a process that ended
            process.wait()
    if process.returncode == 0 or stop.is_set():
        return ""
    words = cell.beside(".log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"exit code {process.returncode}: {' / '.join(words[-3:])[:300]}"


def _environment() -> dict[str, str]:
    """Return the environment variables with which a process uses the code of this checkout."""
    return {**os.environ, "PYTHONPATH": source_path()}


def read(cell: Cell) -> Run:
    """Return the numbers of a finished cell, with its command and what it was made by (MADE_BY)."""
    record = json.loads(cell.beside(".json").read_text(encoding="utf-8"))
    numbers = read_run(cell.folder) if cell.trains else read_baseline(cell.folder / "result.json")
    return {**numbers, "command": cell.shown, **{key: record[key] for key in MADE_BY}}


def collect(cells: list[Cell], tasks: dict[str, Task], failed: dict[str, str], earlier: Earlier) -> dict[str, Any]:
    """Return the result of all finished cells and of the earlier runs; a task appears once its random play is known."""
    to_make = missing(cells, earlier)
    done = [cell for cell in to_make if state_of(cell) == "finished"]
    finished = len(cells) - len(to_make) + len(done)
    curves, results = read_published(), dict(earlier)
    for name, task in tasks.items():
        runs: dict[str, dict[int, Run]] = {}
        found = runs_of(earlier[name]) if name in earlier else []
        for agent, seed, run in [*found, *((cell.agent, cell.seed, read(cell)) for cell in done if cell.name == name)]:
            runs.setdefault(agent, {})[seed] = run
        chance = runs.pop("random", {}).get(0)
        if chance is not None and runs:
            results[name] = summarise(task, runs, chance, curves)
    ordered = {name: results[name] for name in TASKS if name in results}
    progress = {"cells": {"finished": finished, "planned": len(cells)}, "failed": failed}
    return {**progress, "average": average(TASKS, ordered), "tasks": ordered}


def run(
    cells: list[Cell], tasks: dict[str, Task], jobs: int, out: Path, about: dict[str, Any], earlier: Earlier
) -> dict[str, str]:
    """Make all cells but those of earlier results, and write the result after each. Returns what went wrong by cell."""
    failed: dict[str, str] = {}
    stop = threading.Event()
    to_make = missing(cells, earlier)
    if len(to_make) < len(cells):
        say(f"{len(cells) - len(to_make)} of {len(cells)} runs are in {out} already")
    for cell in cells:
        state_of(cell)  # a folder of other flags ends the command before anything runs
    with ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(make, cell, stop): cell for cell in to_make}
        try:
            for future in as_completed(futures):
                cell, wrong = futures[future], future.result()
                if wrong:
                    failed[f"{cell.name}, {cell.agent}, seed {cell.seed}"] = wrong
                    say(f"{cell.name}, {cell.agent}, seed {cell.seed} failed: {wrong}")
                write_json(out, {**about, **collect(cells, tasks, failed, earlier)})
        except BaseException:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    result = collect(cells, tasks, failed, earlier)
    write_json(out, {**about, **result})
    if result["tasks"]:
        draw(result, out.with_suffix(".png"))
    return failed


def parse(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    usual = [name for name, task in TASKS.items() if not task.held_out]
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=usual, metavar="TASK", help=", ".join(TASKS))
    parser.add_argument("--seeds", type=int, help="runs of each task and agent; by default the task's own number")
    parser.add_argument("--agents", nargs="+", default=["dreamer", "model-free"])
    parser.add_argument("--steps", type=int, help="decisions of every run, instead of the tasks' own budgets")
    parser.add_argument("--flags", default="", help="further flags of every run, as one text")
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "control", help="where the run folders are")
    parser.add_argument("--out", type=Path, default=OUT, help="the result; its picture stands beside it")
    parser.add_argument("--anew", action="store_true", help="drop what the result has of these agents on these tasks")
    return parser.parse_args(words)


def main() -> None:
    args = parse()
    tasks = {name: replace(TASKS[name], steps=args.steps or TASKS[name].steps) for name in args.tasks}
    cells = cells_of(tasks, args.agents, args.seeds, args.runs.absolute(), args.flags)
    earlier = read_earlier(args.out, tasks, args.flags, args.agents if args.anew else ())
    about = header("control.py", "gymnasium", "stable-baselines3", "mujoco", "dm_control")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops the runs as Ctrl-C does
    try:
        failed = run(cells, tasks, args.jobs, args.out, about, earlier)
    except KeyboardInterrupt:
        sys.exit("stopped: the same command goes on")
    sys.exit(f"{len(failed)} runs failed; the same command tries them again" if failed else 0)


if __name__ == "__main__":
    main()
