"""Tests of the replay: sampling against enumeration, files against appended data, errors for damage."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from worldlab.env.arrivals import Arrivals
from worldlab.errors import CheckpointError, ConfigError, MemoryLimitError, StorageError, WorldlabError
from worldlab.experience import replay as replay_module
from worldlab.experience import resident
from worldlab.experience.replay import Replay, estimate_bytes, records
from worldlab.experience.segments import DamagedReplayError, record_dtype

SCHEMA = {
    "image": ((2, 2, 1), "uint8"),
    "vector": ((2,), "float32"),
    "prev_action": ((1,), "float32"),
    "reward": ((), "float32"),
    "cont": ((), "float32"),
    "is_first": ((), "bool"),
}


def record(env: int, step: int) -> dict:
    """Build a step that encodes its origin: vector = (env, step)."""
    return {
        "image": np.full((2, 2, 1), (7 * step + env) % 256, np.uint8),
        "vector": np.array([env, step], np.float32),
        "prev_action": np.array([step / 3], np.float32),
        "reward": np.float32(step),
        "cont": np.float32(step % 5 != 4),
        "is_first": np.bool_(step % 5 == 0),
    }


def fill(replay: Replay, counts: list[int], start: int = 0) -> Replay:
    for env, count in enumerate(counts):
        for step in range(start, start + count):
            replay.append(env, record(env, step))
    return replay


@pytest.fixture(params=["ram", "disk", torch.device("cpu")], ids=str)
def storage(request):
    return request.param


def make(tmp_path, storage, capacity=1000, envs=2) -> Replay:
    return Replay(SCHEMA, capacity, envs, tmp_path / "replay", storage)


def assert_genuine(batch: dict) -> None:
    """Check that every step of every row is the appended one, and that rows are contiguous in one stream."""
    size, length = batch["reward"].shape
    for row in range(size):
        env, first = batch["vector"][row, 0].astype(int)
        for t in range(length):
            expected = record(env, first + t)
            for key, value in expected.items():
                np.testing.assert_array_equal(batch[key][row, t], value)


def test_sequences_are_contiguous_in_one_stream(tmp_path, storage):
    replay = fill(make(tmp_path, storage), [70, 40])
    batch = replay.sample(64, 9, np.random.default_rng(0))
    assert {key: (value.shape, value.dtype.name) for key, value in batch.items()} == {
        key: ((64, 9, *shape), kind) for key, (shape, kind) in SCHEMA.items()
    }
    assert_genuine(batch)


def test_a_device_gives_the_bits_that_memory_gives_also_after_a_resume(tmp_path, monkeypatch):
    """Wrapped streams of unequal length, copied to the device in pieces; tensors keep the types of the schema."""
    monkeypatch.setattr(resident, "WAITING_BYTES", 5 * resident.resident_bytes(record_dtype(SCHEMA), 1))
    device = torch.device("cpu")
    for step in (0, 100):
        counts = [90, 33] if not step else [41, 70]
        if not step:
            stores = [
                Replay(SCHEMA, 120, 2, tmp_path / name, kind) for name, kind in (("ram", "ram"), ("device", device))
            ]
        else:
            positions = [store.position() for store in stores]
            assert positions[0] == positions[1]
            for store in stores:
                store.close()
            opened = zip(("ram", "device"), ("ram", device), positions, strict=True)
            stores = [Replay.open(tmp_path / name, SCHEMA, 120, 2, kind, position) for name, kind, position in opened]
        for store in stores:
            fill(store, counts, start=step)
        ram, there = (store.sample(16, 9, np.random.default_rng(step)) for store in stores)
        tensors = stores[1].sample_on(device, 16, 9, np.random.default_rng(step))
        through = stores[0].sample_on(device, 16, 9, np.random.default_rng(step))
        for key, value in ram.items():
            for other in (there[key], tensors[key].numpy(), through[key].numpy()):
                assert other.dtype == value.dtype and other.shape == value.shape and np.array_equal(other, value), key
        newest = [store.newest(0, 70) for store in stores]
        assert all(np.array_equal(newest[0][key], newest[1][key]) for key in newest[0])


def test_a_sample_on_a_device_belongs_to_the_caller(tmp_path):
    replay = fill(Replay(SCHEMA, 100, 1, None, torch.device("cpu")), [50])
    first = replay.sample_on(torch.device("cpu"), 4, 5, np.random.default_rng(0))
    again = replay.sample(4, 5, np.random.default_rng(0))
    for value in first.values():
        value.zero_()
    assert all(
        np.array_equal(value, replay.sample(4, 5, np.random.default_rng(0))[key]) for key, value in again.items()
    )


def test_starts_are_uniform_over_all_valid_places(tmp_path, storage):
    replay = fill(make(tmp_path, storage, capacity=80), [100, 25])  # 40 kept of each stream: steps 60..99 and 0..24
    places = [(0, step) for step in range(60, 95)] + [(1, step) for step in range(0, 20)]
    batch = replay.sample(5500, 6, np.random.default_rng(1))
    assert_genuine({key: value[:50] for key, value in batch.items()})
    starts = [tuple(start) for start in batch["vector"][:, 0].astype(int).tolist()]
    assert set(starts) == set(places)
    assert chisquare([starts.count(place) for place in places]).pvalue > 1e-3


def test_the_oldest_steps_leave_first(tmp_path, storage):
    replay = make(tmp_path, storage, capacity=60, envs=1)
    for step in range(300):
        replay.append(0, record(0, step))
        if step % 37 == 0 and step > 4:
            assert_genuine(replay.sample(8, 4, np.random.default_rng(step)))
    assert len(replay) == 60
    seen = replay.sample(2000, 1, np.random.default_rng(0))["vector"][:, 0, 1]
    assert set(seen.astype(int)) == set(range(240, 300))


def test_can_sample_needs_one_long_enough_stream(tmp_path):
    replay = fill(make(tmp_path, "ram"), [3, 5])
    assert replay.can_sample(5) and not replay.can_sample(6)
    assert set(replay.sample(20, 5, np.random.default_rng(0))["vector"][:, 0, 0]) == {1.0}
    with pytest.raises(ConfigError, match="6 steps"):
        replay.sample(1, 6, np.random.default_rng(0))


def test_a_reopened_replay_samples_identically_and_moves_later_steps_to_orphans(tmp_path, storage):
    first = fill(make(tmp_path, storage, capacity=120), [100, 90])
    position = json.loads(json.dumps(first.position()))
    expected = first.sample(32, 7, np.random.default_rng(3))
    fill(first, [80, 33], start=100)  # what the stopped run did after its checkpoint
    first.close()

    again = Replay.open(tmp_path / "replay", SCHEMA, 120, 2, storage, position)
    for key, value in again.sample(32, 7, np.random.default_rng(3)).items():
        np.testing.assert_array_equal(value, expected[key])
    orphans = sorted((tmp_path / "replay" / "orphans").iterdir())
    per_step = again._log._framed.itemsize
    kept_beyond = sum((path.stat().st_size - again._log.header_size) // per_step for path in orphans)
    assert kept_beyond == 80 + 33
    again.append(0, record(0, 100))
    again.append(0, record(0, 101))
    assert_genuine(again.sample(64, 7, np.random.default_rng(4)))


def test_both_storages_sample_the_same(tmp_path):
    ram = fill(make(tmp_path / "a", "ram"), [90, 50])
    disk = fill(make(tmp_path / "b", "disk"), [90, 50])
    one, two = (replay.sample(16, 20, np.random.default_rng(5)) for replay in (ram, disk))
    for key in SCHEMA:
        np.testing.assert_array_equal(one[key], two[key])


@pytest.mark.parametrize("cut", [1, 10, 40])
def test_a_torn_tail_costs_only_the_torn_records(tmp_path, cut):
    replay = fill(make(tmp_path, "ram", envs=1), [50])
    replay.flush(sync=True)
    replay.close()
    last = sorted((tmp_path / "replay").glob("seg-*.log"))[-1]
    whole = last.read_bytes()
    last.write_bytes(whole[:-cut])
    lost = -(-cut // replay._log._framed.itemsize)
    again = Replay.open(tmp_path / "replay", SCHEMA, 1000, 1)
    assert len(again) == 50 - lost
    again.append(0, record(0, 50 - lost))
    assert_genuine(again.sample(16, 10, np.random.default_rng(0)))


def test_missing_steps_are_an_error_not_a_shorter_replay(tmp_path, storage):
    replay = fill(make(tmp_path, storage, envs=1), [50])
    position = replay.position()
    replay.close()
    last = sorted((tmp_path / "replay").glob("seg-*.log"))[-1]
    last.write_bytes(last.read_bytes()[:-1])
    with pytest.raises(DamagedReplayError, match="damaged or missing"):
        Replay.open(tmp_path / "replay", SCHEMA, 1000, 1, storage, position)
    with pytest.raises(DamagedReplayError, match="lacks records"):  # an inexact one cannot make up the newest steps
        Replay.open(tmp_path / "replay", SCHEMA, 1000, 1, storage, position, exact=False)


def test_steps_up_to_a_damaged_record_are_left_out_and_counted(tmp_path, storage):
    replay = fill(make(tmp_path, storage, capacity=640, envs=2), [200, 200])
    position = replay.position()
    replay.close()
    path = sorted((tmp_path / "replay").glob("seg-001-*.log"))[1]
    data = bytearray(path.read_bytes())
    data[-3] ^= 1  # the last record of the second segment
    path.write_bytes(data)
    with pytest.raises(DamagedReplayError, match="record 79 of environment 1"):
        Replay.open(tmp_path / "replay", SCHEMA, 640, 2, storage, position)
    again = Replay.open(tmp_path / "replay", SCHEMA, 640, 2, storage, position, exact=False)
    assert again.lost == 80 and len(again) == 320
    assert_genuine(again.sample(256, 5, np.random.default_rng(0)))
    fill(again, [5, 5], start=200)
    later = again.position()
    again.close()
    exact = Replay.open(
        tmp_path / "replay", SCHEMA, 640, 2, storage, later
    )  # what was left out is no part of it any more
    assert len(exact) == 330 and exact.lost == 0
    exact.close()
    path.unlink()
    inexact = Replay.open(tmp_path / "replay", SCHEMA, 640, 2, storage, position, exact=False)
    assert inexact.lost == 80


def test_every_flipped_bit_is_detected(tmp_path):
    replay = fill(make(tmp_path, "ram", envs=1), [20])
    position = replay.position()
    replay.close()
    path = next((tmp_path / "replay").glob("seg-*.log"))
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for bit in rng.integers(8 * len(whole), size=60).tolist():
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            Replay.open(tmp_path / "replay", SCHEMA, 1000, 1, "ram", position)


def test_a_damaged_file_is_detected_while_sampling_from_disk(tmp_path):
    replay = fill(make(tmp_path, "disk", envs=1), [20])
    replay.flush()
    path = next((tmp_path / "replay").glob("seg-*.log"))
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(StorageError, match="damaged"):
        replay.sample(64, 5, np.random.default_rng(0))


def test_prune_keeps_what_a_resume_needs(tmp_path, storage):
    replay = fill(make(tmp_path, storage, capacity=64, envs=1), [100])
    position, expected = replay.position(), replay.sample(8, 5, np.random.default_rng(0))
    fill(replay, [200], start=100).flush()
    before = len(list((tmp_path / "replay").glob("seg-*.log")))
    replay.prune(position)
    assert 0 < before - len(list((tmp_path / "replay").glob("seg-*.log"))) < before
    replay.close()
    again = Replay.open(tmp_path / "replay", SCHEMA, 64, 1, storage, position)
    np.testing.assert_array_equal(again.sample(8, 5, np.random.default_rng(0))["vector"], expected["vector"])

    fill(again, [200], start=100)
    again.prune()
    assert len(again) == 64
    assert len(list((tmp_path / "replay").glob("seg-*.log"))) <= 64 // again._steps + 1
    assert_genuine(again.sample(32, 5, np.random.default_rng(0)))


def test_a_resume_may_change_the_capacity(tmp_path, storage):
    replay = fill(make(tmp_path, storage, capacity=64, envs=1), [100])
    position = replay.position()
    replay.prune()
    replay.close()
    larger = Replay.open(tmp_path / "replay", SCHEMA, 1000, 1, storage, position)
    assert 64 <= len(larger) <= 100
    assert_genuine(larger.sample(64, 5, np.random.default_rng(0)))
    larger.close()
    smaller = Replay.open(tmp_path / "replay", SCHEMA, 20, 1, storage, position)
    assert len(smaller) == 20


def test_a_replay_with_raised_capacity_can_be_resumed_again(tmp_path, storage):
    replay = fill(make(tmp_path, storage, capacity=64, envs=1), [300])
    replay.prune()
    position = replay.position()
    replay.close()
    larger = fill(Replay.open(tmp_path / "replay", SCHEMA, 1000, 1, storage, position), [50], start=300)
    position, count = larger.position(), len(larger)
    larger.close()
    again = Replay.open(tmp_path / "replay", SCHEMA, 1000, 1, storage, position)
    assert len(again) == count >= 114
    assert_genuine(again.sample(64, 5, np.random.default_rng(0)))


def test_a_folder_with_experience_is_not_overwritten(tmp_path):
    fill(make(tmp_path, "ram"), [3, 3]).close()
    with pytest.raises(StorageError, match="already holds"):
        make(tmp_path, "ram")
    other = {**SCHEMA, "vector": ((3,), "float32")}
    with pytest.raises(CheckpointError, match="other observations"):
        Replay.open(tmp_path / "replay", other, 1000, 2)
    with pytest.raises(CheckpointError, match="damaged"):
        Replay.open(tmp_path / "replay", SCHEMA, 1000, 2, position={"format": 1, "totals": "x"})


@pytest.mark.parametrize(
    "change",
    [{"vector": np.float32(1)}, {"image": np.zeros((2, 2, 1))}, {"is_first": 3}, {"extra": 1}, {"reward": [1.0]}],
)
def test_a_record_that_does_not_fit_is_an_error(tmp_path, change):
    with pytest.raises(WorldlabError):
        make(tmp_path, "ram").append(0, record(0, 0) | change)


def test_too_little_memory_is_an_error_with_numbers(monkeypatch):
    step = 2 * 2 * 1 + 8 + 4 + 4 + 4 + 1
    assert estimate_bytes(SCHEMA, 1000) == 1000 * step
    monkeypatch.setattr(replay_module, "available_bytes", lambda: 1000 * step - 1)
    with pytest.raises(MemoryLimitError) as error:
        Replay(SCHEMA, 1000, 1)
    assert "--replay.capacity 799" in (error.value.fix or "") and len(error.value.message) <= 100
    with pytest.raises(ConfigError):
        Replay(SCHEMA, 1000, 1, None, "disk")


def test_records_align_rewards_ends_and_resets():
    def obs(value):
        return {"x": np.array([[value], [value + 10]], np.float32)}

    arrivals = Arrivals(
        obs=obs(1),
        reward=np.array([0.5, 2.0], np.float32),
        terminated=np.array([True, False]),
        truncated=np.array([False, True]),
        is_first=np.array([False, False]),
        reset_obs=obs(7),
        finished=[(0, 1.0, 3), (1, 1.0, 3)],
        skipped=np.array([False, False]),
    )
    action = np.array([[0.1], [0.2]], np.float32)
    flat = [
        (
            env,
            *(float(np.asarray(rec[key]).ravel()[0]) for key in ("x", "prev_action", "reward", "cont")),
            bool(rec["is_first"]),
        )
        for env, rec in records(arrivals, action)
    ]
    expected = [(0, 1, 0.1, 0.5, 0, False), (0, 7, 0, 0, 1, True), (1, 11, 0.2, 2, 1, False), (1, 17, 0, 0, 1, True)]
    for got, want in zip(flat, expected, strict=True):
        assert got == pytest.approx(want)
