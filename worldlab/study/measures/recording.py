"""The data that models are measured on: fixed episodes of an environment with its true state, the same for every model.

Nobody trained on them: their seeds are apart from those of training and of evaluation. Actions are uniform and held for 1 to 8
decisions each, so that what has inertia gets somewhere; a reference run's agent may play every second episode instead.
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
from worldlab.study.measures.abilities import Factors, ShowsNoise, able, truth_reader
from worldlab.study.measures.kept import Arrays, digest

STREAM = 40_961
"""Begins every seed of recorded episodes: training and evaluation seed theirs by one number."""
HOLD = 8
"""Decisions for which a random action is kept, at most."""
PARTS = {"fit": (0, 2, 5, 7), "stop": (3, 8), "test": (1, 4, 6, 9)}
"""Episodes by their number modulo ten: what probes are fitted to, what decides when fitting stops, what is judged. Half of
each are odd: those that a reference run plays."""


@dataclass(frozen=True)
class Recording:
    """E episodes of up to T observations, arrival-aligned as in worldlab.interfaces.Batch; 0 after an episode's end.

    data: {"obs key": [E, T, ...] as the environment gives it, "prev_action" [E, T, A], "reward", "cont" [E, T] float32,
    "is_first" [E, T] bool}. length int64 [E]. truth, noise: float64 [E, T, K], or None where the environment does not tell;
    names of their K entries.
    """

    data: dict[str, np.ndarray]
    length: np.ndarray
    truth: np.ndarray | None = None
    truth_names: tuple[str, ...] = ()
    noise: np.ndarray | None = None
    noise_names: tuple[str, ...] = ()

    @property
    def valid(self) -> np.ndarray:
        """bool [E, T]: where there is an observation."""
        return np.arange(self.data["is_first"].shape[1]) < self.length[:, None]

    @cached_property
    def sha256(self) -> str:
        """Of everything recorded, names of factors included."""
        return digest(self.arrays())

    def arrays(self) -> Arrays:
        """Everything as arrays by name; `of_arrays` is the inverse."""
        out = {f"data/{key}": value for key, value in self.data.items()} | {"length": self.length}
        for kind, values, names in (("truth", self.truth, self.truth_names), ("noise", self.noise, self.noise_names)):
            if values is not None:
                out |= {kind: values, f"{kind}_names": np.frombuffer("\n".join(names).encode(), np.uint8)}
        return out

    @classmethod
    def of_arrays(cls, arrays: Arrays) -> Recording:
        data = {key.removeprefix("data/"): value for key, value in arrays.items() if key.startswith("data/")}
        names = {key: tuple(arrays[key].tobytes().decode().split("\n")) for key in arrays if key.endswith("_names")}
        beside = {key: arrays[key] for key in ("truth", "noise") if key in arrays}
        return cls(data, arrays["length"], **beside, **names)  # type: ignore[arg-type]

    def episodes(self, part: str) -> np.ndarray:
        """Numbers of the episodes of a part: "fit", "stop" or "test"."""
        return np.array([e for e in range(len(self.length)) if e % 10 in PARTS[part]])

    def frames(self, part: str) -> tuple[np.ndarray, np.ndarray]:
        """(episode, time) of every observation of a part, int [N] each, in order."""
        chosen = np.zeros_like(self.valid)
        chosen[self.episodes(part)] = True
        episode, time = np.nonzero(self.valid & chosen)
        return episode, time


Play = Callable[[dict[str, np.ndarray], bool], np.ndarray]
"""What chooses: (observation, whether it is the first) -> encoded action [A]."""


def record(
    make: Callable[[], gymnasium.Env],
    adapter: Any,
    *,
    episodes: int,
    length: int,
    seed: int,
    guest: Callable[[int], ActingAgent] | None = None,
) -> Recording:
    """Play episodes in one environment. guest: makes the agent, exploring, of every second episode from its seed."""
    env = make()
    try:
        played = []
        for number in range(episodes):
            rng = np.random.default_rng([STREAM, seed, number])
            invited = guest is not None and number % 2 == 1
            play = _agent(guest(int(rng.integers(2**31)))) if guest and invited else _held(env, rng)
            played.append(_stack(_episode(env, adapter, play, int(rng.integers(2**31)), length)))
    finally:
        env.close()
    return _with_factors(played, length)


def _held(env: gymnasium.Env, rng: np.random.Generator) -> Play:
    spec = action_spec(env.action_space)
    left, action = 0, np.zeros(spec.dim, np.float32)

    def play(obs: dict[str, np.ndarray], first: bool) -> np.ndarray:
        nonlocal left, action
        if left == 0:
            left, action = int(rng.integers(1, HOLD + 1)), random_actions(spec, 1, rng)[0]
        left -= 1
        return action

    return play


def _agent(acting: ActingAgent) -> Play:
    state: Any = None

    def play(obs: dict[str, np.ndarray], first: bool) -> np.ndarray:
        nonlocal state
        batch = {key: value[None] for key, value in obs.items()}
        encoded, state = acting.choose(batch, state, np.array([first]), explore=True)
        return encoded[0]

    return play


def _episode(env: gymnasium.Env, adapter: Any, play: Play, seed: int, length: int) -> Iterator[dict[str, Any]]:
    """What a model would see of one episode, step by step, and the factors beside it."""
    obs, _ = env.reset(seed=seed)
    truth, noise = truth_reader(adapter, env), able(env, ShowsNoise)
    space = env.action_space
    action, reward, cont, over = np.zeros(action_spec(space).dim, np.float32), 0.0, 1.0, False
    for time in range(length):
        step = {"prev_action": action, "reward": np.float32(reward), "cont": np.float32(cont)}
        factors = {"truth": truth() if truth else None, "noise": noise.noise_factors() if noise else None}
        yield {**obs, **step, "is_first": np.bool_(time == 0), "factors": factors}
        if over or time == length - 1:
            return
        native = decode_action(space, play(obs, time == 0))
        action = np.asarray(encode_action(space, native), np.float32)
        obs, paid, terminated, truncated, _ = env.step(native)
        reward, cont, over = float(paid), float(not terminated), bool(terminated or truncated)


def _stack(steps: Iterator[dict[str, Any]]) -> tuple[dict[str, np.ndarray], dict[str, tuple[Any, tuple[str, ...]]]]:
    """The steps of an episode as arrays [t, ...], and its factors (float64 [t, K], names)."""
    every = list(steps)
    factors = [step.pop("factors") for step in every]
    arrays = {key: np.stack([step[key] for step in every]) for key in every[0]}
    return arrays, {kind: _flat([one[kind] for one in factors]) for kind in ("truth", "noise")}


def _flat(factors: list[Factors | None]) -> tuple[np.ndarray | None, tuple[str, ...]]:
    rows, names = [], ()
    for one in factors:
        if one is None:
            return None, ()
        sizes = {name: np.size(value) for name, value in one.items()}
        names = tuple(f"{name}[{i}]" if size > 1 else name for name, size in sizes.items() for i in range(size))
        rows.append(np.concatenate([np.asarray(value, np.float64).ravel() for value in one.values()]))
    return np.stack(rows), names


def padded(episodes: list[dict[str, np.ndarray]], length: int) -> Recording:
    """Episodes [t, ...], t up to `length`, as one recording that knows nothing of the true state."""

    def pad(array: np.ndarray) -> np.ndarray:
        return np.concatenate([array, np.zeros((length - len(array), *array.shape[1:]), array.dtype)])

    data = {key: np.stack([pad(arrays[key]) for arrays in episodes]) for key in episodes[0]}
    return Recording(data, np.array([len(arrays["reward"]) for arrays in episodes]))


def _with_factors(played: list[tuple[dict[str, np.ndarray], dict[str, Any]]], length: int) -> Recording:
    plain = padded([arrays for arrays, _ in played], length)
    beside: dict[str, Any] = {}
    for kind, (first, names) in played[0][1].items():
        if first is not None:
            episodes = [{kind: factors[kind][0], "reward": arrays["reward"]} for arrays, factors in played]
            beside |= {kind: padded(episodes, length).data[kind], f"{kind}_names": names}
    return replace(plain, **beside)
