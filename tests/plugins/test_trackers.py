"""The trackers that ship with worldlab: what they write is read back by the libraries themselves; none needs a network."""

from __future__ import annotations

import csv
import json
import math
import os
import struct
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from worldlab.errors import PluginError
from worldlab.registry import Registry, load_registry
from worldlab.registry.entries import Registration
from worldlab.runs import storage
from worldlab.runs.tracking import TrackedRun
from worldlab.testing import check_component
from worldlab.training.trackers import make_trackers

SETTINGS = {"train.batch_size": 16, "env.id": "CartPole-v1", "strict": True}
FRAMES = np.random.default_rng(0).integers(0, 256, (4, 8, 12, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def registry():
    return load_registry()


@pytest.fixture
def run(tmp_path):
    return TrackedRun(tmp_path, "a", "0123456789abcdef", "CartPole-v1", SETTINGS)


def track(registry, name, run):
    tracker = make_trackers([name], registry)[name]
    tracker.start(run)
    return tracker


# ---- choosing ----


def test_the_four_are_registered_and_none_is_no_tracker(registry):
    assert registry.names("tracker") == ("csv", "tensorboard", "trackio", "wandb")
    assert list(make_trackers(["csv", "none", "csv"], registry)) == ["csv"] and make_trackers(["none"], registry) == {}


def test_a_name_that_is_not_registered_is_an_error_before_anything_runs(registry):
    with pytest.raises(PluginError, match=r"no tracker named 'tensorbord'\. Did you mean 'tensorboard'"):
        make_trackers(["tensorbord"], registry)


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_missing_package_is_named_with_the_command_that_installs_it(registry, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(PluginError, match=f"needs the package '{name}'") as caught:
        make_trackers([name], registry)
    assert caught.value.fix == f'pip install "worldlab[{name}]"'


class Incomplete:
    def start(self, run): ...


class Raises:
    def __init__(self):
        raise ValueError("no good")


@pytest.mark.parametrize(
    ("target", "message"), [("Incomplete", "is no tracker"), ("Raises", "cannot be built: ValueError: no good")]
)
def test_what_is_no_tracker_is_refused(target, message):
    entry = Registration("tracker", "mine", f"{__name__}:{target}", None, "x", 1, "dist", "1", "test")
    module = ModuleType(__name__)
    vars(module).update(Incomplete=Incomplete, Raises=Raises)
    sys.modules.setdefault(__name__, module)
    with pytest.raises(PluginError, match=message) as caught:
        make_trackers(["mine"], Registry([entry]))
    assert caught.value.cause and caught.value.fix


# ---- TensorBoard ----


def load_events(path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(path / "tb"), size_guidance={"scalars": 0, "images": 0}).Reload()


def test_tensorboard_reads_scalars_pictures_and_settings(registry, run, tmp_path):
    tracker = track(registry, "tensorboard", run)
    tracker.scalars(3, {"loss/a": 0.5, "perf/fps": 7.0})
    tracker.pictures(3, "dream", FRAMES, 10)
    tracker.pictures(3, "one", FRAMES[0], 10)
    tracker.flush()
    tracker.close()
    events = load_events(tmp_path)
    assert set(events.Tags()["scalars"]) == {"loss/a", "perf/fps"}
    assert [(e.step, e.value) for e in events.Scalars("loss/a")] == [(3, 0.5)]
    image = events.Images("dream")[0]
    assert (image.width, image.height) == (12, 8) and image.encoded_image_string[:6] == b"GIF89a"
    (tmp_path / "one.png").write_bytes(events.Images("one")[0].encoded_image_string)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "one.png")), FRAMES[0])
    from tensorboard.plugins.hparams import plugin_data_pb2

    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    settings = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert settings["train.batch_size"].number_value == 16 and settings["env.id"].string_value == "CartPole-v1"
    assert settings["strict"].bool_value is True


def test_tensorboard_drops_points_that_a_resumed_run_repeats(registry, run, tmp_path):
    first = track(registry, "tensorboard", run)
    for step in (1, 2, 3, 4):
        first.scalars(step, {"a": 1.0})
    first.close()
    second = track(registry, "tensorboard", replace(run, step=2, resumed=True))
    second.scalars(3, {"a": 2.0})
    second.close()
    assert [(e.step, e.value) for e in load_events(tmp_path).Scalars("a")] == [(1, 1.0), (2, 1.0), (3, 2.0)]


# ---- CSV ----


def rows(path):
    with (path / "metrics.csv").open(newline="") as file:
        return [(int(row["step"]), row["name"], float(row["value"])) for row in csv.DictReader(file)]


def test_csv_holds_every_value_exactly(registry, run, tmp_path):
    tracker = track(registry, "csv", run)
    tracker.scalars(1, {"b": 1 / 3, 'odd, "name"': 2.0})
    tracker.pictures(1, "dream", FRAMES, 10)
    tracker.flush()
    assert rows(tmp_path) == [(1, "b", 1 / 3), (1, 'odd, "name"', 2.0)]  # before it is closed
    tracker.close()


def test_csv_goes_on_where_a_run_goes_on(registry, run, tmp_path):
    first = track(registry, "csv", run)
    for step in (1, 2, 3):
        first.scalars(step, {"a": float(step), "b": math.pi})
    first.close()
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("4,a,1")  # killed while it wrote
    second = track(registry, "csv", replace(run, step=2, resumed=True))
    second.scalars(3, {"a": 30.0})
    second.close()
    assert rows(tmp_path) == [(1, "a", 1.0), (1, "b", math.pi), (2, "a", 2.0), (2, "b", math.pi), (3, "a", 30.0)]


# ---- Weights & Biases ----


@pytest.fixture
def wandb(monkeypatch, tmp_path):
    module = pytest.importorskip("wandb")
    for name in ("CACHE_DIR", "CONFIG_DIR", "DATA_DIR"):
        monkeypatch.setenv(f"WANDB_{name}", str(tmp_path / "own"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    yield module
    module.teardown()


def records(path: Path):
    """The records of an offline run: after a header of 7 bytes, a log in LevelDB's format, blocks of 32 KB."""
    from wandb.proto import wandb_internal_pb2

    (file,) = path.glob("*.wandb")
    data, at, whole = file.read_bytes(), 7, b""
    while at < len(data):
        if 32768 - at % 32768 < 7:  # no room for the header of a piece
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last piece of one
            yield wandb_internal_pb2.Record.FromString(whole)
            whole = b""


def points(path: Path):
    found = []
    for record in records(path):
        if record.WhichOneof("record_type") == "history":
            items = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            found.append({name: value for name, value in items.items() if not name.startswith("_")})
    return found


def test_wandb_writes_offline_and_continues_by_the_same_id(wandb, registry, run, tmp_path):
    first = track(registry, "wandb", run)
    first.scalars(250, {"loss/a": 0.5})
    first.pictures(250, "dream", FRAMES, 10)
    first.close()
    second = track(registry, "wandb", replace(run, step=100, resumed=True))
    second.scalars(200, {"loss/a": 0.25})  # earlier than what is there: a repeated step
    second.close()
    wandb.teardown()  # its process writes the files
    folders = sorted((tmp_path / "wandb").glob("offline-run-*"))
    assert len(folders) == 2 and all(run.id in folder.name for folder in folders)
    shown = [point for folder in folders for point in points(folder)]
    assert {"loss/a": 0.5, "step": 250} in shown and {"loss/a": 0.25, "step": 200} in shown
    (picture,) = [point["dream.path"] for point in shown if "dream.path" in point]
    assert (folders[0] / "files" / picture).read_bytes()[:6] == b"GIF89a"
    (started,) = [record.run for record in records(folders[0]) if record.WhichOneof("record_type") == "run"]
    config = {item.key: json.loads(item.value_json) for item in started.config.update}
    assert started.project == "worldlab" and started.run_id == run.id and config["train.batch_size"] == 16
    storage.refuse_links(tmp_path)  # else the run could not be resumed


def test_wandb_without_a_key_does_not_stop_to_ask_for_one(wandb, registry, monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(PluginError, match="has no key") as caught:
        make_trackers(["wandb"], registry)
    assert "WANDB_MODE=offline" in str(caught.value.fix)


# ---- trackio ----


@pytest.fixture(scope="module")
def trackio(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trackio")
    before = os.environ.get("TRACKIO_DIR")
    os.environ["TRACKIO_DIR"] = str(folder)  # read when trackio is imported
    try:
        yield pytest.importorskip("trackio"), folder
    finally:
        os.environ.pop("TRACKIO_DIR")
        if before is not None:
            os.environ["TRACKIO_DIR"] = before


def test_trackio_writes_to_its_folder_and_continues_the_same_run(trackio, registry, run):
    _, folder = trackio
    first = track(registry, "trackio", run)
    first.scalars(250, {"loss/a": 0.5})
    first.pictures(250, "dream", FRAMES, 10)
    first.close()
    second = track(registry, "trackio", replace(run, step=250, resumed=True))
    second.scalars(500, {"loss/a": 0.25})
    second.close()
    from trackio.sqlite_storage import SQLiteStorage

    assert SQLiteStorage.get_runs("worldlab") == ["a-01234567"]
    logs = SQLiteStorage.get_logs("worldlab", "a-01234567")
    assert [(row["step"], row["loss/a"]) for row in logs if "loss/a" in row] == [(250, 0.5), (500, 0.25)]
    (file,) = folder.rglob("*.png")
    assert Image.open(file).size == (4 * 12, 8)


# ---- the checks ----


def failures(name):
    return [
        (result.check, result.cause)
        for result in check_component(load_registry().get("tracker", name))
        if not result.passed
    ]


def test_wandb_passes_the_checks_of_trackers(wandb):
    assert failures("wandb") == []


def test_trackio_passes_the_checks_of_trackers(trackio):
    assert failures("trackio") == []
