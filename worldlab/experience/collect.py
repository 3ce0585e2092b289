"""Collects real experience: the agent acts in the environments, and the replay stores every step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from worldlab import tree
from worldlab.agent import LearnsFromEpisodes
from worldlab.env.arrivals import Arrivals
from worldlab.env.pool import EnvPool, Episode
from worldlab.env.spaces import decode_action, encode_action
from worldlab.errors import EnvError
from worldlab.experience.acting import ActingAgent
from worldlab.experience.replay import Replay, records
from worldlab.interfaces import Batch
from worldlab.model.preprocess import Preprocessor
from worldlab.specs import ActionSpec

EVERY, FIRST, HOLD = 10, 5, 40
"""One in `EVERY` episodes of each environment, from number `FIRST` on, is played by random actions, each held for 1 to `HOLD`
decisions.

A policy explores around what it does. Where no reward is near, that finds nothing: MountainCarContinuous pays for standing
still, and actions of one decision never get a car up the hill, while such an episode does in six of seven cases
(docs/log.md). The long holds are not for the prefill: they throw HalfCheetah on its back, and that is then all that the
model has seen. Dabney et al. 2020 (temporally extended exploration), arXiv:2006.01782.
"""


class Unrepeatable(Exception):
    """An episode in progress cannot be continued. The message is the reason."""


class Collector:
    """Steps the environments and appends every step to the replay.

    hold: a random action of the prefill is repeated for 1 to `hold` decisions. finished: (return, length) of ended episodes; the
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
        self._stepping = False

    def start(self) -> None:
        """Start a new episode in every environment, unless `restore` has continued those of a checkpoint."""
        if not self._obs:
            self._start_episodes()

    def _start_episodes(self) -> None:
        self._state = None
        arrivals = self.pool.reset()
        self._append(arrivals, np.zeros((self.pool.num_envs, self.acting.model.specs.action.dim), np.float32))

    def step(self, random: np.random.Generator | None = None, *, prefill: bool = True) -> int:
        """Take a decision in each environment, see `begin`. Returns how many were taken."""
        self.begin(random, prefill=prefill)
        return self.end()

    def begin(self, random: np.random.Generator | None = None, *, prefill: bool = True) -> None:
        """Choose actions and start the step; workers compute while the caller trains. `end` must follow.

        random: draws the actions of the prefill, and later those of random episodes (`EVERY`); without it the agent chooses
        all of them.
        """
        idle, agent = None, self.acting.agent
        learns_from_episodes = isinstance(agent, LearnsFromEpisodes)
        if random is not None and prefill:
            # The agent's filter skips random steps, so its state starts anew when the agent takes over.
            encoded, self._state = self._draw(random, self.hold), None
        else:
            if learns_from_episodes and self._state is None and not self._first.all():
                self._start_episodes()  # a return must not include steps that the agent did not choose
            encoded, self._state = self.acting.choose(self._obs, self._state, self._first, explore=True)
            if learns_from_episodes:
                idle = agent.idle(self._state["agent"]).cpu().numpy()
            elif random is not None:
                encoded = self._explore(encoded, random)
        self._action = decode_action(self.pool.action_space, encoded)
        self._stepping = True
        self.pool.send(self._action, idle)

    def _explore(self, encoded: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Return the actions [N, A], replaced by held random ones in the environments that play a random episode."""
        playing = np.array([episode.number % EVERY == FIRST for episode in self.pool.episodes])
        if not playing.any():
            return encoded
        encoded = np.where(playing[:, None], self._draw(random, HOLD), encoded).astype(np.float32)
        self._state = {**self._state, "action": torch.as_tensor(encoded, device=self._state["action"].device)}
        return encoded

    def end(self) -> int:
        """Wait for the environments and store their steps. Returns how many environments were stepped."""
        arrivals = self.pool.receive()
        self._append(arrivals, np.asarray(encode_action(self.pool.action_space, self._action), np.float32))
        self._stepping = False
        return arrivals.taken

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Return what `restore` needs: tensors, and JSON data.

        It holds the actions of each episode in progress, because an environment has no state that can be saved. In the
        middle of a step, when an environment has failed, it holds nothing.
        """
        if self._stepping:
            return {}, {}
        arrays = {f"obs.{key}": value for key, value in self._obs.items()}
        arrays |= {"first": self._first, "random": self._random, "left": self._left}
        for env, episode in enumerate(self.pool.episodes):
            arrays[f"actions.{env}"] = np.stack(episode.actions) if episode.actions else np.zeros(0)
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        tensors |= {f"state.{name}": leaf for name, leaf in tree.named_leaves(self._state).items()}
        numbers = [[episode.round, episode.number] for episode in self.pool.episodes]
        return tensors, {"seed": self.pool.seed, "episodes": numbers, "acting": self._state is not None}

    def restore(self, tensors: Mapping[str, torch.Tensor], saved: Mapping[str, Any]) -> None:
        """Continue exactly where `state` was called, with a pool of the same seed: play its episodes again.

        Raises: Unrepeatable if an environment does not repeat an episode; the pool is then of no further use.
        """
        if not saved:
            raise Unrepeatable("the checkpoint was saved when an environment had failed")
        try:
            self._restore(tensors, saved)
        except (KeyError, TypeError, ValueError) as error:
            raise Unrepeatable(f"the saved state of collection does not fit this configuration: {error}") from error

    def _restore(self, tensors: Mapping[str, torch.Tensor], saved: Mapping[str, Any]) -> None:
        taken = [list(tensors[f"actions.{env}"].numpy()) for env in range(self.pool.num_envs)]
        numbers = zip(saved["episodes"], taken, strict=True)
        episodes = [Episode(round, number, actions) for (round, number), actions in numbers]
        self._play_again(episodes)
        arrays = {name: tensor.numpy().copy() for name, tensor in tensors.items() if not name.startswith("state")}
        self._obs = {name.removeprefix("obs."): value for name, value in arrays.items() if name.startswith("obs.")}
        self._first, self._random, self._left = arrays["first"], arrays["random"], arrays["left"]
        if saved["acting"]:
            named = {name.removeprefix("state."): leaf for name, leaf in tensors.items() if name.startswith("state.")}
            self._state = tree.with_leaves(self.acting.initial(self.pool.num_envs), named)

    def _play_again(self, episodes: list[Episode]) -> None:
        """Play episodes again and compare every arrival with its record in the replay, as far as it is still kept."""
        lengths = [len(episode.actions) for episode in episodes]
        stored = [self.replay.newest(env, length + 1) for env, length in enumerate(lengths)]
        nothing = np.zeros_like(self._random)
        try:
            for step, arrivals in enumerate(self.pool.play_again(episodes)):
                for env, record in records(arrivals, nothing):
                    at = step - lengths[env] - 1  # counted from the end of the stream
                    if arrivals.done[env] or not _same(record, stored[env], at):
                        raise Unrepeatable(f"environment {env} did not repeat its episode (step {step})")
        except EnvError as error:
            raise Unrepeatable(f"an environment did not repeat its episode: {error.message}") from error

    def _draw(self, random: np.random.Generator, hold: int) -> np.ndarray:
        """Draw uniform actions, each repeated for 1 to `hold` decisions."""
        fresh = random_actions(self.acting.model.specs.action, self.pool.num_envs, random)
        expired = (self._left <= 0) | self._first
        self._random = np.where(expired[:, None], fresh, self._random)
        self._left = np.where(expired, random.integers(1, hold + 1, self.pool.num_envs), self._left) - 1
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


def _same(record: dict[str, Any], stored: dict[str, np.ndarray], at: int) -> bool:
    """Return whether a record equals the stored one at `at`, except for the action, or is no longer stored."""
    if len(stored["reward"]) < -at:
        return True
    return all(
        np.array_equal(np.asarray(record[key]).astype(values.dtype), values[at], equal_nan=values.dtype.kind == "f")
        for key, values in stored.items()
        if key != "prev_action"
    )


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


def to_batch(sampled: Mapping[str, np.ndarray | torch.Tensor], preprocess: Preprocessor, device: torch.device) -> Batch:
    """Convert a replay sample {key: [B, T, ...]} to a Batch for the model, on a device."""
    tensors = {key: torch.as_tensor(value).to(device, non_blocking=True) for key, value in sampled.items()}
    return Batch(
        obs=preprocess({key: tensors[key] for key in preprocess.obs.keys}),
        prev_action=tensors["prev_action"],
        reward=tensors["reward"],
        cont=tensors["cont"],
        is_first=tensors["is_first"],
        mask=torch.ones_like(tensors["reward"]),
    )
