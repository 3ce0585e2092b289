"""Real experience into the replay: the acting agent in the environments, one decision each at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from worldlab import tree
from worldlab.agent import LearnsFromEpisodes
from worldlab.env.pool import Arrivals, EnvPool
from worldlab.env.spaces import decode_action, encode_action
from worldlab.experience.acting import ActingAgent
from worldlab.experience.replay import Replay, records
from worldlab.interfaces import Batch
from worldlab.model.preprocess import Preprocessor
from worldlab.specs import ActionSpec


class Collector:
    """Steps the environments and appends what arrives. `finished` holds (return, length) of ended episodes to be read.

    hold: random actions are held for 1 to this many decisions.
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
        """Begin an episode in every environment."""
        self._state = None
        arrivals = self.pool.reset()
        self._append(arrivals, np.zeros((self.pool.num_envs, self.acting.model.specs.action.dim), np.float32))

    def step(self, random: np.random.Generator | None = None) -> int:
        """One decision in each environment: by the agent, exploring, or uniformly at random. Returns how many there were."""
        self.begin(random)
        return self.end()

    def begin(self, random: np.random.Generator | None = None) -> None:
        """Decide and set the environments going; workers step while the caller trains. `end` must follow."""
        idle, agent = None, self.acting.agent
        judged = isinstance(agent, LearnsFromEpisodes)
        if random is not None:
            # The agent's filter saw nothing of these steps, so its state starts afresh when it takes over.
            encoded, self._state = self._draw(random), None
        else:
            if judged and self._state is None and not self._first.all():
                self.start()  # half an episode of somebody else's is nothing to be judged by
            encoded, self._state = self.acting.choose(self._obs, self._state, self._first, explore=True)
            if judged:
                idle = agent.idle(self._state["agent"]).cpu().numpy()
        self._action = decode_action(self.pool.action_space, encoded)
        self.pool.send(self._action, idle)

    def end(self) -> int:
        """Take in what the environments answered. Returns how many were stepped."""
        arrivals = self.pool.receive()
        self._append(arrivals, np.asarray(encode_action(self.pool.action_space, self._action), np.float32))
        return int((~arrivals.skipped).sum())

    def _draw(self, random: np.random.Generator) -> np.ndarray:
        """Uniform actions, each kept for a while."""
        fresh = random_actions(self.acting.model.specs.action, self.pool.num_envs, random)
        over = (self._left <= 0) | self._first
        self._random = np.where(over[:, None], fresh, self._random)
        self._left = np.where(over, random.integers(1, self.hold + 1, self.pool.num_envs), self._left) - 1
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
    """The observations to act on next: the reset's where an episode ended."""
    if arrivals.reset_obs is None:
        return arrivals.obs
    done = arrivals.done
    return {
        key: np.where(done.reshape(-1, *[1] * (value.ndim - 1)), arrivals.reset_obs[key], value)
        for key, value in arrivals.obs.items()
    }


def random_actions(action: ActionSpec, n: int, rng: np.random.Generator) -> np.ndarray:
    """n encoded actions, uniform over the action space: float32 [n, A]."""
    if action.kind == "discrete":
        return np.eye(action.dim, dtype=np.float32)[rng.integers(action.dim, size=n)]
    return rng.uniform(-1, 1, (n, action.dim)).astype(np.float32)


def to_batch(sampled: dict[str, np.ndarray], preprocess: Preprocessor, device: torch.device) -> Batch:
    """A replay sample {key: [B, T, ...]} as the model's Batch, on a device."""
    tensors = {key: torch.from_numpy(value).to(device, non_blocking=True) for key, value in sampled.items()}
    return Batch(
        obs=preprocess({key: tensors[key] for key in preprocess.obs.keys}),
        prev_action=tensors["prev_action"],
        reward=tensors["reward"],
        cont=tensors["cont"],
        is_first=tensors["is_first"],
        mask=torch.ones_like(tensors["reward"]),
    )
