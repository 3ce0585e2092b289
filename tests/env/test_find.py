"""Tests of the choice of an adapter by id, and of the report on an environment."""

from __future__ import annotations

from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from worldlab.env.find import EnvAdapter, env_names, inspect_env, open_adapter
from worldlab.errors import EnvError, PluginError


class Adapter:
    def __init__(self, known: dict[str, str]):
        self.known = known

    def names(self):
        return list(self.known.values())

    def resolve(self, id):
        return self.known.get(id)

    def make(self, id, settings):
        raise NotImplementedError


class FakeRegistry:
    def __init__(self, **targets):
        self.targets = targets

    def names(self, role):
        assert role == "env"
        return sorted(self.targets)

    def get(self, role, name):
        def load():
            if self.targets[name] is None:
                raise PluginError(f"plugin {name} is broken")
            return self.targets[name]

        return SimpleNamespace(load=load)


def test_a_registered_name_wins_over_the_others():
    wins = Adapter({"x": "mine/X-v0"})
    registry = FakeRegistry(a=Adapter({"x": "A"}), x=wins)
    assert isinstance(wins, EnvAdapter)
    assert open_adapter(registry, "x") == (wins, "mine/X-v0")


def test_other_adapters_are_tried_in_order_and_classes_are_instantiated():
    class Built(Adapter):
        def __init__(self):
            super().__init__({"CarRacing": "CarRacing-v3"})

    adapter, full = open_adapter(FakeRegistry(a=Adapter({}), b=Built, c=None), "CarRacing")
    assert type(adapter) is Built and full == "CarRacing-v3"


def test_an_unknown_id_gets_the_closest_name():
    registry = FakeRegistry(gymnasium=Adapter({"Hopper": "Hopper-v5"}), broken=None)
    for typed in ("Hoper-v5", "Hoppr"):
        with pytest.raises(EnvError, match="Did you mean 'Hopper") as error:
            open_adapter(registry, typed)
        assert error.value.exit_code == 4 and "plugin broken is broken" in (error.value.cause or "")


def test_a_broken_adapter_is_fatal_only_when_named():
    registry = FakeRegistry(broken=None, odd=SimpleNamespace(), good=Adapter({"x": "X"}))
    assert open_adapter(FakeRegistry(broken=None, good=Adapter({"x": "X"})), "x")[1] == "X"
    for name in ("broken", "odd"):
        with pytest.raises(PluginError):
            open_adapter(registry, name)
    assert env_names(registry) == {"good": ["X"]}


class Walk(gymnasium.Env):
    """Counts steps; may ignore its seed."""

    observation_space = spaces.Dict({"vector": spaces.Box(-1, 1, (1,), np.float32)})
    action_space = spaces.Discrete(2)

    def __init__(self, seeded=True, bound=1.0):
        self.seeded, self.bound = seeded, bound

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.rng = self.np_random if self.seeded else np.random.default_rng()
        return self._obs(), {}

    def step(self, action):
        return self._obs(), 0.0, bool(self.rng.random() < 0.1), False, {}

    def _obs(self):
        return {"vector": (self.bound * self.rng.random(1)).astype(np.float32)}


def statuses(env) -> dict[str, str]:
    return {finding["check"]: finding["status"] for finding in inspect_env(env, seconds=0.05)}


def test_inspect_env_reports_findings():
    good = {"spaces": "ok", "values": "ok", "seeding": "ok", "speed": "ok", "episodes": "ok"}
    assert statuses(Walk()) == good
    assert statuses(Walk(seeded=False)) == good | {"seeding": "warn"}
    assert statuses(Walk(bound=50.0)) == good | {"values": "warn"}


def test_inspect_env_turns_failures_into_findings():
    env = Walk()
    env.step = lambda action: 1 / 0  # type: ignore[assignment]
    assert statuses(env) == {"spaces": "ok", "runs": "fail"}
    env.action_space = spaces.MultiBinary(2)
    assert any("not supported" in finding["detail"] for finding in inspect_env(env, seconds=0.05))
