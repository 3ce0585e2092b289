"""Collects real experience: the agent acts in the environments, and the replay stores every step."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from worldlab import tree
from worldlab.agent import LearnsFromEpisodes
from worldlab.env.arrivals import Arrivals
from worldlab.env.pool import EnvPool
from worldlab.env.spaces import decode_action, encode_action
from worldlab.experience.acting import ActingAgent
from worldlab.experience.replay import Replay, records
from worldlab.interfaces import Batch
from worldlab.model.preprocess import Preprocessor
from worldlab.specs import ActionSpec


class Collector:
    """Steps the environments and appends every step to the replay.

    hold: a random action is repeated for 1 to `hold` decisions. finished: (return, length) of ended episodes; the
    caller reads and clears it.
    """

    def __init__(self, pool: EnvPool, replay: Replay, acting: ActingAgent, hold: int = 1):
        self.pool = pool
        self.hold = hold
        self.replay = replay
        self.acting = acting
        self.finished: list[tuple[float, int]] = []
        self._state: Any = None
        self._action: Any = None
        self._obs: dict[str, np.ndarray] = {}
        self._first = np.ones(pool.num_envs, bool)
        self._random = np.zeros((pool.num_envs, acting.model.specs.action.dim), np.float32)
        self._left = np.zeros(pool.num_envs, int)

    def start(self) -> None:
        """Start a new episode in every environment."""
        self._state = None
        arrivals = self.pool.reset()
        self._append(arrivals, np.zeros((self.pool.num_envs, self.acting.model.specs.action.dim), np.float32))

    def step(self, random: np.random.Generator | None = None) -> int:
        """Take a decision in each environment, exploring or uniformly at random. Returns how many were taken."""
        self.begin(random)
        return self.end()

    def begin(self, random: np.random.Generator | None = None) -> None:
        """Choose actions and start the step; workers compute while the caller trains. `end` must follow."""
        idle, agent = None, self.acting.agent
        learns_from_episodes = isinstance(agent, LearnsFromEpisodes)
        if random is not None:
            # The agent's filter skips random steps, so its state starts anew when the agent takes over.
            encoded, self._state = self._draw(random), None
        else:
            if learns_from_episodes and self._state is None and not self._first.all():
                self.start()  # a return must not include steps that the agent did not choose
            encoded, self._state = self.acting.choose(self._obs, self._state, self._first, explore=True)
            if learns_from_episodes:
                idle = agent.idle(self._state["agent"]).cpu().numpy()
        self._action = decode_action(self.pool.action_space, encoded)
        self.pool.send(self._action, idle)

    def end(self) -> int:
        """Wait for the environments and store their steps. Returns how many environments were stepped."""
        arrivals = self.pool.receive()
        self._append(arrivals, np.asarray(encode_action(self.pool.action_space, self._action), np.float32))
        return arrivals.taken

    def _draw(self, random: np.random.Generator) -> np.ndarray:
        """Draw uniform actions, each repeated for 1 to `hold` decisions."""
        fresh = random_actions(self.acting.model.specs.action, self.pool.num_envs, random)
        expired = (self._left <= 0) | self._first
        self._random = np.where(expired[:, None], fresh, self._random)
        self._left = np.where(expired, random.integers(1, self.hold + 1, self.pool.num_envs), self._left) - 1
        return self._random

    def _append(self, arrivals: Arrivals, action: np.ndarray) -> None:
        for env, record in records(arrivals, action):
            self.replay.append(env, record)
        self.finished.extend((ret, length) for _, ret, length in arrivals.finished)
        agent = self.acting.agent
        if isinstance(agent, LearnsFromEpisodes) and self._state is not None:
            for env, ret, _ in arrivals.finished:
                agent.after_episode(tree.select(self._state["agent"], env), ret)
        self._first = np.where(arrivals.skipped, self._first, arrivals.is_first | arrivals.done)
        self._obs = next_obs(arrivals)


def next_obs(arrivals: Arrivals) -> dict[str, np.ndarray]:
    """Return the observations to act on next: where an episode ended, the first of the next episode."""
    if arrivals.reset_obs is None:
        return arrivals.obs
    done = arrivals.done
    return {
        key: np.where(done.reshape(-1, *[1] * (value.ndim - 1)), arrivals.reset_obs[key], value)
        for key, value in arrivals.obs.items()
    }


def random_actions(action: ActionSpec, n: int, rng: np.random.Generator) -> np.ndarray:
    """Draw n encoded actions, uniform over the action space: float32 [n, A]."""
    if action.kind == "discrete":
        return np.eye(action.dim, dtype=np.float32)[rng.integers(action.dim, size=n)]
    return rng.uniform(-1, 1, (n, action.dim)).astype(np.float32)


def to_batch(sampled: dict[str, np.ndarray], preprocess: Preprocessor, device: torch.device) -> Batch:
    """Convert a replay sample {key: [B, T, ...]} to a Batch for the model, on a device."""
    tensors = {key: torch.from_numpy(value).to(device, non_blocking=True) for key, value in sampled.items()}
    return Batch(
        obs=preprocess({key: tensors[key] for key in preprocess.obs.keys}),
        prev_action=tensors["prev_action"],
        reward=tensors["reward"],
        cont=tensors["cont"],
        is_first=tensors["is_first"],
        mask=torch.ones_like(tensors["reward"]),
    )
