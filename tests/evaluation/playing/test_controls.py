"""Which keys an action space gets."""

from __future__ import annotations

from enum import IntEnum

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from worldlab.env.spaces import decode_action
from worldlab.errors import ConfigError
from worldlab.evaluation.playing.controls import controls_of


def env_with(space: spaces.Space, **attributes) -> gymnasium.Env:
    env = gymnasium.Env()
    env.action_space = space
    for name, value in attributes.items():
        setattr(env, name, value)
    return env


def needs(env: gymnasium.Env) -> list[tuple[str, ...]]:
    return [choice.needs for choice in controls_of(env).choices]


def test_unnamed_choices_by_their_number():
    assert needs(env_with(spaces.Discrete(2))) == [("left",), ("right",)]
    assert needs(env_with(spaces.Discrete(3))) == [("left",), (), ("right",)]
    assert needs(env_with(spaces.Discrete(6))) == [(), ("left",), ("up",), ("right",), ("down",), ("action 5",)]


def test_choices_that_an_environment_names():
    meanings = ["NOOP", "FIRE", "UP", "UPRIGHT", "DOWNLEFTFIRE"]
    found = needs(env_with(spaces.Discrete(5), get_action_meanings=lambda: meanings))
    assert found == [(), ("fire",), ("up",), ("right", "up"), ("left", "down", "fire")]
    grid = IntEnum("grid", {"left": 0, "right": 1, "forward": 2, "pickup": 3, "toggle": 4})
    assert needs(env_with(spaces.Discrete(5), actions=grid)) == [("left",), ("right",), ("up",), ("pickup",), ("fire",)]


def test_names_that_do_not_fit_the_space_are_not_used():
    assert needs(env_with(spaces.Discrete(2), get_action_meanings=lambda: ["NOOP"])) == [("left",), ("right",)]


def test_axes_push_both_ways_or_one():
    low, high = np.array([-1, 0, 0], np.float32), np.ones(3, np.float32)
    controls = controls_of(env_with(spaces.Box(low, high)))  # as a car: steer, gas, brake
    assert [(axis.less, axis.more, axis.rest) for axis in controls.axes] == [
        ("left", "right", 0.0), ("", "up", 0.0), ("", "down", 0.0)
    ]  # fmt: skip
    six = controls_of(env_with(spaces.Box(-1, 1, (6,), np.float32)))
    assert [(axis.less, axis.more) for axis in six.axes][:3] == [("left", "right"), ("down", "up"), ("", "")]
    mixed = controls_of(env_with(spaces.Box(np.array([0, -2, -2], np.float32), np.full(3, 2, np.float32))))
    assert [(axis.less, axis.more) for axis in mixed.axes] == [("", "up"), ("left", "right"), ("", "")]


def test_an_action_is_encoded_for_the_model_and_back_for_the_environment():
    discrete = spaces.Discrete(3, start=5)
    controls = controls_of(env_with(discrete))
    assert controls.encode(2).tolist() == [0, 0, 1] and decode_action(discrete, controls.encode(2)) == 7
    assert controls.rest == 1
    box = spaces.Box(np.array([[-2.0, 0.0]], np.float32), np.array([[2.0, 4.0]], np.float32))
    controls = controls_of(env_with(box))
    assert controls.rest == [0.0, 0.0] and controls.encode([1.0, 4.0]).tolist() == [0.5, 1.0]
    assert decode_action(box, controls.encode([1.0, 4.0])).tolist() == [[1.0, 4.0]]


@pytest.mark.parametrize("wrong", [3, -1, [0.0], []])
def test_actions_that_do_not_exist_are_refused(wrong):
    with pytest.raises(ConfigError):
        controls_of(env_with(spaces.Discrete(3))).encode(wrong)


@pytest.mark.parametrize("wrong", [0, [0.0], [0.0, float("nan")], [0.0, 0.0, 0.0]])
def test_numbers_that_do_not_fit_the_axes_are_refused(wrong):
    with pytest.raises(ConfigError):
        controls_of(env_with(spaces.Box(-1, 1, (2,), np.float32))).encode(wrong)


def test_every_choice_and_both_ends_of_every_axis():
    assert [name for name, _ in controls_of(env_with(spaces.Discrete(2))).every()] == [
        "action 0 (left)", "action 1 (right)"
    ]  # fmt: skip
    low, high = np.array([-1, 0], np.float32), np.ones(2, np.float32)
    ends = dict(controls_of(env_with(spaces.Box(low, high))).every())
    assert {name: action.tolist() for name, action in ends.items()} == {
        "action 1 -1": [-1, -1], "action 1 1": [1, -1], "action 2 1": [0, 1]
    }  # fmt: skip
