"""worldlab.training.streams: streams depend on seed and name only, and continue bit for bit."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import torch

from worldlab.errors import CheckpointError
from worldlab.training.streams import Streams


def draw(streams, name):
    """[6] doubles: three of torch's stream, three of NumPy's."""
    first = torch.rand(3, generator=streams.torch(name), dtype=torch.float64)
    return [*first.tolist(), *streams.numpy(name).random(3).tolist()]


def test_seeding_is_the_documented_hash():
    digest = hashlib.sha256(b"worldlab\x007\0torch\0replay").digest()
    expected = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little"))
    assert torch.equal(Streams(7).torch("replay").get_state(), expected.get_state())


def test_order_and_use_of_other_streams_do_not_matter():
    one, two = Streams(3), Streams(3)
    draw(one, "a")
    assert draw(one, "b") == draw(two, "b")
    assert one.torch("a") is one.torch("a", "cpu") and one.numpy("a") is one.numpy("a")
    assert one.derive("env/0") == two.derive("env/0") != one.derive("env/1")


def test_ten_seeds_and_ten_names_are_distinct():
    drawn = [draw(Streams(seed), f"n{name}")[k] for seed in range(10) for name in range(10) for k in (0, 3)]
    assert len(set(drawn)) == 200
    assert abs(np.mean(drawn) - 0.5) < 4 / np.sqrt(12 * 200)


def test_restore_continues_bit_exactly_through_json():
    streams = Streams(1)
    torch.randn(5, generator=streams.torch("a"))
    streams.numpy("a").integers(10, size=3, dtype=np.int32)  # leaves half a word buffered in PCG64
    tensors, state = streams.state()
    tensors = {key: value.clone() for key, value in tensors.items()}
    expected = [draw(streams, "a"), draw(streams, "late")]
    held = streams.torch("a")
    state = json.loads(json.dumps(state))
    streams.restore(tensors, state)
    assert streams.torch("a") is held
    assert [draw(streams, "a"), draw(streams, "late")] == expected
    fresh = Streams(1)
    fresh.restore(tensors, state)
    assert [draw(fresh, "a"), draw(fresh, "late")] == expected


def test_no_global_state_is_touched():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    draw(Streams(0), "a")
    assert torch.equal(torch.get_rng_state(), before)


def test_another_seed_or_a_damaged_state_is_refused():
    tensors, state = Streams(0).state()
    with pytest.raises(CheckpointError, match="seed 0, this run has seed 1"):
        Streams(1).restore(tensors, state)
    with pytest.raises(CheckpointError, match="cannot be restored"):
        Streams(0).restore({"cpu/a": torch.zeros(3, dtype=torch.uint8)}, state)
