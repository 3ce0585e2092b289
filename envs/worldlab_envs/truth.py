"""The true state of Gymnasium's simulators, a reference for latents. It is read beside the observation and never
observed.

Simulators are found by the class of the bare environment or of one of its bases, so no additional module is imported.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

Truth = dict[str, np.ndarray]
"""Factors of a state by name, float64 [k] each."""


def read_truth(env: gymnasium.Env) -> Truth | None:
    """Return the state at the last observation of an environment; None for unsupported simulators."""
    inner = env.unwrapped
    for base in type(inner).__mro__:
        read = READERS.get(f"{base.__module__}.{base.__name__}")
        if read is not None:
            return {name: np.atleast_1d(np.asarray(value, np.float64)) for name, value in read(inner).items()}
    return None


def _car_racing(env: Any) -> dict[str, Any]:
    """Return speeds in m/s along and across the car; wheel_angle and angular_velocity in rad and rad/s; off_road: share
    of the four wheels that touch no tile; road_offset: distance from the road's middle, in half widths; road_heading:
    sine of the angle to the road.
    """
    from gymnasium.envs.box2d import car_racing as source

    hull, wheels = env.car.hull, env.car.wheels
    velocity, ahead = np.array(hull.linearVelocity), np.array([-np.sin(hull.angle), np.cos(hull.angle)])
    track = np.array([point[1:] for point in env.track])  # [P, (direction, x, y)]
    place = np.array(hull.position)
    nearest = track[((track[:, 1:] - place) ** 2).sum(1).argmin()]
    across = np.array([np.cos(nearest[0]), np.sin(nearest[0])])
    return {
        "speed": velocity @ ahead,
        "slip": velocity @ [ahead[1], -ahead[0]],
        "wheel_angle": wheels[0].joint.angle,
        "angular_velocity": hull.angularVelocity,
        "off_road": np.mean([not wheel.tiles for wheel in wheels]),
        "road_offset": (place - nearest[1:]) @ across / source.TRACK_WIDTH,
        "road_heading": np.sin(hull.angle - nearest[0]),
    }


def _mujoco(env: Any) -> dict[str, Any]:
    """Return qpos and qvel in MuJoCo's units, without the leading positions that the environment excludes from its
    observation: no image or sensor shows the position of a robot on an endless floor.
    """
    hidden = getattr(env, "observation_structure", {}).get("skipped_qpos", 0)
    return {"qpos": env.data.qpos[hidden:].copy(), "qvel": env.data.qvel.copy()}


def _pendulum(env: Any) -> dict[str, Any]:
    angle, velocity = env.state
    return {"cos": np.cos(angle), "sin": np.sin(angle), "velocity": velocity}


def _acrobot(env: Any) -> dict[str, Any]:
    angles, velocities = env.state[:2], env.state[2:]
    return {"cos": np.cos(angles), "sin": np.sin(angles), "velocity": velocities}


def _cart_pole(env: Any) -> dict[str, Any]:
    position, velocity, angle, angular_velocity = env.state
    return {"position": position, "velocity": velocity, "angle": angle, "angular_velocity": angular_velocity}


def _mountain_car(env: Any) -> dict[str, Any]:
    position, velocity = env.state
    return {"position": position, "velocity": velocity}


def _lunar_lander(env: Any) -> dict[str, Any]:
    body = env.lander
    return {
        "position": body.position,
        "velocity": body.linearVelocity,
        "angle": body.angle,
        "angular_velocity": body.angularVelocity,
        "contact": [leg.ground_contact for leg in env.legs],
    }


_CONTROL = "gymnasium.envs.classic_control"
READERS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "gymnasium.envs.box2d.car_racing.CarRacing": _car_racing,
    "gymnasium.envs.box2d.lunar_lander.LunarLander": _lunar_lander,
    "gymnasium.envs.mujoco.mujoco_env.MujocoEnv": _mujoco,
    f"{_CONTROL}.pendulum.PendulumEnv": _pendulum,
    f"{_CONTROL}.acrobot.AcrobotEnv": _acrobot,
    f"{_CONTROL}.cartpole.CartPoleEnv": _cart_pole,
    f"{_CONTROL}.mountain_car.MountainCarEnv": _mountain_car,
    f"{_CONTROL}.continuous_mountain_car.Continuous_MountainCarEnv": _mountain_car,
}
"""The function that reads the state, by class name."""
