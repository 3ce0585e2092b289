"""What is told of a state against the simulators' own attributes, and against what their observations say of it."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from worldlab_envs.branch import SIDE, branch_probabilities, cell_of, picture_of
from worldlab_envs.truth import read_truth

from worldlab.env.find import open_adapter
from worldlab.registry import load_registry
from worldlab.settings import EnvSettings
from worldlab.study.measures.ground_truth import (
    HasTransitionProbs,
    HasTruth,
    TruthAdapter,
    find_layer,
    find_truth_reader,
)


def opened(id, **settings):
    """An environment at the boundary, some random steps into an episode, its last observation, and what tells its state."""
    adapter, full = open_adapter(load_registry(), id)
    env = adapter.make(full, EnvSettings(id=full, **settings))
    obs, _ = env.reset(seed=3)
    env.action_space.seed(3)
    for _ in range(6):
        obs, *_ = env.step(env.action_space.sample())
    read = find_truth_reader(adapter, env)
    assert read is not None
    return env, obs, read()


@pytest.mark.parametrize(
    ("id", "expected"),
    [
        ("Pendulum", lambda o: {"cos": o[0], "sin": o[1], "velocity": o[2]}),
        ("CartPole", lambda o: dict(zip(("position", "velocity", "angle", "angular_velocity"), o, strict=True))),
        ("MountainCar", lambda o: {"position": o[0], "velocity": o[1]}),
        ("MountainCarContinuous", lambda o: {"position": o[0], "velocity": o[1]}),
        ("Acrobot", lambda o: {"cos": o[[0, 2]], "sin": o[[1, 3]], "velocity": o[4:]}),
    ],
)
def test_where_the_observation_is_the_state_both_say_the_same(id, expected):
    _, obs, told = opened(id)
    expected = expected(obs["vector"])
    assert list(told) == list(expected)
    for name, value in told.items():
        assert value.dtype == np.float64 and value.ndim == 1
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-6)


def test_the_lander_in_its_own_units():
    """Gymnasium's observation scales the state; position and velocity scale back."""
    env, obs, told = opened("LunarLander")
    o, inner = obs["vector"], env.unwrapped
    np.testing.assert_allclose(told["position"][0], o[0] * 10 + 10, rtol=1e-5)
    np.testing.assert_allclose(told["velocity"], [o[2] * 50 / 10, o[3] * 50 / (400 / 30 / 2)], rtol=1e-4)
    np.testing.assert_allclose([told["angle"][0], told["angular_velocity"][0]], [o[4], o[5] * 50 / 20], rtol=1e-4)
    assert told["contact"].tolist() == [leg.ground_contact for leg in inner.legs]


@pytest.mark.parametrize(("id", "hidden"), [("HalfCheetah", 1), ("InvertedPendulum", 0)])
def test_mujoco_tells_positions_and_speeds_but_not_where_on_an_endless_floor(id, hidden):
    env, obs, told = opened(id)
    data = env.unwrapped.data
    np.testing.assert_array_equal(told["qpos"], data.qpos[hidden:])
    np.testing.assert_array_equal(told["qvel"], data.qvel)
    np.testing.assert_allclose(np.concatenate([told["qpos"], told["qvel"]]), obs["vector"], rtol=1e-5, atol=1e-6)
    told["qpos"][:] = 0
    assert data.qpos.any()  # a copy


def test_a_car_on_its_road_and_beside_it():
    env, _, told = opened("CarRacing", repeat=4, size=32)
    inner = env.unwrapped
    hull = inner.car.hull
    speed = np.hypot(*hull.linearVelocity)
    assert np.hypot(told["speed"][0], told["slip"][0]) == pytest.approx(speed, rel=1e-6)
    assert told["angular_velocity"][0] == hull.angularVelocity
    assert told["wheel_angle"][0] == inner.car.wheels[0].joint.angle != 0
    assert told["off_road"] == 0 and abs(told["road_offset"][0]) < 1 and abs(told["road_heading"][0]) < 0.5
    # Put down half a road's width to the right of the road's middle, a quarter turn from its direction, going sideways.
    _, direction, x, y = inner.track[40]
    right = np.array([np.cos(direction), np.sin(direction)])
    half = 40 / 6
    hull.position, hull.angle = tuple(np.array([x, y]) + 0.5 * half * right), direction - np.pi / 2
    hull.linearVelocity = tuple(3.0 * np.array([-right[1], right[0]]))
    moved = read_truth(env)
    assert moved["road_offset"][0] == pytest.approx(0.5, abs=0.05)
    assert moved["road_heading"][0] == pytest.approx(-1, abs=0.01)
    # The car looks to the right of the road and moves along it: to its own left.
    assert moved["speed"][0] == pytest.approx(0, abs=1e-5) and moved["slip"][0] == pytest.approx(-3, abs=1e-5)
    for wheel in inner.car.wheels[:3]:
        wheel.tiles.clear()
    assert read_truth(env)["off_road"][0] == pytest.approx(0.75)


def test_our_own_environments_tell_it_themselves():
    env, obs, told = opened("linear-gaussian")
    np.testing.assert_array_equal(told["x"], env.unwrapped._x)
    assert np.abs(obs["vector"] - env.unwrapped.C @ told["x"]).max() < 5 * 0.1  # the observation's noise
    env, obs, told = opened("branch")
    assert 4 * told["row"][0] + told["column"][0] == cell_of(obs["image"])
    assert isinstance(env.unwrapped, HasTruth)


def test_a_simulator_nobody_knows_tells_nothing():
    adapter, _ = open_adapter(load_registry(), "Pendulum")
    blackjack = gymnasium.make("Blackjack-v1", disable_env_checker=True)
    assert (
        isinstance(adapter, TruthAdapter)
        and read_truth(blackjack) is None
        and find_truth_reader(adapter, blackjack) is None
    )


@pytest.mark.parametrize("size", [None, 32, 12])
def test_the_odds_of_a_branching_world_and_the_cells_its_pictures_show(size):
    adapter, full = open_adapter(load_registry(), "branch")
    env = adapter.make(full, EnvSettings(id=full, size=size))
    knows = find_layer(env, HasTransitionProbs)
    assert knows is not None
    odds = knows.transition_probs()
    assert odds.shape == (16, 4, 16) and np.allclose(odds.sum(2), 1)
    for cell, action in np.ndindex(16, 4):
        assert {k: odds[cell, action, k] for k in np.flatnonzero(odds[cell, action])} == branch_probabilities(
            cell, action
        )
    obs, _ = env.reset(seed=0)
    seen, cells = [obs["image"]], [0]
    for action in (1, 1, 2, 2, 1, 0, 3):
        seen.append(env.step(action)[0]["image"])
        cells.append(env.unwrapped._cell)
    assert knows.state_of({"image": np.stack(seen)}).tolist() == cells
    between = (seen[0].astype(int) + seen[1]) // 2
    assert knows.state_of({"image": between[None].astype(np.uint8)}).tolist() == [SIDE * SIDE]


def test_the_nearest_picture_may_be_a_little_off():
    knows = find_layer(gymnasium.make("worldlab/Branch-v0", disable_env_checker=True), HasTransitionProbs)
    noisy = picture_of(6) + np.random.default_rng(0).integers(0, 12, (16, 16, 3))
    assert knows.state_of({"image": np.clip(noisy, 0, 255).astype(np.uint8)[None]}).tolist() == [6]
