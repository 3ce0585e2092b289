"""Records the episodes on which models are measured: fixed episodes with the true state, the same for every model.

No model was trained on them: their seeds differ from those of training and of evaluation. Actions are uniform and each
is repeated for 1 to 8 decisions, so that systems with inertia move. A reference run's agent may play every second
episode instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import gymnasium
import numpy as np

from worldlab.env.spaces import action_spec, decode_action, encode_action
from worldlab.experience.acting import ActingAgent
from worldlab.experience.collect import random_actions
from worldlab.study.measures.cache import Arrays, digest
from worldlab.study.measures.ground_truth import Factors, HasNoiseFactors, find_layer, find_truth_reader

STREAM = 40_961
"""First entry of the recorded episodes' seeds; training and evaluation use single numbers, so no seeds coincide."""
MAX_HOLD = 8
"""Maximum number of decisions for which a random action is repeated."""
SPLITS = {"fit": (0, 2, 5, 7), "validation": (3, 8), "test": (1, 4, 6, 9)}
"""Episode numbers modulo ten that fit probes, that select them (early stopping), and that are the test set. Half of
each split is odd: odd episodes are those that a reference run plays."""


@dataclass(frozen=True)
class Recording:
    """E episodes of up to T observations, aligned on arrival as in worldlab.interfaces.Batch; 0 after an episode's end.

    data: {"obs key": [E, T, ...] as the environment emits it, "prev_action" [E, T, A], "reward", "cont" [E, T] float32,
    "is_first" [E, T] bool}. length: int64 [E]. truth, noise: float64 [E, T, K], or None where the environment does not
    expose them; truth_names, noise_names: names of their K entries.
    """

    data: dict[str, np.ndarray]
    length: np.ndarray
    truth: np.ndarray | None = None
    truth_names: tuple[str, ...] = ()
    noise: np.ndarray | None = None
    noise_names: tuple[str, ...] = ()

    @property
    def valid(self) -> np.ndarray:
        """Mask of existing observations, bool [E, T]."""
        return np.arange(self.data["is_first"].shape[1]) < self.length[:, None]

    @cached_property
    def sha256(self) -> str:
        """The digest of the whole recording, including the names of factors."""
        return digest(self.arrays())

    def arrays(self) -> Arrays:
        """Return the recording as arrays by name; `from_arrays` is the inverse."""
        out = {f"data/{key}": value for key, value in self.data.items()} | {"length": self.length}
        for kind, values, names in (("truth", self.truth, self.truth_names), ("noise", self.noise, self.noise_names)):
            if values is not None:
                out |= {kind: values, f"{kind}_names": np.frombuffer("\n".join(names).encode(), np.uint8)}
        return out

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Recording:
        """Return the recording that `arrays` has written."""
        data = {key.removeprefix("data/"): value for key, value in arrays.items() if key.startswith("data/")}
        names = {key: tuple(arrays[key].tobytes().decode().split("\n")) for key in arrays if key.endswith("_names")}
        factors = {key: arrays[key] for key in ("truth", "noise") if key in arrays}
        return cls(data, arrays["length"], **factors, **names)  # type: ignore[arg-type]

    def episodes(self, split: str) -> np.ndarray:
        """Return the numbers of the episodes in a split: "fit", "validation" or "test"."""
        return np.array([e for e in range(len(self.length)) if e % 10 in SPLITS[split]])

    def frames(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Return (episode, time) of every observation in a split, int [N] each, in order."""
        chosen = np.zeros_like(self.valid)
        chosen[self.episodes(split)] = True
        episode, time = np.nonzero(self.valid & chosen)
        return episode, time


ChooseAction = Callable[[dict[str, np.ndarray], bool], np.ndarray]
"""Chooses an encoded action [A] given (observation, whether it is the first of the episode)."""


def record(
    make_env: Callable[[], gymnasium.Env],
    adapter: Any,
    *,
    episodes: int,
    length: int,
    seed: int,
    make_reference_agent: Callable[[int], ActingAgent] | None = None,
) -> Recording:
    """Play and record episodes in one environment.

    make_reference_agent: makes the exploring agent that plays every second episode, given a seed for its random stream.
    """
    env = make_env()
    try:
        played = []
        for number in range(episodes):
            rng = np.random.default_rng([STREAM, seed, number])
            if make_reference_agent is not None and number % 2 == 1:
                choose = _play_agent(make_reference_agent(int(rng.integers(2**31))))
            else:
                choose = _play_randomly(env, rng)
            played.append(_stack(_play_episode(env, adapter, choose, int(rng.integers(2**31)), length)))
    finally:
        env.close()
    return _join(played, length)


def _play_randomly(env: gymnasium.Env, rng: np.random.Generator) -> ChooseAction:
    spec = action_spec(env.action_space)
    left, action = 0, np.zeros(spec.dim, np.float32)

    def choose(obs: dict[str, np.ndarray], first: bool) -> np.ndarray:
        nonlocal left, action
        if left == 0:
            left, action = int(rng.integers(1, MAX_HOLD + 1)), random_actions(spec, 1, rng)[0]
        left -= 1
        return action

    return choose


def _play_agent(acting: ActingAgent) -> ChooseAction:
    state: Any = None

    def choose(obs: dict[str, np.ndarray], first: bool) -> np.ndarray:
        nonlocal state
        batch = {key: value[None] for key, value in obs.items()}
        encoded, state = acting.choose(batch, state, np.array([first]), explore=True)
        return encoded[0]

    return choose


def _play_episode(
    env: gymnasium.Env, adapter: Any, choose: ChooseAction, seed: int, length: int
) -> Iterator[dict[str, Any]]:
    """Play an episode and yield each step as a model receives it, with the factors of the environment."""
    obs, _ = env.reset(seed=seed)
    truth, noise = find_truth_reader(adapter, env), find_layer(env, HasNoiseFactors)
    space = env.action_space
    action, reward, cont, over = np.zeros(action_spec(space).dim, np.float32), 0.0, 1.0, False
    for time in range(length):
        step = {"prev_action": action, "reward": np.float32(reward), "cont": np.float32(cont)}
        factors = {"truth": truth() if truth else None, "noise": noise.noise_factors() if noise else None}
        yield {**obs, **step, "is_first": np.bool_(time == 0), "factors": factors}
        if over or time == length - 1:
            return
        native = decode_action(space, choose(obs, time == 0))
        action = np.asarray(encode_action(space, native), np.float32)
        obs, paid, terminated, truncated, _ = env.step(native)
        reward, cont, over = float(paid), float(not terminated), bool(terminated or truncated)


def _stack(steps: Iterator[dict[str, Any]]) -> tuple[dict[str, np.ndarray], dict[str, tuple[Any, tuple[str, ...]]]]:
    """Stack the steps of an episode into arrays [t, ...], and its factors into (float64 [t, K], names)."""
    every = list(steps)
    factors = [step.pop("factors") for step in every]
    arrays = {key: np.stack([step[key] for step in every]) for key in every[0]}
    return arrays, {kind: _flatten([step[kind] for step in factors]) for kind in ("truth", "noise")}


def _flatten(steps: list[Factors | None]) -> tuple[np.ndarray | None, tuple[str, ...]]:
    rows, names = [], ()
    for factors in steps:
        if factors is None:
            return None, ()
        sizes = {name: np.size(value) for name, value in factors.items()}
        names = tuple(f"{name}[{i}]" if size > 1 else name for name, size in sizes.items() for i in range(size))
        rows.append(np.concatenate([np.asarray(value, np.float64).ravel() for value in factors.values()]))
    return np.stack(rows), names


def pad_episodes(episodes: list[dict[str, np.ndarray]], length: int) -> Recording:
    """Pad episodes [t, ...], t up to `length`, with zeros and join them into a recording without a true state."""

    def pad(array: np.ndarray) -> np.ndarray:
        return np.concatenate([array, np.zeros((length - len(array), *array.shape[1:]), array.dtype)])

    data = {key: np.stack([pad(arrays[key]) for arrays in episodes]) for key in episodes[0]}
    return Recording(data, np.array([len(arrays["reward"]) for arrays in episodes]))


def _join(played: list[tuple[dict[str, np.ndarray], dict[str, Any]]], length: int) -> Recording:
    recording = pad_episodes([arrays for arrays, _ in played], length)
    extra: dict[str, Any] = {}
    for kind, (first, names) in played[0][1].items():
        if first is not None:
            episodes = [{kind: factors[kind][0], "reward": arrays["reward"]} for arrays, factors in played]
            extra |= {kind: pad_episodes(episodes, length).data[kind], f"{kind}_names": names}
    return replace(recording, **extra)
