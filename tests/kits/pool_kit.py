"""An environment that counts its steps and fails on demand, and what a pool of them must return."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import time

import gymnasium
import numpy as np
from gymnasium import spaces

from worldlab.env.pool import EnvPool
from worldlab.experience.replay import records


class Counter(gymnasium.Env):
    """Observes (its episode's secret, steps taken); ends after 3 steps, by termination if the secret is even."""

    observation_space = spaces.Dict({"vector": spaces.Box(-np.inf, np.inf, (2,), np.float32)})
    action_space = spaces.Discrete(100)

    def __init__(self, fault: str = ""):
        self.fault, self.broken = fault, False

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if self.broken:
            raise RuntimeError("the level is missing")
        self.secret, self.t = int(self.np_random.integers(10**6)), 0
        return self._obs(), {}

    def step(self, action):
        if self.fault and action == 99:
            self._fail()
        self.t += 1
        done, even = self.t == 3, self.secret % 2 == 0
        return self._obs(), float(action), done and even, done and not even, {}

    def _obs(self):
        return {"vector": np.array([self.secret, self.t], np.float32)}

    def _fail(self):
        if self.fault == "raise":
            raise RuntimeError("the licence ran out")
        if self.fault == "exit":
            sys.exit(7)
        if self.fault == "interrupt":
            raise KeyboardInterrupt
        if self.fault == "base":
            raise BaseException("odd")
        if self.fault == "memory":
            raise MemoryError
        if self.fault == "reset":  # this step is the last of its episode, and the next one cannot begin
            self.t, self.broken = 2, True
            return
        if self.fault == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault == "native":
            all(itertools.repeat(True))  # never returns to Python, so that no signal handler of Python can run
        time.sleep(60)

    def close(self):
        if self.fault == "close":
            time.sleep(60)


def play(pool: EnvPool, faults: dict[int, list[int]], steps: int = 12) -> list:
    """Take steps; at step t the environments in faults[t] get the action that makes them fail."""
    log = [pool.reset()]
    for t in range(steps):
        log.append(pool.step([99 if env in faults.get(t, []) else t % 50 for env in range(pool.num_envs)]))
    return log


def stream(log: list, env: int) -> list[tuple]:
    """The records of an environment as the replay gets them: (secret, time, reward, cont, is_first)."""
    action = np.zeros((len(log[0].reward), 1), np.float32)
    rows = [record for arrivals in log for number, record in records(arrivals, action) if number == env]
    return [(*r["vector"].tolist(), float(r["reward"]), float(r["cont"]), bool(r["is_first"])) for r in rows]


def crossings(rows: list[tuple]) -> list[tuple[tuple, tuple]]:
    """Return the pairs of records in a row that belong to no episode, and new episodes that were seen before."""
    wrong, secrets = [], set[float]()
    for before, row in itertools.pairwise([rows[0], *rows]):
        begins = row[4] and row[1:4] == (0, 0, 1) and row[0] not in secrets
        follows = not row[4] and row[:2] == (before[0], before[1] + 1)
        if not (begins or follows):
            wrong.append((before, row))
        secrets.add(row[0])
    return wrong
