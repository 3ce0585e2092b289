"""Measure offline training: agents x seeds on one recorded set of mixed quality, beside the mean return of the data.

    python benchmarks/offline.py                                          # Pendulum, 3 seeds, dreamer and bc
    python benchmarks/offline.py --seeds 1 --agents dreamer --runs runs/quick --out quick.json
    python benchmarks/control.py --tasks half-cheetah --seeds 1 --agents dreamer       # its recording is of mixed quality
    python benchmarks/offline.py --data runs/control/half-cheetah/dreamer/seed-0 --steps 16000 --runs runs/offline-cheetah \
        --out benchmarks/results/offline-cheetah.json

Without --data, the set is 100 episodes of Pendulum by a swing-up controller of which a share of the actions, 0 to 1 by
episode, is random. Each cell is a run folder RUNS/AGENT/seed-N made by `worldlab train --offline`; finished cells are read,
begun ones resumed. The score of a run is the mean of 20 fresh episodes in the real environment.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from interleave import header, say, write_json
from machine import ROOT
from worldlab_data.run_folder import RunFolderFormat

from worldlab.experience.dataset import Dataset, DatasetFacts, EpisodeFacts, Steps, open_dataset
from worldlab.experience.inspect_data import inspect
from worldlab.registry import load_registry

OUT = ROOT / "benchmarks" / "results" / "offline.json"
EPISODES = 100
STEPS = 4000
"""Offline steps of a run by default: half as many updates, after those of the pretraining."""


class Mixed(Dataset):
    """Episodes of Pendulum, of random to good play."""

    def __init__(self) -> None:
        env = gymnasium.make("Pendulum-v1")
        assert isinstance(env.observation_space, spaces.Box)
        played = [self._play(env, seed, seed / (EPISODES - 1)) for seed in range(EPISODES)]
        self.all = [played[number] for number in np.random.default_rng(0).permutation(EPISODES)]
        space = spaces.Dict({"vector": env.observation_space})
        self.facts = DatasetFacts("made", space, env.action_space, "Pendulum-v1")
        self.episodes = [EpisodeFacts(str(n), len(steps.reward), False, True) for n, steps in enumerate(self.all)]

    def read(self, episode: int, start: int, stop: int) -> Steps:
        steps = self.all[episode]
        return Steps(
            {"vector": steps.obs["vector"][start : stop + 1]}, steps.action[start:stop], steps.reward[start:stop]
        )

    def _play(self, env: gymnasium.Env, seed: int, share: float) -> Steps:
        rng = np.random.default_rng(seed)
        obs, actions, rewards = [env.reset(seed=seed)[0]], [], []
        for _ in range(200):
            action = rng.uniform(-2, 2, 1) if rng.random() < share else swing_up(obs[-1])
            after, reward, *_ = env.step(action.astype(np.float32))
            obs.append(after)
            actions.append(action)
            rewards.append(float(reward))
        return Steps(
            {"vector": np.array(obs, np.float32)}, np.array(actions, np.float32), np.array(rewards, np.float32)
        )


def swing_up(obs: np.ndarray) -> np.ndarray:
    """Return the torque that adds energy until the pole is up, and balances it there."""
    cos, sin, speed = (float(value) for value in obs)
    angle = np.arctan2(sin, cos)
    energy = speed**2 / 6 + 5 * cos  # of a rod of mass 1 and length 1 at gravity 10
    torque = -10 * angle - 2 * speed if abs(angle) < 0.6 else 2 * np.sign(speed or 1.0) * np.sign(5 - energy)
    return np.clip(np.array([torque]), -2, 2)


def train(data: Path, agent: str, seed: int, folder: Path, steps: int, flags: list[str]) -> dict[str, Any]:
    """Train a run, unless it is finished. Returns its result."""
    result = folder / "result.json"
    if not result.is_file():
        command = [
            sys.executable,
            "-m",
            "worldlab",
            "train",
            "--data",
            str(data),
            "--offline",
            "--resume",
            "--run",
            str(folder),
        ]
        command += ["--agent", agent, "--encoder", "vae", "--dynamics", "vae", "--decoder", "vae", "--preset", "laptop"]
        command += ["--steps", str(steps), "--seed", str(seed), "--minutes", "none", "--eval.every", "0", *flags]
        folder.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(command, check=True)
    return json.loads(result.read_text())


def mixed_data(runs: Path) -> Path:
    """Return the recorded set of mixed Pendulum under a folder of runs; record it if it is missing."""
    data = runs / "pendulum-mixed"
    if not data.exists():
        RunFolderFormat().write(Mixed(), data)
    return data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a data set that names its environment (default: mixed Pendulum)")
    parser.add_argument("--agents", nargs="+", default=["dreamer", "bc"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=STEPS, help="offline steps of a run; half as many updates")
    parser.add_argument("--runs", type=Path, default=Path("runs/offline"))
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--flags", default="", help="more flags of worldlab train")
    args = parser.parse_args()
    data = args.data or mixed_data(args.runs)
    dataset = open_dataset(str(data), load_registry())
    returns = inspect(dataset).returns
    dataset.close()
    table = {"data": {"mean": float(np.mean(returns)), "best": max(returns), "episodes": len(returns)}, "agents": {}}
    for seed in range(args.seeds):
        for agent in args.agents:
            folder = args.runs / agent / f"seed-{seed}"
            score = train(data, agent, seed, folder, args.steps, args.flags.split())["return_mean"]
            table["agents"].setdefault(agent, []).append(score)
            write_json(args.out, {**header("offline.py"), **table})
            say(f"{agent} seed {seed}: {score:.1f}; the data: mean {table['data']['mean']:.1f}")


if __name__ == "__main__":
    main()
