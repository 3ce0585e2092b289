"""The records that a data set becomes, its split, and what stays in memory."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from data_kit import BOX, digest, made
from gymnasium import spaces

from worldlab.env.spaces import action_spec, encode_action, record_schema
from worldlab.errors import ConfigError, PluginError
from worldlab.experience.action_units import in_units_of
from worldlab.experience.data_records import EpisodeRecords, RecordStreams, deal, split
from worldlab.experience.dataset import EpisodeFacts, Steps, open_dataset
from worldlab.experience.inspect_data import inspect
from worldlab.experience.offline import HeldOut, OfflineData, open_replay
from worldlab.experience.playback import Playback
from worldlab.experience.replay import Replay
from worldlab.registry import Registry, load_registry

SCHEMA = record_schema(made().facts.observation_space, action_spec(BOX))


def test_an_episode_becomes_a_reset_and_a_record_a_decision():
    source = made((5,), ends="t")
    [records] = list(EpisodeRecords(source, SCHEMA).records(0))
    steps = source.all[0]
    np.testing.assert_array_equal(records["vector"], steps.obs["vector"])
    np.testing.assert_array_equal(records["prev_action"][1:], encode_action(BOX, steps.action))
    np.testing.assert_array_equal(records["reward"], [0, *steps.reward])
    assert records["is_first"].tolist() == [True] + [False] * 5
    assert records["cont"].tolist() == [1.0] * 5 + [0.0]
    assert not records["prev_action"][0].any()


@pytest.mark.parametrize("encoded", [False, True], ids=["native", "encoded"])
def test_actions_are_read_in_the_units_of_another_space(encoded):
    wide = spaces.Box(-4, 4, BOX.shape, np.float32)
    source = made((5,))
    read = source.read
    if encoded:  # as run folders store them
        source.facts = replace(source.facts, encoded=True)
        source.read = lambda *at: replace(read(*at), action=encode_action(BOX, read(*at).action))  # type: ignore[method-assign]
    [records] = list(EpisodeRecords(in_units_of(source, wide), SCHEMA).records(0))
    np.testing.assert_allclose(records["prev_action"][1:], read(0, 0, 5).action.reshape(5, -1) / 4, atol=1e-6)


def test_only_a_space_with_other_bounds_is_another_space():
    source = made((5,))
    others = [BOX, spaces.Box(-1, 1, (9,), np.float32), spaces.Discrete(3)]
    assert all(in_units_of(source, space) is source for space in others)


def test_pieces_join_to_the_whole_and_only_an_end_is_an_end():
    source = made((600,), ends="t")
    pieces = list(EpisodeRecords(source, SCHEMA).records(0))
    assert [len(piece) for piece in pieces] == [257, 256, 88]
    joined = np.concatenate(pieces)
    np.testing.assert_array_equal(joined["vector"], source.all[0].obs["vector"])
    assert joined["is_first"].sum() == 1 and np.flatnonzero(joined["cont"] == 0).tolist() == [600]


def test_streams_are_read_by_position_forwards_and_backwards():
    source = made((4, 300, 2, 5))
    streams = RecordStreams(EpisodeRecords(source, SCHEMA), deal(source, 2))
    assert streams.totals == [4 + 1 + 2 + 1, 300 + 1 + 5 + 1] and streams.decisions == 2 * 6
    expected = [0, *source.all[1].reward, 0, *source.all[3].reward]
    order = [*range(307), 5, 300, 299, 0]
    assert [streams.record(1, at)["reward"] for at in order] == [np.float32(expected[at]) for at in order]  # type: ignore[index]
    assert streams.record(1, 307) is None and streams.start_of(1, 306) == 301 and streams.start_of(1, 300) == 0


def test_images_are_resized_by_area():
    source = made((3,), image=True, vector=False)
    space = spaces.Dict({"image": spaces.Box(0, 255, (8, 8, 3), np.uint8)})
    [records] = list(EpisodeRecords(source, record_schema(space, action_spec(BOX)), 8).records(0))
    rows = source.all[0].obs["image"].astype(np.float64).reshape(4, 8, 4, 3, 3)  # three columns cover two
    left = (rows[..., 0, :] + rows[..., 1, :] / 2) / 1.5
    np.testing.assert_allclose(records["image"][:, :, 0::2], left, atol=0.51)


def test_what_is_not_finite_is_named_with_episode_and_step():
    source = made((300,))
    source.all[0].reward[280] = np.nan
    with pytest.raises(ConfigError, match="episode 0: reward is not finite at step 280"):
        list(EpisodeRecords(source, SCHEMA).records(0))
    source.all[0].obs["vector"][3] = np.inf
    assert inspect(source).findings[:2] == [
        "episode 0, step 3: vector is not finite",
        "episode 0, step 280: reward is not finite",
    ]


def test_inspect_counts_and_names_an_action_outside_of_its_space():
    source = made((4, 6))
    source.all[1].action[2] = 9.0
    found = inspect(source)
    said = found.summary()
    assert said["decisions"] == 10 and said["ends"] == {"terminated": 1, "cut": 1, "unfinished": 0}
    assert found.returns == pytest.approx([float(steps.reward.sum()) for steps in source.all])
    assert "episode 1, step 2: an action is outside of its space" in said["wrong"]


def test_lengths_that_differ_without_a_termination_look_like_missing_ones():
    assert any("are terminations missing" in found for found in inspect(made((4, 6), ends="c")).findings)
    assert inspect(made((4, 4), ends="c")).findings == []


def test_the_split_is_by_episode_and_depends_on_their_number_only():
    one, other = split(made((9,) * 40)), split(made((3,) * 40, seed=1))
    assert one == other and len(one[1]) == 4
    assert sorted(one[0] + one[1]) == list(range(40))
    assert split(made((9,))) == ([0], [])


def offline(source, folder: Path | None = None, storage: str = "ram") -> tuple[OfflineData, Replay]:
    replay = open_replay(source, SCHEMA, folder or Path("unused"), storage)
    return OfflineData(source, replay), replay


def test_offline_data_are_the_training_episodes_in_order(tmp_path):
    source = made((9, 300, 4) + (5,) * 17)
    data, replay = offline(source, tmp_path / "replay")
    data.start()
    training, held_out = split(source)
    stored = replay.newest(0, len(replay))
    expected = np.concatenate([source.all[e].obs["vector"] for e in training])
    np.testing.assert_array_equal(stored["vector"], expected)
    assert len(held_out) == 2 and data.sha256["training"] != data.sha256["held_out"]
    assert [data.end() for _ in range(3)] == [1, 1, 1] and len(replay) == len(expected)
    data.start()  # a resumed run has them already
    assert len(replay) == len(expected)
    replay.close()


def test_held_out_windows_lie_inside_held_out_episodes():
    source = made((30,) * 20)
    for episode, steps in enumerate(source.all):
        steps.obs["vector"][:, 0] = episode
        steps.obs["vector"][:, 1] = np.arange(31)
    held_out = HeldOut(source, SCHEMA)
    windows = held_out.windows(16, 12)
    assert windows["vector"].shape == (4, 12, 3)  # two episodes of 31 observations hold two windows each
    assert set(windows["vector"][:, :, 0].ravel()) == set(map(float, held_out.episodes))
    assert (np.diff(windows["vector"][:, :, 1], axis=1) == 1).all()
    with pytest.raises(ConfigError, match="one episode, so none is held out"):
        HeldOut(made((30,)), SCHEMA).windows(4, 12)
    with pytest.raises(ConfigError, match="less than 7 observations"):
        HeldOut(made((3,) * 20), SCHEMA).windows(4, 12)


def test_a_data_set_of_other_formats_is_played_back_in_streams():
    source = made((4, 6, 4, 6))
    replay = Replay(SCHEMA, 100, 2)
    played = Playback(source, replay)
    assert played.decisions == 16
    played.start()
    for _ in range(8):
        played.end()
    np.testing.assert_array_equal(
        replay.newest(0, 10)["vector"], np.concatenate([source.all[e].obs["vector"] for e in (0, 2)])
    )


def test_names_that_no_format_knows(tmp_path):
    registry = load_registry()
    with pytest.raises(ConfigError, match="no data set at") as error:
        open_dataset(str(tmp_path / "nowhere"), registry)
    assert "there is no such file" in str(error.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no format recognises it"):
        open_dataset(str(tmp_path / "empty"), registry)


def test_a_format_of_a_plugin_needs_two_methods(monkeypatch):
    registry = load_registry()
    monkeypatch.setattr(Registry, "get", lambda *_: type("R", (), {"load": lambda self: object})())
    with pytest.raises(PluginError, match="is not a format"):
        open_dataset("npz:x", registry)


def test_a_step_that_is_too_large_is_refused():
    from worldlab.experience.dataset import DatasetFacts, check_facts

    space = spaces.Dict({"vector": spaces.Box(-1, 1, (2**20,), np.float32)})
    with pytest.raises(ConfigError, match="takes 4,194,304 bytes"):
        check_facts(DatasetFacts("x", space, BOX), [EpisodeFacts("0", 1, False, False)])
    with pytest.raises(ConfigError, match="no episode with a decision"):
        check_facts(made().facts, [])


def test_equal_data_have_one_hash():
    assert digest(made((4,))) == digest(made((4,))) != digest(made((4,), seed=1))
    cut = made((4,), ends="c")
    assert digest(cut) != digest(made((4,), ends="t"))
    assert isinstance(cut.all[0], Steps)


LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np
from worldlab.experience.dataset import open_dataset
from worldlab.experience.offline import OfflineData, open_replay
from worldlab.env.spaces import action_spec, record_schema
from worldlab.registry import load_registry

source, folder = sys.argv[1:]
dataset = open_dataset(source, load_registry())
schema = record_schema(dataset.facts.observation_space, action_spec(dataset.facts.action_space))
used = int(next(line for line in open("/proc/self/status") if line.startswith("VmSize")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (used + {limit}, used + {limit}))
import worldlab.experience.offline as offline
offline.IN_MEMORY = {limit} // 10
replay = open_replay(dataset, schema, Path(folder), "ram")
data = OfflineData(dataset, replay)
data.start()
batch = replay.sample(8, 16, np.random.default_rng(0))
windows = data.held_out.windows(8, 16)
print(len(replay) * np.dtype([(k, d, s) for k, (s, d) in schema.items()]).itemsize, batch["image"].sum(), windows["image"].shape)
"""


def test_memory_stays_flat_on_data_ten_times_its_limit(tmp_path):
    """A sparse HDF5 file of 480 MB, of which only the actions are stored, under a limit of 40 MB more than at its start."""
    h5py = pytest.importorskip("h5py")
    limit, rows, side = 40 * 2**20, 39_000, 64
    with h5py.File(tmp_path / "big.hdf5", "w") as file:
        file.create_dataset("observations", (rows, side, side, 3), "u1", chunks=(64, side, side, 3))
        file["actions"] = np.random.default_rng(0).uniform(-1, 1, (rows, 1))
        file["timeouts"] = np.arange(rows) % 3000 == 2999
    command = [
        sys.executable,
        "-c",
        LIMITED.replace("{limit}", str(limit)),
        str(tmp_path / "big.hdf5"),
        str(tmp_path / "r"),
    ]
    done = subprocess.run(command, text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    size, total, *_ = done.stdout.split()
    assert int(size) > 10 * limit and int(total) == 0
