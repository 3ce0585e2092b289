"""Serve steps of environments: "steps" takes some decisions in each of N environments at once.

Runners:
    gymnasium     one environment of Gymnasium
    async         N environments of Gymnasium in its AsyncVectorEnv, one process each
    worldlab      N environments in worldlab's EnvPool, with so many worker processes

CarRacing repeats each action for 4 frames and observes 64 x 64 pixels. Gymnasium draws every frame, and PIL resizes it.

PYTHONPATH=.:plugins:agents:envs python benchmarks/workers/env_steps.py CarRacing worldlab --envs 8 --workers 2
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from importlib.metadata import version
from typing import Any

import gymnasium
import numpy as np
from PIL import Image
from serve import serve

IDS = {"CarRacing": "CarRacing-v3", "HalfCheetah": "HalfCheetah-v5"}
REPEAT = {"CarRacing": 4, "HalfCheetah": 1}
SIZE = {"CarRacing": 64, "HalfCheetah": None}
Step = Callable[[np.ndarray], object]


class Frames(gymnasium.Wrapper):
    """Repeats each action and resizes the last frame, in the plainest way."""

    def __init__(self, env: gymnasium.Env, repeat: int, size: int):
        super().__init__(env)
        self.repeat, self.size = repeat, size
        self.observation_space = gymnasium.spaces.Box(0, 255, (size, size, 3), np.uint8)

    def reset(self, **options: Any) -> Any:
        obs, info = self.env.reset(**options)
        return self._resized(obs), info

    def step(self, action: Any) -> Any:
        total, terminated, truncated, info = 0.0, False, False, {}
        for _ in range(self.repeat):
            obs, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            if terminated or truncated:
                break
        return self._resized(obs), total, terminated, truncated, info

    def _resized(self, obs: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(obs).resize((self.size, self.size), Image.Resampling.BOX))


def make(name: str) -> gymnasium.Env:
    """Build one environment of Gymnasium."""
    env, size = gymnasium.make(IDS[name]), SIZE[name]
    return Frames(env, REPEAT[name], size) if size else env


def plain(name: str, opened: ExitStack) -> Step:
    env = make(name)
    opened.callback(env.close)
    env.reset(seed=0)

    def step(actions: np.ndarray) -> None:
        _, _, terminated, truncated, _ = env.step(actions[0])
        if terminated or truncated:
            env.reset()

    return step


def asynchronous(name: str, envs: int, opened: ExitStack) -> Step:
    vector = gymnasium.vector.AsyncVectorEnv([partial(make, name)] * envs)
    opened.callback(vector.close)
    vector.reset(seed=0)
    return vector.step


def pooled(name: str, envs: int, workers: int, opened: ExitStack) -> Step:
    from worldlab.env.find import open_adapter
    from worldlab.env.pool import EnvPool
    from worldlab.registry import load_registry
    from worldlab.settings import EnvSettings

    adapter, env_id = open_adapter(load_registry(), name)
    settings = EnvSettings(id=env_id, repeat=REPEAT[name], size=SIZE[name])
    pool = EnvPool(partial(adapter.make, env_id, settings), envs, workers, 0)
    opened.callback(pool.close)
    pool.reset()
    return pool.step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("env", choices=list(IDS))
    parser.add_argument("runner", choices=["gymnasium", "async", "worldlab"])
    parser.add_argument("--envs", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--decisions", type=int, default=10, help="decisions of each environment in one call")
    args = parser.parse_args()
    with ExitStack() as opened:  # worker processes of environments must end with this one
        if args.runner == "gymnasium":
            step = plain(args.env, opened)
        elif args.runner == "async":
            step = asynchronous(args.env, args.envs, opened)
        else:
            step = pooled(args.env, args.envs, args.workers, opened)
        serve_steps(args, step)


def serve_steps(args: argparse.Namespace, step: Step) -> None:
    """Answer requests for steps with random actions."""
    space = gymnasium.make(IDS[args.env]).action_space
    space.seed(0)
    actions = np.stack([space.sample() for _ in range(1000 * args.envs)]).reshape(1000, args.envs, -1)
    taken = 0

    def steps() -> None:
        nonlocal taken
        for _ in range(args.decisions):
            step(actions[taken % len(actions)])
            taken += 1

    serve({"steps": steps}, {"gymnasium": version("gymnasium")})


if __name__ == "__main__":
    main()
