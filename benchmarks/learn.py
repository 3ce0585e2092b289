"""Train several seeds with the installed command, evaluate each, and write learning curves, numbers and a picture.

    python benchmarks/learn.py --env CartPole --env Pendulum --seeds 3 --jobs 2
    python benchmarks/learn.py --env CarRacing --seeds 1 --jobs 1 --train "--encoder cpc" --name carracing-cpc

The string after --train is passed to `worldlab train`. For each environment a folder benchmarks/results/learn/NAME
gets one JSON per seed (result, evaluation curve, parameters, configuration), summary.json with intervals, the random
agent's returns on the same evaluation episodes, and curve.png.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

RESULTS = Path(__file__).parent / "results" / "learn"
WORLDLAB = [sys.executable, "-m", "worldlab"]
RANDOM = "--agent random --steps 600 --train.prefill 500 --train.pretrain 0 --train.ratio 0.01 --eval.every 0 --log.pictures 0"


def train(env: str, seed: int, flags: str, folder: Path) -> dict[str, Any]:
    """Train one run with the command line, unless the folder holds it finished. Returns its result, curve and
    configuration.
    """
    run = folder / f"seed-{seed}"
    command = [*WORLDLAB, "train", "--env", env, "--seed", str(seed), "--run", str(run), *shlex.split(flags)]
    if not (run / "result.json").is_file():
        with (folder / f"seed-{seed}.log").open("w") as log:
            subprocess.run(command, check=True, stdout=log, stderr=log)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    curve = [(line["step"], line["eval/return"]) for line in lines if "eval/return" in line]
    run_record = json.loads((run / "run.json").read_text())
    return {
        "seed": seed,
        "command": " ".join(["worldlab", *command[3:5], env, "--seed", str(seed), *shlex.split(flags)]),
        "result": json.loads((run / "result.json").read_text()),
        "command_seconds": round((run / "result.json").stat().st_mtime - start_time(run_record), 1),
        "curve": curve,
        "episodes": training_episodes(run),
        "parameters": run_record["parameters"],
        "matching": run_record["matching"],
        "config": (run / "config.toml").read_text(),
    }


def start_time(run_record: dict[str, Any]) -> float:
    """Return when a run began, in seconds since 1970."""
    return datetime.fromisoformat(run_record["created"]).timestamp()


def training_episodes(run: Path) -> list[tuple[int, float]]:
    """Return (decisions so far, return) of each episode collected in training."""
    rows = [line.split(",") for line in (run / "monitor.csv").read_text().splitlines()[2:]]
    lengths = np.cumsum([int(row[1]) for row in rows])
    return [(int(steps), float(row[0])) for steps, row in zip(lengths, rows)]


def interval(values: list[float]) -> list[float]:
    """Return the 95% bootstrap interval of the mean (BCa, 10,000 resamples); a single value gives itself."""
    if len(values) < 2 or np.ptp(values) == 0:
        return [float(np.mean(values))] * 2
    found = stats.bootstrap((values,), np.mean, n_resamples=10_000, rng=np.random.default_rng(0)).confidence_interval
    return [float(found.low), float(found.high)]


def margin(values: list[float], baseline: list[float]) -> dict[str, Any]:
    """Return the difference of means with Welch's 95% interval: episodes of the trained agent against the random
    agent's.
    """
    test = stats.ttest_ind(values, baseline, equal_var=False)
    bounds = test.confidence_interval(0.95)
    return {
        "difference": float(np.mean(values) - np.mean(baseline)),
        "interval_95": [float(bounds.low), float(bounds.high)],
        "excludes_zero": bool(bounds.low > 0),
    }


def summarise(env: str, runs: list[dict[str, Any]], random: list[float]) -> dict[str, Any]:
    """Summarise the runs for the tables: means per seed, the mean over seeds with its interval, and the margin over
    random.
    """
    means = [run["result"]["return_mean"] for run in runs]
    episodes = [ret for run in runs for ret in run["result"]["returns"]]
    return {
        "env": runs[0]["result"]["env"],
        "asked_for": env,
        "seeds": len(runs),
        "episodes_per_seed": runs[0]["result"]["episodes"],
        "return_mean_by_seed": means,
        "return_mean": float(np.mean(means)),
        "return_mean_interval_95_over_episodes": interval(episodes),
        "random_mean": float(np.mean(random)),
        "random_returns": random,
        "margin_over_random": margin(episodes, random),
        "env_steps": [run["result"]["env_steps"] for run in runs],
        "updates": [run["result"]["updates"] for run in runs],
        "minutes": [round(run["command_seconds"] / 60, 2) for run in runs],
        "machine": {"cpu": cpu_name(), "cores": os.cpu_count(), "python": platform.python_version()},
        "versions": {name: version(name) for name in ("torch", "gymnasium", "numpy", "worldlab")},
        "command": runs[0]["command"],
    }


def cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def plot_curve(summary: dict[str, Any], runs: list[dict[str, Any]], path: Path) -> None:
    """Plot returns over environment steps: evaluations as a line per seed, training episodes pale, the random mean
    dashed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.4), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for run in runs:
        steps, returns = zip(*run["curve"], strict=True)
        (line,) = axes.plot(steps, returns, marker="o", markersize=3, linewidth=1.4, label=f"seed {run['seed']}")
        if run["episodes"]:
            axes.plot(*zip(*run["episodes"], strict=True), color=line.get_color(), alpha=0.3, linewidth=0.8)
    axes.axhline(summary["random_mean"], linestyle="--", color="0.5", linewidth=1, label="random agent")
    axes.set(xlabel="environment steps (decisions)", ylabel="return", title=summary["env"])
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path)


def benchmark(env: str, name: str, seeds: int, jobs: int, flags: str, kept: Path | None) -> dict[str, Any]:
    """Train, evaluate and write one environment. kept: where its runs are kept, or None."""
    target = RESULTS / name
    with tempfile.TemporaryDirectory() as scratch:
        folder = kept or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(jobs) as pool:
            runs = list(pool.map(lambda seed: train(env, seed, flags, folder), range(seeds)))
        (folder / "random").mkdir(exist_ok=True)
        baseline = train(env, 0, RANDOM, folder / "random")["result"]["returns"]
        summary = summarise(env, runs, baseline)
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for run in runs:
            (target / f"seed-{run['seed']}.json").write_text(json.dumps(run, indent=1) + "\n")
        (target / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
        plot_curve(summary, runs, target / "curve.png")
        pictures = sorted((folder / "seed-0" / "videos").glob("dream-*.png"))
        if pictures:
            shutil.copy(pictures[-1], target / "dream.png")
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", action="append", required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="number of parallel runs")
    parser.add_argument("--train", default="", help="further flags of `worldlab train`, in one string")
    parser.add_argument(
        "--runs", type=Path, help="keep the run folders in this folder; finished runs are not trained again"
    )
    parser.add_argument("--name", help="name of the results folder (default: the environment in lower case)")
    args = parser.parse_args()
    for env in args.env:
        summary = benchmark(env, args.name or env.lower(), args.seeds, args.jobs, args.train, args.runs)
        print(json.dumps(summary), flush=True)


if __name__ == "__main__":
    main()
