"""Data sets as other programs write them: layouts, alignment, what is missing; and files made up to harm."""

from __future__ import annotations

import io
import json
import os
import zipfile

import numpy as np
import pytest
from data_kit import DISCRETE, assert_same, made, whole, write_video
from gymnasium import spaces

from worldlab.errors import ConfigError
from worldlab.experience.dataset import open_dataset
from worldlab.experience.inspect_data import inspect
from worldlab.registry import load_registry

REGISTRY = load_registry()
OBS = np.arange(24, dtype=np.float64).reshape(8, 3)
ACTION = np.linspace(-0.5, 0.5, 8)[:, None]
REWARD = np.arange(1.0, 9.0)


def opened(path):
    return open_dataset(str(path), REGISTRY)


# ---- .npz ----


def save_npz(folder, name="a.npz", **arrays):
    folder.mkdir(exist_ok=True)
    np.savez(folder / name, **arrays)
    return folder


def arrival(**more):
    """An episode of 7 decisions in DreamerV3's form: the first row is the reset."""
    action, reward = ACTION.copy(), REWARD.copy()
    action[0], reward[0] = 0, 0
    flags = {"is_first": np.arange(8) == 0, "is_last": np.arange(8) == 7, "is_terminal": np.arange(8) == 7}
    return {"vector": OBS, "action": action, "reward": reward, **flags, **more}


def test_npz_on_arrival_is_read_as_it_stands(tmp_path):
    data = opened(save_npz(tmp_path / "d", **arrival(log_entropy=np.zeros(8))))
    steps = whole(data, 0)
    np.testing.assert_array_equal(steps.obs["vector"], OBS.astype(np.float32))
    np.testing.assert_array_equal(steps.action, ACTION[1:])
    np.testing.assert_array_equal(steps.reward, REWARD[1:].astype(np.float32))
    assert data.episodes[0].terminated and data.facts.env_id == ""
    assert "the environment" in data.facts.missing


def test_npz_on_departure_is_shifted_and_said(tmp_path):
    """The last action and reward have no arrival."""
    data = opened(save_npz(tmp_path / "d", **arrival(action=ACTION, reward=REWARD)))
    steps = whole(data, 0)
    np.testing.assert_array_equal(steps.action, ACTION[:-1])
    np.testing.assert_array_equal(steps.reward, REWARD[:-1].astype(np.float32))
    assert "actions stand on departure, rewards on departure" in data.facts.missing


def test_an_episode_with_another_alignment_is_named(tmp_path):
    for name in ("a.npz", "b.npz", "c.npz"):
        save_npz(tmp_path / "d", name, **arrival())
    save_npz(tmp_path / "d", "odd.npz", **arrival(reward=REWARD))
    found = inspect(opened(tmp_path / "d"))
    assert "rewards stand on arrival, but on departure in episode odd.npz" in found.facts["missing"]


def test_one_more_observation_than_actions_needs_no_guess(tmp_path):
    data = opened(save_npz(tmp_path / "d", vector=OBS, action=ACTION[1:], reward=REWARD[1:]))
    assert data.episodes[0].length == 7
    np.testing.assert_array_equal(whole(data, 0).action, ACTION[1:])
    assert any("terminations" in missing for missing in data.facts.missing)


def test_a_file_of_several_episodes_is_split_at_its_resets(tmp_path):
    data = opened(save_npz(tmp_path / "d", **arrival(is_first=np.isin(np.arange(8), (0, 5)))))
    assert [(e.length, e.terminated, e.truncated) for e in data.episodes] == [(4, False, True), (2, True, False)]
    np.testing.assert_array_equal(whole(data, 1).obs["vector"], OBS[5:].astype(np.float32))


def test_what_is_not_finite_and_what_has_another_shape_is_named_with_its_episode(tmp_path):
    broken = OBS.copy()
    broken[4, 1] = np.nan
    save_npz(tmp_path / "d", "a.npz", **arrival())
    save_npz(tmp_path / "d", "b.npz", **arrival(vector=broken))
    assert "episode b.npz, step 4: vector is not finite" in inspect(opened(tmp_path / "d")).findings
    save_npz(tmp_path / "d", "c.npz", **arrival(vector=OBS[:, :2]))
    with pytest.raises(ConfigError, match=r"episode c\.npz: 'vector' differs from the other episodes"):
        opened(tmp_path / "d")


# ---- HDF5 ----


def d4rl(path, **more):
    h5py = pytest.importorskip("h5py")
    ends = {"terminals": np.arange(8) == 3, "timeouts": np.arange(8) == 7}
    with h5py.File(path, "w") as file:
        for name, values in ({"observations": OBS, "actions": ACTION, "rewards": REWARD} | ends | more).items():
            file[name] = values
    return path


def test_d4rl_with_next_observations_keeps_every_decision(tmp_path):
    after = OBS + 3
    data = opened(d4rl(tmp_path / "d.hdf5", next_observations=after))
    assert [(e.length, e.terminated, e.truncated) for e in data.episodes] == [(4, True, False), (4, False, True)]
    np.testing.assert_array_equal(whole(data, 0).obs["vector"], np.vstack([OBS[:4], after[3:4]]).astype(np.float32))
    np.testing.assert_array_equal(whole(data, 1).action, ACTION[4:])
    np.testing.assert_array_equal(whole(data, 1).reward, REWARD[4:])


def test_d4rl_without_them_leaves_out_what_it_cannot_know(tmp_path):
    data = opened(d4rl(tmp_path / "d.hdf5"))
    assert [e.length for e in data.episodes] == [4, 3]
    np.testing.assert_array_equal(whole(data, 0).obs["vector"], np.vstack([OBS[:4], OBS[3:4]]).astype(np.float32))
    np.testing.assert_array_equal(whole(data, 1).obs["vector"], OBS[4:].astype(np.float32))
    assert any("the observation after an episode's last decision" in missing for missing in data.facts.missing)


def test_robomimic_reads_a_group_for_each_episode_and_its_environment(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "demo.hdf5", "w") as file:
        for number in (0, 1, 10):
            group = file.create_group(f"data/demo_{number}")
            group["obs/state"], group["next_obs/state"] = OBS + number, OBS + number + 3
            group["actions"], group["rewards"], group["dones"] = ACTION, REWARD, np.arange(8) == 7
        file["data"].attrs["env_args"] = json.dumps({"env_name": "Lift", "type": 1})
    data = opened(tmp_path / "demo.hdf5")
    assert [e.name for e in data.episodes] == ["demo_0", "demo_1", "demo_10"] and data.facts.env_id == "Lift"
    np.testing.assert_array_equal(whole(data, 2).obs["vector"][-1], (OBS[-1] + 13).astype(np.float32))


def test_a_table_beside_the_file_says_where_what_is(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "mine.h5", "w") as file:
        file["log/joints"], file["log/torque"], file["log/gain"] = OBS, ACTION, REWARD
    with pytest.raises(ConfigError, match="neither D4RL's nor robomimic's layout"):
        opened(tmp_path / "mine.h5")
    (tmp_path / "mine.h5.toml").write_text(
        'observations = "log/joints"\nactions = "log/torque"\nrewards = "log/gain"\nalignment = "arrival"\n'
    )
    steps = whole(opened(tmp_path / "mine.h5"), 0)
    np.testing.assert_array_equal(steps.action, ACTION[1:])
    np.testing.assert_array_equal(steps.reward, REWARD[1:])


def test_data_that_look_shifted_are_pointed_out(tmp_path):
    zero = np.array([0, 1, 2, 3, 0, 1, 2, 3.0])
    data = opened(d4rl(tmp_path / "d.hdf5", actions=zero[:, None] / 3, rewards=zero))
    assert any('alignment = "arrival"' in missing for missing in data.facts.missing)


# ---- videos ----


def test_videos_and_a_table_of_actions(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (301, 16, 24, 3), np.uint8)
    write_video(tmp_path / "one.mkv", frames)
    write_video(tmp_path / "two.mkv", frames[:3])
    rows = [f"one.mkv,{k % 3},{k}.5,0" for k in range(300)] + ["two.mkv,2,1,0", "two.mkv,0,1,1"]
    (tmp_path / "actions.csv").write_text("\n".join(["video,action,reward,terminated", *rows]) + "\n")
    data = opened(tmp_path)
    assert [(e.length, e.terminated) for e in data.episodes] == [(300, False), (2, True)]
    assert data.facts.action_space == spaces.Discrete(3)
    steps = whole(data, 0)  # read in two pieces, which share a frame
    np.testing.assert_array_equal(steps.obs["image"], frames)
    np.testing.assert_array_equal(steps.action, np.arange(300) % 3)
    np.testing.assert_array_equal(steps.reward, np.arange(300) + 0.5)


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("video,action\n../secret.mp4,1\n", "leads out of the folder"),
        ("video,action\n/etc/passwd,1\n", "leads out of the folder"),
        ("video,action\na\x1b[2Jb.mp4,1\n", "control characters"),
        ("video,action\na.mp4,one\n", "line 2 has no 2 numbers"),
        ("frame,action\n1,1\n", "its first line is"),
        ("video,action\n" + "x" * 70000 + "\n", "a line is longer"),
    ],
)
def test_a_table_that_is_wrong_or_hostile_is_refused(tmp_path, table, says):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    (tmp_path / "actions.csv").write_text(table)
    with pytest.raises(ConfigError, match=says) as error:
        opened(tmp_path)
    assert "\x1b" not in str(error.value)


# ---- files made up to harm ----


def zip_of(folder, name, data, declared=None):
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / "a.npz", "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr(name, data)
    return folder


def npy(shape, descr="<f4", data=b""):
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": descr, "fortran_order": False, "shape": shape})
    return head.getvalue() + data


def test_a_pickled_array_is_refused(tmp_path):
    class Harm:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/harm",)

    np.savez(tmp_path / "a.npz", action=np.array([Harm()], object))
    with pytest.raises(ConfigError, match="holds pickled objects"):
        opened(tmp_path)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("action.npy", npy((10**12, 1)), "rows, at most"),
        ("action.npy", npy((1000, 1)), "which its bytes are not"),
        ("action.npy", npy((2, 10**9)), "which its bytes are not"),
        ("action.npy", b"no array", "is damaged"),
        ("act\x07ion.npy", npy((1, 1), data=bytes(4)), "control characters"),
        ("../action.npy", npy((1, 1), data=bytes(4)), "control characters or a folder"),
    ],
)
def test_an_array_that_is_not_what_it_claims_is_refused(tmp_path, name, data, says):
    with pytest.raises(ConfigError, match=says) as error:
        opened(zip_of(tmp_path / "d", name, data))
    assert error.value.message.isprintable()


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path):
    folder = zip_of(tmp_path / "d", "action.npy", npy((1, 1), data=bytes(4)))
    data = bytearray((folder / "a.npz").read_bytes())
    at = data.rfind(b"PK\x01\x02") + 24  # the size after unpacking, in the directory of the archive
    data[at : at + 4] = (0xFFFFFFF0).to_bytes(4, "little")
    (folder / "a.npz").write_bytes(bytes(data))
    with pytest.raises(ConfigError, match="it unpacks to"):
        opened(folder)


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    save_npz(tmp_path / "outside", **arrival())
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.npz").symlink_to(tmp_path / "outside" / "a.npz")
    with pytest.raises(ConfigError, match="leads out of the folder"):
        opened(tmp_path / "d")


def test_hdf5_that_reads_other_files_is_refused(tmp_path):
    h5py = pytest.importorskip("h5py")
    d4rl(tmp_path / "other.hdf5")
    with h5py.File(tmp_path / "link.hdf5", "w") as file:
        file["observations"] = h5py.ExternalLink("other.hdf5", "observations")
        file["actions"] = ACTION
    with pytest.raises(ConfigError, match="is a link, which may lead to another file"):
        opened(tmp_path / "link.hdf5")
    with h5py.File(tmp_path / "virtual.hdf5", "w") as file:
        layout = h5py.VirtualLayout((8, 3), "f8")
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.hdf5"), "observations", (8, 3))
        file.create_virtual_dataset("observations", layout)
        file["actions"] = ACTION
    with pytest.raises(ConfigError, match="reads from other files"):
        opened(tmp_path / "virtual.hdf5")
    with h5py.File(tmp_path / "chunk.hdf5", "w") as file:
        file.create_dataset("observations", (2**28, 3), "f8", chunks=(2**26, 1), compression="gzip")
        file.create_dataset("actions", (2**28, 1), "f4", chunks=(1024, 1))
    with pytest.raises(ConfigError, match="is stored in pieces of"):
        opened(tmp_path / "chunk.hdf5")


def test_a_segment_that_is_larger_than_it_says_is_refused(tmp_path):
    REGISTRY.get("dataset", "run").load()().write(made((4,)), tmp_path / "r")
    [segment] = (tmp_path / "r/replay").glob("seg-*.log")
    os.truncate(segment, 10 * 2**30)  # sparse: to read it at once would take all memory
    with pytest.raises(ConfigError, match="larger than its header allows"):
        opened(tmp_path / "r")


def test_minari_builds_no_environment_that_its_metadata_name(tmp_path):
    pytest.importorskip("minari")
    REGISTRY.get("dataset", "minari").load()().write(made((4,)), tmp_path / "m")
    path = tmp_path / "m" / "data" / "metadata.json"
    content = json.loads(path.read_text())
    del content["observation_space"]
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="give no observation_space"):
        opened(tmp_path / "m")


def test_lerobot_paths_that_lead_out_are_refused(tmp_path):
    pytest.importorskip("pyarrow")
    REGISTRY.get("dataset", "lerobot").load()().write(made((4,)), tmp_path / "l")
    path = tmp_path / "l" / "meta" / "info.json"
    content = json.loads(path.read_text())
    content["data_path"] = "../{chunk_index:03d}.parquet"
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="leads out of the folder"):
        opened(tmp_path / "l")


def test_lerobot_videos_are_read_from_the_first_second_of_each_episode(tmp_path):
    """Both episodes are in one file; ffv1 loses nothing, so every frame is known."""
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    source = made((4, 7), ends="c")
    REGISTRY.get("dataset", "lerobot").load()().write(source, tmp_path / "l")
    info = json.loads((tmp_path / "l/meta/info.json").read_text())
    info["features"]["observation.images.top"] = {
        "dtype": "video",
        "shape": [16, 24, 3],
        "names": ["height", "width", "channels"],
    }
    info["video_path"] = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mkv"
    (tmp_path / "l/meta/info.json").write_text(json.dumps(info))
    (tmp_path / "l/meta/recording.json").unlink()
    table = tmp_path / "l/meta/episodes/chunk-000/file-000.parquet"
    rows = parquet.read_table(table)
    for name, values in {"chunk_index": [0, 0], "file_index": [0, 0], "from_timestamp": [0.0, 0.5]}.items():
        rows = rows.append_column(f"videos/observation.images.top/{name}", arrow.array(values))
    parquet.write_table(rows, table)
    frames = np.random.default_rng(0).integers(0, 256, (5 + 8, 16, 24, 3), np.uint8)
    place = tmp_path / "l/videos/observation.images.top/chunk-000"
    place.mkdir(parents=True)
    write_video(place / "file-000.mkv", frames)
    data = opened(tmp_path / "l")
    assert list(data.facts.observation_space) == ["images.top", "state"]
    for episode, first in ((1, 5), (0, 0)):
        steps = whole(data, episode)
        np.testing.assert_array_equal(steps.obs["images.top"], frames[first : first + len(steps.reward) + 1])
        np.testing.assert_array_equal(steps.obs["state"], source.all[episode].obs["vector"])


# ---- other libraries' own loaders ----


def test_minari_reads_what_is_written(tmp_path):
    minari = pytest.importorskip("minari")
    source = made(image=True, vector=False, action=DISCRETE)
    REGISTRY.get("dataset", "minari").load()().write(source, tmp_path / "m")
    loaded = minari.MinariDataset(tmp_path / "m" / "data")
    assert loaded.total_episodes == 3 and loaded.spec.env_spec.id == "Pendulum-v1"
    for episode, steps in zip(loaded.iterate_episodes(), source.all, strict=True):
        np.testing.assert_array_equal(episode.observations, steps.obs["image"])
        np.testing.assert_array_equal(episode.actions, steps.action)
        np.testing.assert_array_equal(episode.rewards, steps.reward)


def test_minari_data_made_by_minari_is_read_by_path_and_by_id(tmp_path, monkeypatch):
    minari = pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    source = made((5, 3), ends="tc")
    buffers = [
        minari.data_collector.EpisodeBuffer(
            observations=steps.obs["vector"],
            actions=steps.action,
            rewards=steps.reward,
            terminations=np.arange(e.length) == (e.length - 1 if e.terminated else -1),
            truncations=np.arange(e.length) == (e.length - 1 if e.truncated else -1),
            infos={},
        )
        for e, steps in zip(source.episodes, source.all, strict=True)
    ]
    space, action = source.facts.observation_space["vector"], source.facts.action_space
    minari.create_dataset_from_buffers(
        "made/test-v0", buffers, env="Pendulum-v1", observation_space=space, action_space=action
    )
    assert_same(opened(tmp_path / "made" / "test-v0"), source)
    assert_same(opened("minari:made/test-v0"), source)
    with pytest.raises(ConfigError, match="no Minari data set 'made/other-v0'"):
        opened("minari:made/other-v0")


def test_lerobot_reads_what_is_written(tmp_path):
    datasets = pytest.importorskip("lerobot.datasets.lerobot_dataset")
    source = made((4, 7), image=True)
    REGISTRY.get("dataset", "lerobot").load()().write(source, tmp_path / "l")
    loaded = datasets.LeRobotDataset("made/test", root=tmp_path / "l")
    assert loaded.num_episodes == 2 and loaded.num_frames == 4 + 7 + 2
    row = loaded[6]
    np.testing.assert_array_equal(row["observation.state"], source.all[1].obs["vector"][1])
    np.testing.assert_array_equal(row["action"], source.all[1].action[1])
    image = (row["observation.images.image"].permute(1, 2, 0) * 255).round().byte().numpy()
    np.testing.assert_array_equal(image, source.all[1].obs["image"][1])
