"""Measuring a run folder: every quantity has a value or a reason, and repeats exactly."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from safetensors import safe_open

import worldlab
from worldlab.errors import ConfigError, StorageError
from worldlab.registry import load_registry
from worldlab.study.measures import QUICK, catalogue, measure
from worldlab.study.measures.catalogue import MeasureGroup
from worldlab.study.measures.measuring import measure_group
from worldlab.study.measures.undefined import Undefined
from worldlab.study.results import Measurement, Quantity

SIZES = replace(
    QUICK,
    episodes=10,
    length=30,
    probe_epochs=3,
    supervised_updates=25,
    frames=4,
    images=8,
    outcomes=10,
    gap_episodes=2,
    gap_horizon=3,
    seconds=0.01,
)
TINY = {
    "device": "cpu",
    "env.distractors": 0.4,
    "train.prefill": 40,
    "train.pretrain": 2,
    "train.ratio": 0.05,
    "train.batch_size": 2,
    "train.batch_length": 8,
    "eval.final_episodes": 1,
    "log.pictures": 0,
    "log.track": ["none"],
    "decoder.likelihood": "learned",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    parts = {role: "vae" for role in ("encoder", "dynamics", "decoder")}
    worldlab.train("branch", **parts, preset="debug", settings=TINY, steps=50, run=folder)
    return folder


@pytest.mark.slow
def test_measuring_a_run_repeats_exactly(run, tmp_path):
    registry = load_registry()
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    one = measure(run, registry, sizes=SIZES, cache=tmp_path)
    assert list(one) == [quantity.name for quantity in catalogue()]
    assert all((found.value is None) == bool(found.why) for found in one.values())
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    missing = {name.partition("/")[0] for name, found in one.items() if found.value is None}
    # The model is hardly trained (no scale), distractors hide the cells, and there are too few draws and too short
    # episodes for some quantities.
    assert missing <= {"probe", "coverage", "calls", "speed", "bits", "diversity", "sharpness"}
    assert one["sharpness/kid_posterior"].value is not None

    again = measure(run, registry, sizes=SIZES, cache=tmp_path)
    timeless = {name for name in one if not name.startswith("speed/")}
    assert {name: one[name] for name in timeless} == {name: again[name] for name in timeless}
    assert sorted(path.name.partition("-")[0] for path in tmp_path.iterdir()) == [
        "recording",
        "supervised",
        "supervised",
    ]
    with safe_open(next(tmp_path.glob("recording-*")), "numpy") as file:
        header = file.metadata()
    request = json.loads(header["asked"])
    assert (request["env"]["id"], request["env"]["distractors"], request["seed"]) == ("worldlab/Branch-v0", 0.4, 0)
    assert len(header["sha256"]) == 64 and "workers" not in request["env"]

    alone = measure(run, registry, sizes=SIZES, names=["latent/kl", "gap"])
    assert alone == {name: one[name] for name in one if name == "latent/kl" or name.startswith("gap/")}
    other = measure(run, registry, seed=1, sizes=SIZES, names=["latent"])
    assert other["latent/kl"] != one["latent/kl"] and other["latent/dims"] == one["latent/dims"]


@pytest.mark.slow
def test_a_reference_run_plays_half_of_the_episodes(run, tmp_path):
    registry, names = load_registry(), ["latent/kl"]
    measure(run, registry, sizes=SIZES, names=names, cache=tmp_path)
    measure(run, registry, sizes=SIZES, names=names, cache=tmp_path, reference=run)
    assert len(list(tmp_path.iterdir())) == 2
    elsewhere = tmp_path / "other"
    worldlab.train("branch", preset="debug", settings={**TINY, "env.size": 32}, steps=50, run=elsewhere, agent="random")
    with pytest.raises(ConfigError, match="other observations") as caught:
        measure(run, registry, sizes=SIZES, names=names, reference=elsewhere)
    assert len(caught.value.message) <= 100
    with pytest.raises(ConfigError, match="no quantity"):
        measure(run, registry, names=["nonsense"])


def make_group(found):
    quantities = tuple(Quantity(f"toy/{name}", name, "", None, "by hand") for name in ("a", "b"))

    class Toy(MeasureGroup):
        def load(self):
            return found

    return Toy("toy", quantities)


def raises(error):
    def measured(subject):
        raise error

    return measured


def test_undefined_groups_carry_their_reason_and_other_errors_propagate():
    for error in (Undefined("no state"), ConfigError("no state", fix="none")):
        found = measure_group(make_group(raises(error)), None)  # type: ignore[arg-type]
        assert found == {name: Measurement(None, why="no state") for name in ("toy/a", "toy/b")}
    with pytest.raises(StorageError):
        measure_group(make_group(raises(StorageError("no room", fix="make some"))), None)  # type: ignore[arg-type]
    with pytest.raises(ZeroDivisionError):
        measure_group(make_group(raises(ZeroDivisionError())), None)  # type: ignore[arg-type]
    with pytest.raises(AssertionError, match="toy/b"):
        measure_group(make_group(lambda subject: {"toy/a": Measurement(1.0)}), None)  # type: ignore[arg-type]
