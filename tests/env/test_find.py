"""Tests of the choice of an adapter by id, and of the report on an environment."""

from __future__ import annotations

from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from worldlab.env.find import EnvAdapter, env_names, inspect_env, make_env, open_adapter
from worldlab.env.wrappers import wrap
from worldlab.errors import EnvError, PluginError
from worldlab.settings import EnvSettings


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


# ---- settings ----


class Film(gymnasium.Env):
    """An endless film: the picture and the reward are the number of the frame."""

    observation_space = spaces.Dict({"camera": spaces.Box(0, 255, (24, 32, 3), np.uint8)})
    action_space = spaces.Discrete(2)
    frame = 0

    def reset(self, *, seed=None, options=None):
        self.frame = 0
        return {"camera": np.zeros((24, 32, 3), np.uint8)}, {}

    def step(self, action):
        self.frame += 1
        return {"camera": np.full((24, 32, 3), self.frame, np.uint8)}, float(self.frame), False, False, {}


class Cinema(Adapter):
    def __init__(self, make):
        super().__init__({})
        self.make = make


def test_settings_apply_to_whatever_an_adapter_makes():
    settings = EnvSettings(size=16, repeat=2, time_limit=3)
    for make in (lambda id, settings: Film(), lambda id, settings: wrap(Film(), settings, name=id)):
        env = make_env(Cinema(make), "film", settings)
        assert env.reset(seed=0)[0]["camera"].shape == (16, 16, 3)
        steps = [env.step(0) for _ in range(3)]
        assert [reward for _, reward, *_ in steps] == [3.0, 7.0, 11.0]  # of frames 1 + 2, 3 + 4, 5 + 6
        assert [truncated for *_, truncated, _ in steps] == [False, False, True]


def test_an_adapter_that_applies_other_settings_is_refused():
    adapter = Cinema(lambda id, settings: wrap(Film(), EnvSettings(size=16)))
    with pytest.raises(PluginError, match=r"Cinema does not apply env\.repeat of 'film'") as error:
        make_env(adapter, "film", EnvSettings(size=16, repeat=4))
    assert "repeat = 1, the run has 4" in str(error.value.cause)
    with pytest.raises(PluginError, match=r"returns a NoneType, not a gymnasium\.Env"):
        make_env(Cinema(lambda id, settings: None), "film", EnvSettings())
