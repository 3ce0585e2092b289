"""An adapter of environments as the subject of a check."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np

from worldlab.config.resolve import NoOptions
from worldlab.env.find import EnvAdapter, make_env
from worldlab.errors import WorldlabError
from worldlab.settings import EnvSettings
from worldlab.testing.bench import Choice, log
from worldlab.testing.checks import CannotRun, CheckFailure

STEPS = 20
"""Decisions of a rollout."""


@dataclass(frozen=True)
class Arrival:
    """What one decision led to; the first arrival of a rollout is that of the reset."""

    obs: dict[str, np.ndarray]
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False


@dataclass(frozen=True)
class EnvSubject:
    """An adapter and the environment of it that the checks build.

    name: what a user would type; "" is the first of the adapter's names().
    """

    label: str
    adapter: EnvAdapter
    name: str = ""
    registration: Any = None
    role: str = field(default="env", init=False)

    @property
    def choice(self) -> Choice:
        """The class of the adapter; it has no settings."""
        return Choice(type(self.adapter), NoOptions())

    def resolve(self, name: str) -> str | None:
        """Return the full id of a name. Raises: CannotRun if the adapter says why it cannot build it."""
        try:
            return self.adapter.resolve(name)
        except WorldlabError as exc:
            raise CannotRun(exc.message, exc.fix or "") from exc

    @property
    def id(self) -> str:
        """The full id of the environment. Raises: CheckFailure if the adapter does not know its own name for it."""
        names = self.adapter.names()
        if not names:
            raise CheckFailure("names() is empty", "return the ids that the adapter offers")
        name = self.name or names[0]
        full = self.resolve(name)
        if full is None:
            raise CheckFailure(f"resolve does not know {name!r}, which names() offers", "resolve every name")
        return full

    def make(self, **settings: Any) -> gymnasium.Env:
        """Build the environment as a run does. settings: of EnvSettings. Raises: CheckFailure."""
        id = self.id
        log.debug("makes %s with %s", id, settings or "default settings")
        try:
            return make_env(self.adapter, id, EnvSettings(id=id, **settings))
        except WorldlabError as exc:
            raise CheckFailure(f"{exc.message} ({exc.cause})" if exc.cause else exc.message, exc.fix or "") from exc

    def rollout(self, env: gymnasium.Env, actions: Sequence[Any], seed: int = 0) -> list[Arrival]:
        """Reset with a seed and take the actions; return the arrivals. It stops where the episode ends."""
        arrivals = [Arrival(env.reset(seed=seed)[0])]
        for action in actions:
            obs, reward, terminated, truncated, _ = env.step(action)
            arrivals.append(Arrival(obs, float(reward), bool(terminated), bool(truncated)))
            if terminated or truncated:
                break
        return arrivals


def random_actions(env: gymnasium.Env, count: int = STEPS, seed: int = 0) -> list[Any]:
    """Return random actions of an environment, the same for equal seeds."""
    env.action_space.seed(seed)
    return [env.action_space.sample() for _ in range(count)]


def first_difference(one: Sequence[Arrival], other: Sequence[Arrival]) -> int | None:
    """Return the first step at which two rollouts differ; None if they are equal."""
    for step, (a, b) in enumerate(zip(one, other)):
        same_obs = a.obs.keys() == b.obs.keys() and all(np.array_equal(a.obs[key], b.obs[key]) for key in a.obs)
        if not same_obs or (a.reward, a.terminated, a.truncated) != (b.reward, b.terminated, b.truncated):
            return step
    return None if len(one) == len(other) else min(len(one), len(other))
