"""Tests of spaces: specs, the action codec against hand-computed values, unsupported spaces."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium import spaces

from worldlab.env.spaces import action_spec, decode_action, encode_action, obs_spec, record_schema
from worldlab.errors import DivergedError, EnvError
from worldlab.specs import ActionSpec, ArraySpec

IMAGE = spaces.Box(0, 255, (64, 48, 3), np.uint8)
VECTOR = spaces.Box(-np.inf, np.inf, (5,), np.float32)


def test_images_become_channels_first_and_vectors_stay():
    spec = obs_spec(spaces.Dict({"image": IMAGE, "vector": VECTOR}))
    assert spec.entries == (("image", ArraySpec("image", (3, 64, 48))), ("vector", ArraySpec("vector", (5,))))


@pytest.mark.parametrize(
    ("space", "says"),
    [
        (VECTOR, "not a Dict"),
        (spaces.Dict({}), "not a Dict"),
        (spaces.Dict({"reward": VECTOR}), "reserved"),
        (spaces.Dict({"x": spaces.Box(0, 1, (5,), np.float64)}), "has the space"),
        (spaces.Dict({"x": spaces.Discrete(3)}), "has the space"),
        (spaces.Dict({"x": spaces.Box(0, 255, (3, 64, 64), np.uint8)}), "shape"),
        (spaces.Dict({"x": spaces.Box(0, 255, (7, 64, 3), np.uint8)}), "smallest side"),
        (spaces.Dict({"x": spaces.Box(0, 255, (16, 65, 3), np.uint8)}), "over 4 times"),
    ],
)
def test_unsupported_observation_spaces(space, says):
    with pytest.raises(EnvError, match=says) as error:
        obs_spec(space)
    assert len(error.value.message) <= 100 and error.value.fix


def test_discrete_actions_are_one_hot_and_respect_start():
    space = spaces.Discrete(3, start=5)
    assert action_spec(space) == ActionSpec("discrete", 3)
    assert encode_action(space, 6).tolist() == [0, 1, 0]
    assert encode_action(space, np.array([5, 7])).tolist() == [[1, 0, 0], [0, 0, 1]]
    assert decode_action(space, np.array([0.1, 0.2, 0.7])) == 7
    assert decode_action(space, np.eye(3)).tolist() == [5, 6, 7]
    with pytest.raises(EnvError, match="outside"):
        encode_action(space, 4)


def test_continuous_actions_are_scaled_to_the_bounds_and_clipped():
    space = spaces.Box(np.array([-1, 0], np.float32), np.array([1, 4], np.float32))
    assert action_spec(space) == ActionSpec("continuous", 2)
    assert encode_action(space, np.array([0.5, 1.0])).tolist() == [0.5, -0.5]
    assert encode_action(space, np.array([9.0, -9.0])).tolist() == [1, -1]
    decoded = decode_action(space, np.array([[0.5, -0.5], [3.0, -3.0]]))
    assert decoded.dtype == np.float32 and decoded.tolist() == [[0.5, 1.0], [1.0, 0.0]]


def test_decoding_inverts_encoding_for_any_shape_and_stays_inside():
    space = spaces.Box(-0.3, 0.7, (2, 3), np.float32, seed=0)
    natives = np.stack([space.sample() for _ in range(50)])
    encoded = encode_action(space, natives)
    assert encoded.shape == (50, 6)
    np.testing.assert_allclose(decode_action(space, encoded), natives, atol=1e-6)
    for corner in (-1.0, 1.0):
        assert space.contains(decode_action(space, np.full(6, corner, np.float32)))


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-np.inf, np.inf, (2,), np.float32),
        spaces.Box(0, 0, (1,), np.float32),
        spaces.Box(0, 5, (1,), np.int64),
        spaces.MultiDiscrete([2, 3]),
        spaces.MultiBinary(4),
    ],
)
def test_unsupported_action_spaces(space):
    with pytest.raises(EnvError) as error:
        action_spec(space)
    assert len(error.value.message) <= 100 and error.value.fix


def test_an_action_that_is_not_finite_is_an_error():
    with pytest.raises(DivergedError):
        decode_action(spaces.Discrete(2), np.array([np.nan, 0.0]))


def test_record_schema_keeps_the_raw_image():
    schema = record_schema(spaces.Dict({"image": IMAGE, "vector": VECTOR}), ActionSpec("discrete", 4))
    assert schema == {
        "image": ((64, 48, 3), "uint8"),
        "vector": ((5,), "float32"),
        "prev_action": ((4,), "float32"),
        "reward": ((), "float32"),
        "cont": ((), "float32"),
        "is_first": ((), "bool"),
    }
