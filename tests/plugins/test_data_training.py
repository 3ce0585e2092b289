"""Every format trains a model by one command, with an encoder that reconstructs and with one that contrasts."""

from __future__ import annotations

import json

import numpy as np
import pytest
from data_kit import BOX, made, write_video

from worldlab import cli
from worldlab.registry import load_registry

NEEDS = {"minari": ["minari", "h5py"], "hdf5": ["h5py"], "npz": [], "video": ["av"], "lerobot": ["pyarrow"], "run": []}
FLAGS = (
    "--offline --env none --preset debug --size nano --steps 20 --train.pretrain 1 --train.ratio 0.1 --train.batch-size 2 "
    "--train.batch-length 8 --train.starts 4 --eval.every 0 --log.pictures 0 --track none --device cpu"
)


def write(format, path):
    """Write twelve episodes of thirty decisions in a format."""
    if format != "video":
        load_registry().get("dataset", format).load()().write(made((30,) * 12, action=BOX, ends="c", env_id=""), path)
        return
    path.mkdir()
    frames = np.random.default_rng(0).integers(0, 256, (12, 31, 16, 16, 3), np.uint8)
    rows = ["video,action,reward,terminated"]
    for episode in range(12):
        write_video(path / f"{episode}.mkv", frames[episode])
        rows += [f"{episode}.mkv,{step % 3},{step}.5,0" for step in range(30)]
    (path / "actions.csv").write_text("\n".join(rows) + "\n")


@pytest.mark.parametrize("encoder", ["vae", "cpc"])
@pytest.mark.parametrize("format", NEEDS)
def test_a_format_trains_by_one_command(format, encoder, tmp_path):
    for package in NEEDS[format]:
        pytest.importorskip(package)
    data = tmp_path / ("made.hdf5" if format == "hdf5" else "made")
    write(format, data)
    run = tmp_path / "run"
    assert cli.main(["train", "--data", str(data), "--encoder", encoder, "--run", str(run), *FLAGS.split()]) == 0
    result = json.loads((run / "result.json").read_text())
    assert result["offline_steps"] == 20 and result["updates"] >= 2
    assert np.isfinite(list(result["held_out"]["losses"].values())).all()
    recorded = json.loads((run / "run.json").read_text())["data"]
    assert len(recorded["held_out"]) == 1 and recorded["decisions"] == 11 * 30
