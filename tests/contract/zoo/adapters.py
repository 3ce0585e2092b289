"""Adapters of environments with one bug each."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces

from worldlab.env.wrappers import wrap
from worldlab.settings import EnvSettings
from zoo.registry import broken


class Reach(gymnasium.Env):
    """The correct environment: a point is pushed along a line; the reward is its height. Image and place are observed."""

    action_space = spaces.Box(-1, 1, (1,), np.float32)
    observation_space = spaces.Dict(
        {"camera": spaces.Box(0, 255, (12, 12, 3), np.uint8), "place": spaces.Box(-9, 9, (1,), np.float32)}
    )

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = float(self.np_random.uniform(-1, 1))
        self.taken = 0
        return self.obs(), {}

    def step(self, action):
        self.x = float(np.clip(self.x + 0.3 * float(action[0]), -2, 2))
        self.taken += 1
        return self.obs(), self.x, False, self.taken >= 50, {}

    def obs(self) -> dict[str, Any]:
        return {
            "camera": np.full((12, 12, 3), int(60 * (self.x + 2)), np.uint8),
            "place": np.array([self.x], np.float32),
        }


class ReachAdapter:
    """The correct adapter that the broken ones change."""

    env: ClassVar[Any] = Reach

    def names(self) -> list[str]:
        return ["reach"]

    def resolve(self, id: str) -> str | None:
        return id if id == "reach" else None

    def make(self, id: str, settings: EnvSettings) -> gymnasium.Env:
        return self.env()


@broken("V1", "gives 'reach' for 'no-such")
class ClaimsAll(ReachAdapter):
    """Resolves every id."""

    def resolve(self, id):
        return "reach"


@broken("V2", "camera")
class FloatImages(ReachAdapter):
    """Observes images as floats, which its space does not declare."""

    class Floats(Reach):
        def obs(self):
            return {**super().obs(), "camera": super().obs()["camera"] / 255}

    env = Floats


@broken("V3", "same seed and actions differ")
class Unseeded(ReachAdapter):
    """Draws its start from a generator of its own."""

    class Drawn(Reach):
        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.x = float(np.random.default_rng().uniform(-1, 1))
            return self.obs(), {}

    env = Drawn


@broken("V4", "an episode after another one differs")
class KeepsItsPlace(ReachAdapter):
    """Adds the start to the place of the last episode."""

    class Continues(Reach):
        x = 0.0

        def reset(self, *, seed=None, options=None):
            before = self.x
            super().reset(seed=seed)
            self.x += before
            return self.obs(), {}

    env = Continues


@broken("V5", "another environment is stepped beside it")
class SharedPlace(ReachAdapter):
    """Keeps the place in the class."""

    class Shared(Reach):
        places: ClassVar[list[float]] = [0.0]

        @property
        def x(self):
            return self.places[0]

        @x.setter
        def x(self, value):
            self.places[0] = value

    env = Shared


@broken("V5", "the same environment twice")
class OneForAll(ReachAdapter):
    """Returns one environment from every call of make."""

    built: ClassVar[list[Any]] = []

    def make(self, id, settings):
        if not self.built:
            self.built.append(Reach())
        return self.built[0]


class DropsSettings(ReachAdapter):
    """Wraps its environments itself, without the settings."""

    def make(self, id, settings):
        return wrap(Reach(), EnvSettings(id=id), name=id)


class IgnoresSize(ReachAdapter):
    """Declares the size, and observes the old one."""

    def make(self, id, settings):
        class Grows(gymnasium.ObservationWrapper):
            def observation(self, observation):
                return {**observation, "camera": np.zeros((12, 12, 3), np.uint8)}

        return Grows(wrap(Reach(), settings, name=id))


class RepeatsItself(ReachAdapter):
    """Repeats each action once more, on top of what the core does."""

    def make(self, id, settings):
        class Repeats(gymnasium.Wrapper):
            def step(self, action):
                for _ in range(settings.repeat):
                    answer = self.env.step(action)
                return answer

        return Repeats(Reach())


class CountsFrames(ReachAdapter):
    """Applies the time limit itself, in frames."""

    class Cut(Reach):
        limit = 1000

        def step(self, action):
            obs, reward, terminated, truncated, info = super().step(action)
            return obs, reward, terminated, truncated or self.taken >= self.limit, info

    def make(self, id, settings):
        env = self.Cut()
        env.limit = settings.time_limit or 1000
        return env


broken("V6", "env.size")(DropsSettings)
broken("V6", "'camera'")(IgnoresSize)
broken("V7", "env.repeat")(DropsSettings)
broken("V7", "earns")(RepeatsItself)
broken("V8", "env.time_limit")(DropsSettings)
broken("V8", "2 decisions")(CountsFrames)
