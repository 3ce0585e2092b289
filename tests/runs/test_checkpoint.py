"""worldlab.runs.checkpoint: exact round trips, damage always detected, the newest valid one used."""

from __future__ import annotations

import io
import itertools
import json
import pickle
import random
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from worldlab.errors import CheckpointError, DivergedError, StorageError
from worldlab.runs import digests, storage
from worldlab.runs.checkpoint import latest_valid, list_checkpoints, open_checkpoint, prune, save_checkpoint


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run" / "checkpoints"


def save(folder, step, value=1.0, **extra):
    return save_checkpoint(folder, step, {"model": {"w": torch.full((2, 3), value)}}, {"step": step}, extra)


def remake_manifest(path, **changes):
    """Forge a manifest that has consistent hashes but was not written by worldlab."""
    manifest = json.loads((path / "manifest.json").read_bytes()) | changes
    for name in manifest["files"]:
        digest = storage.sha256_file(path / name)
        manifest["files"][name] = {"bytes": digest.bytes, "sha256": digest.sha256}
    manifest["self_sha256"] = digests.self_digest(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))


def test_round_trip_is_exact_for_every_kind_of_tensor(folder):
    generator = torch.Generator().manual_seed(3)
    base = torch.randn(4, 6, generator=generator)
    tied = torch.nn.Parameter(torch.randn(3))
    group = {
        "view": base.T[1:4],
        "overlap": base[:, 2:],
        "base": base,
        "expanded": torch.ones(1, 3).expand(5, 3),
        "half": torch.randn(3).bfloat16(),
        "scalar": torch.tensor(7),
        "empty": torch.zeros(0, 2),
        "empty2": torch.zeros(0, 2),
        "flags": torch.tensor([True, False]),
        "rng": generator.get_state(),
        "in": tied,
        "out": tied,
    }
    path = save_checkpoint(folder, 12, {"model": group}, {"a": [1, None, "é"]}, {"config_sha256": "c"})
    loaded = latest_valid(folder)
    assert (path.name, loaded.step, loaded.names) == ("step-000000012", 12, ("model",))
    tensors = loaded.tensors("model")
    assert tensors.keys() == group.keys()
    for name, value in group.items():
        assert tensors[name].dtype == value.dtype and torch.equal(tensors[name], value), name
    assert tensors["in"].data_ptr() == tensors["out"].data_ptr()
    assert len(load_file(path / "model.safetensors")) == len(group) - 1
    assert loaded.state == {"a": [1, None, "é"]} and loaded.manifest["config_sha256"] == "c"
    assert sorted(p.name for p in path.iterdir()) == ["manifest.json", "model.safetensors", "state.json"]
    assert [p.name for p in folder.iterdir()] == [path.name]


def test_files_are_the_same_bytes_whenever_and_in_whatever_order(tmp_path):
    a, b = torch.randn(2), torch.randn(3)
    one = save_checkpoint(tmp_path / "1", 5, {"model": {"a": a, "b": b}}, {"x": 1, "y": 2})
    two = save_checkpoint(tmp_path / "2", 5, {"model": {"b": b, "a": a}}, {"y": 2, "x": 1})
    for file in one.iterdir():
        assert file.read_bytes() == (two / file.name).read_bytes()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_non_finite_tensor_is_named_and_nothing_is_written(folder, bad):
    save(folder, 1)
    with pytest.raises(DivergedError, match=r"optimizer tensor '3.exp_avg' is not finite") as caught:
        save_checkpoint(folder, 2, {"model": {"w": torch.ones(1)}, "optimizer": {"3.exp_avg": torch.tensor([bad])}}, {})
    assert caught.value.exit_code == 5
    assert [p.name for p in folder.iterdir()] == ["step-000000001"]


def test_steps_sort_as_integers_and_retention_keeps_the_newest(folder):
    for step in (999_999_999, 5, 10_000_000_000, 40):
        save(folder, step)
    (folder / "step-x").mkdir()
    assert [step for step, _ in list_checkpoints(folder)] == [5, 40, 999_999_999, 10_000_000_000]
    assert [p.name for p in prune(folder, 2)] == ["step-000000005", "step-000000040"]
    assert prune(folder, 2) == []
    assert latest_valid(folder).step == 10_000_000_000


def test_a_second_save_at_a_step_is_the_newest_and_replaces_nothing(folder):
    path = save(folder, 3)
    assert save(folder, 3) == path
    again = save(folder, 3, value=2.0)
    assert again.name == "step-000000003.2" and open_checkpoint(path).step == 3 == open_checkpoint(again).step
    assert latest_valid(folder).path == again == save(folder, 3, value=2.0)
    assert prune(folder, 1) == [path]
    third = save(folder, 3)  # the place of a pruned one would be an older one's
    assert third.name == "step-000000003.3" and latest_valid(folder).path == third
    assert [step for step, _ in list_checkpoints(folder)] == [3, 3]


def test_every_kind_of_damage_is_found_and_the_older_one_used(tmp_path):
    """Bit flips at random places, truncations, growth, deletions and swaps are detected, 120 of 120."""
    chance = random.Random(0)
    good = save(tmp_path / "c", 1)
    path = save(tmp_path / "c", 2, value=2.0)
    files = {file.name: file.read_bytes() for file in path.iterdir()}
    for trial, name in itertools.product(range(40), sorted(files)):
        data = bytearray(files[name])
        position = chance.randrange(len(data))
        if trial % 4 == 0:
            del data[position:]
        elif trial % 4 == 1:
            data += b"x"
        else:
            data[position] ^= 1 << chance.randrange(8)
        (path / name).write_bytes(data)
        found = latest_valid(tmp_path / "c", move=False)
        assert found.path == good and "; using step-1" in found.skipped[0], (trial, name)
        (path / name).write_bytes(files[name])
    for name in files:
        (path / name).unlink()
        assert latest_valid(tmp_path / "c", move=False).path == good
        (path / name).write_bytes(files[name])
    assert latest_valid(tmp_path / "c").path == path


def test_damage_is_reported_and_quarantined_not_deleted(folder):
    save(folder, 11000)
    path = save(folder, 12000)
    data = bytearray((path / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (path / "model.safetensors").write_bytes(data)
    found = latest_valid(folder)
    assert found.step == 11000
    assert found.skipped == (
        "checkpoint step-12000: model.safetensors hash differs — moved to quarantine; using step-11000",
    )
    assert (folder / "quarantine" / path.name / "model.safetensors").read_bytes() == data
    assert latest_valid(folder).skipped == ()


def test_nothing_usable_is_an_error_with_reasons(folder):
    with pytest.raises(CheckpointError, match="no checkpoint in 'run'"):
        latest_valid(folder)
    path = save(folder, 1)
    (path / "state.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"checkpoint step-1: state\.json size differs") as caught:
        latest_valid(folder)
    assert caught.value.exit_code == 7 and "none is usable" in (caught.value.cause or "")


def test_a_change_after_opening_is_detected(folder):
    path = save(folder, 1)
    opened = open_checkpoint(path)
    data = bytearray((path / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (path / "model.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match="hash differs"):
        opened.tensors("model")
    with pytest.raises(CheckpointError, match=r"holds no 'agent'. It holds: model"):
        opened.tensors("agent")


def test_a_newer_format_is_reported_and_never_quarantined(folder):
    save(folder, 1)
    path = save(folder, 2)
    remake_manifest(path, format_version=3, created_by={"worldlab": "1.4"})
    with pytest.raises(CheckpointError) as caught:
        latest_valid(folder)
    assert caught.value.message.startswith("checkpoint made by worldlab 1.4 (format 3); this is ")
    assert caught.value.fix == "pip install -U worldlab" and path.exists()


class Bomb:
    def __reduce__(self):
        return (exec, ("raise SystemExit('unpickled')",))


def torch_zip():
    buffer = io.BytesIO()
    torch.save({"w": Bomb()}, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("data", [torch_zip(), *(pickle.dumps(Bomb(), p) for p in (2, 5)), b"garbage", b""])
def test_a_pickle_in_disguise_is_never_loaded(folder, data):
    path = save(folder, 1)
    (path / "model.safetensors").write_bytes(data)
    remake_manifest(path)
    with pytest.raises(CheckpointError) as caught:
        latest_valid(folder)
    if data[:1] in (b"P", b"\x80"):
        expected = "model.safetensors is a pickle file; loading it can run code. worldlab never loads it."
        assert caught.value.message == expected


@pytest.mark.parametrize("name", ["model.pt", "agent.zip", "x.ckpt"])
def test_a_pickle_by_name_is_rejected_as_file_and_as_member(folder, tmp_path, name):
    (tmp_path / name).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError, match="is a pickle file; loading it can run code"):
        open_checkpoint(tmp_path / name)
    path = save(folder, 1)
    (path / name).write_bytes(pickle.dumps(Bomb()))
    manifest = json.loads((path / "manifest.json").read_text())
    remake_manifest(path, files=manifest["files"] | {name: {}})
    with pytest.raises(CheckpointError, match="is a pickle file"):
        open_checkpoint(path)


def test_a_forged_manifest_reaches_no_other_file(folder, tmp_path):
    path = save(folder, 1)
    (tmp_path / "secret.safetensors").write_bytes((path / "model.safetensors").read_bytes())
    files = json.loads((path / "manifest.json").read_text())["files"]
    for name in ("../../../secret.safetensors", str(tmp_path / "secret.safetensors")):
        remake_manifest(path, files=files | {name: {}})
        with pytest.raises(CheckpointError, match="lists a forbidden file"):
            open_checkpoint(path)
    remake_manifest(path, files=files, step=2)
    with pytest.raises(CheckpointError, match="not well formed"):
        open_checkpoint(path)
    remake_manifest(path, files=files, step=1)
    (path / "model.safetensors").unlink()
    (path / "model.safetensors").symlink_to(tmp_path / "secret.safetensors")
    with pytest.raises(CheckpointError, match=r"model.safetensors"):
        open_checkpoint(path)


@pytest.mark.parametrize("tied", [[], {"model": []}, {"model": {"b": ["w"]}}, {"model": {"b": "gone"}}, None, 1])
def test_tied_tensors_of_another_form_are_damage(folder, tied):
    path = save(folder, 1)
    remake_manifest(path, tied=tied)
    with pytest.raises(CheckpointError, match=r"manifest.json (is not well formed|ties 'b' to a tensor)"):
        open_checkpoint(path).tensors("model")


def test_a_failed_save_leaves_the_earlier_checkpoint_only(folder, monkeypatch):
    save(folder, 1)
    real, calls = storage.os.fsync, []

    def failing(limit):
        def fsync(descriptor):
            calls.append(descriptor)
            if len(calls) == limit:
                raise OSError(28, "No space left on device")
            real(descriptor)

        return fsync

    for limit in range(1, 5):
        calls.clear()
        monkeypatch.setattr(storage.os, "fsync", failing(limit))
        with pytest.raises(StorageError, match="disk full"):
            save(folder, 2)
        monkeypatch.undo()
        assert [p.name for p in folder.iterdir()] == ["step-000000001"]
    assert save(folder, 2).exists()


def test_listing_and_opening_need_no_torch(folder):
    save(folder, 4)
    code = "import sys; from worldlab.runs.checkpoint import latest_valid; c = latest_valid(sys.argv[1]); c.state; "
    code += "assert c.step == 4 and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True)
