"""worldlab.runs.monitor_csv against Stable-Baselines3's own writer and reader."""

from __future__ import annotations

import csv
import json

import pytest

from worldlab.errors import StorageError
from worldlab.runs.monitor_csv import MonitorCsv


def test_the_file_has_the_shape_of_sb3s_own(tmp_path):
    from stable_baselines3.common.monitor import ResultsWriter, get_monitor_files

    (tmp_path / "sb3").mkdir()
    theirs = ResultsWriter(str(tmp_path / "sb3"), header={"t_start": 1.0, "env_id": "CartPole-v1"})
    theirs.write_row({"r": 21.5, "l": 21, "t": 0.25})
    theirs.close()
    monitor = MonitorCsv(tmp_path / "monitor.csv", "CartPole-v1")
    monitor.episode(21.5, 21)
    monitor.close()
    ours = (tmp_path / "monitor.csv").read_text().splitlines()
    other = (tmp_path / "sb3" / "monitor.csv").read_text().splitlines()
    assert json.loads(ours[0][1:]).keys() == json.loads(other[0][1:]).keys() and ours[0][0] == "#"
    assert ours[1] == other[1] and ours[2].split(",")[:2] == other[2].split(",")[:2]
    assert get_monitor_files(str(tmp_path)) == [str(tmp_path / "monitor.csv")]


def test_sb3_reads_it(tmp_path):
    pytest.importorskip("pandas")
    from stable_baselines3.common.monitor import load_results

    monitor = MonitorCsv(tmp_path / "monitor.csv", "CartPole-v1")
    for k in range(3):
        monitor.episode(k + 0.5, k)
    monitor.close()
    frame = load_results(str(tmp_path))
    assert frame["r"].tolist() == [0.5, 1.5, 2.5] and frame["l"].tolist() == [0, 1, 2]


def test_a_resumed_file_keeps_its_start_and_the_checkpoints_rows(tmp_path):
    path = tmp_path / "monitor.csv"
    monitor = MonitorCsv(path, "X-v0")
    for k in range(4):
        monitor.episode(k, 10)
    monitor.close()
    header = path.read_text().splitlines()[0]
    path.write_text(path.read_text() + "9.0,1")  # torn: the process died here
    monitor = MonitorCsv(path, "X-v0", rows=2)
    assert monitor.episodes == 2
    monitor.episode(-1.25, 7)
    monitor.close()
    lines = path.read_text().splitlines()
    rows = list(csv.DictReader(lines[1:]))
    assert lines[0] == header and [row["r"] for row in rows] == ["0.0", "1.0", "-1.25"]
    assert 0 <= float(rows[-1]["t"]) < 60


def test_a_file_of_another_format_is_rejected(tmp_path):
    (tmp_path / "monitor.csv").write_text("a,b\n1,2\n")
    with pytest.raises(StorageError, match="does not start"):
        MonitorCsv(tmp_path / "monitor.csv", "X-v0")
