"""worldlab verify: everything that is damaged is listed, nothing else is, and nothing is written."""

from __future__ import annotations

import json
import os
import shutil

import pytest
from run_folder_kit import make_cell, make_run

from worldlab.cli import main
from worldlab.runs.checkpoint import list_checkpoints


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = make_run(tmp_path / "runs" / "a").path
    make_cell(folder)
    return folder


def verify(capsys, *arguments):
    code = main(["verify", *map(str, arguments), "--json"])
    result = json.loads(capsys.readouterr().out)
    assert code == (7 if result["damaged"] else 0)
    return [row["damaged"] for row in result["runs"]], [row["uncovered"] for row in result["runs"]]


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def state_of(folder):
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")}


def test_an_intact_run_is_intact_by_path_name_and_folder(run, capsys):
    before = state_of(run.parent)
    for text in (run, "a", "latest", "runs", "."):
        assert verify(capsys, text) == ([[]], [[]])
    assert main(["verify", "a"]) == 0 and "intact" in capsys.readouterr().out
    assert state_of(run.parent) == before


def test_each_fault_is_named_once(run, capsys):
    newest = list_checkpoints(run / "checkpoints")[-1][1]
    segment = sorted((run / "replay").glob("seg-000-*"))[0]
    faults = {
        "config.toml is not as worldlab wrote it": lambda: flip(run / "config.toml", 30),
        "run.json is not as worldlab wrote it": lambda: flip(run / "run.json", 30),
        "result.json is missing": lambda: (run / "result.json").unlink(),
        "metrics.jsonl is not as worldlab wrote it": lambda: flip(run / "metrics.jsonl", 30),
        "perf.jsonl cannot be read: perf.jsonl line 1 is damaged": lambda: flip(run / "perf.jsonl", 0),
        "cell.json is damaged": lambda: flip(run / "cell.json", 60),
        "checkpoint step-200: model.safetensors hash differs": lambda: flip(newest / "model.safetensors", -3),
        "replay/seg-000-00000000.log: its header is damaged": lambda: flip(segment, 9),
        "replay/seg-001-00000000.log: 1 damaged records, the first is record 2": lambda: flip(
            run / "replay" / "seg-001-00000000.log", _record(run / "replay" / "seg-001-00000000.log", 2) + 9
        ),
    }
    for wanted, damage in faults.items():
        shutil.copytree(run, run.parent / "kept")
        damage()
        (found,), _ = verify(capsys, run)
        shutil.rmtree(run)
        (run.parent / "kept").rename(run)
        matching = [sentence for sentence in found if sentence.startswith(wanted)]
        assert len(matching) == 1, (wanted, found)
        others = [sentence for sentence in found if sentence not in matching]
        assert all("needs records" in sentence for sentence in others), found


def _record(segment, number):
    header = 36 + int.from_bytes(segment.read_bytes()[28:32], "little")
    length = int.from_bytes(segment.read_bytes()[header : header + 4], "little")
    return header + number * (8 + length)


def test_records_that_a_checkpoint_needs_are_missed_and_a_torn_one_is_not(run, capsys):
    segment = sorted((run / "replay").glob("seg-000-*"))[-1]
    with segment.open("ab") as file:
        file.write(b"\x10\0\0")  # a killed process leaves the beginning of a record
    assert verify(capsys, run) == ([[]], [[]])
    os.truncate(segment, segment.stat().st_size - 10)
    (found,), _ = verify(capsys, run)
    assert found == ["checkpoint step-200 needs records 99 to 100 of stream 0, which are missing"]


def test_a_segment_that_is_gone_is_missed(run, capsys):
    segments = sorted((run / "replay").glob("seg-000-*"))
    segments[1].unlink()
    (found,), _ = verify(capsys, run)
    assert found == [
        f"checkpoint step-{step} needs records 25 to 50 of stream 0, which are missing" for step in (100, 200)
    ]


def test_a_run_of_an_earlier_version_is_not_covered_and_not_damaged(run, capsys):
    (run / "digests.json").unlink()
    content = json.loads((run / "cell.json").read_text())
    del content["self_sha256"]
    (run / "cell.json").write_text(json.dumps(content))
    _, uncovered = verify(capsys, run)
    assert uncovered == [["cell.json", "config.toml", "run.json", "result.json", "metrics.jsonl"]]
    assert main(["verify", str(run)]) == 0
    assert "not covered by a digest: cell.json, config.toml" in capsys.readouterr().out


def test_a_folder_of_runs_is_verified_run_by_run(run, capsys):
    shutil.copytree(run, run.parent / "b")
    make_cell(run.parent / "compared" / "cells" / "one")
    flip(run.parent / "b" / "run.json", 5)
    damaged, _ = verify(capsys, "runs")
    assert [len(found) for found in damaged] == [0, 1, 0]
    assert main(["verify", "runs"]) == 7 and "1 of 3 folders are damaged" in capsys.readouterr().out


def test_hostile_folders_are_reported_without_waiting(run, capsys):
    for name in ("config.toml", "run.json", "result.json", "metrics.jsonl", "digests.json"):
        (run / name).unlink()
        os.mkfifo(run / name)
    os.mkfifo(run / "replay" / "seg-000-00000009.log")
    (found,), _ = verify(capsys, run)
    assert {sentence.split()[0] for sentence in found} >= {"digests.json", "config.toml", "run.json", "result.json"}


def test_nothing_to_verify_is_an_error(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert main(["verify", "empty"]) == 2 and "no run in 'empty'" in capsys.readouterr().err
    assert main(["verify", "nowhere"]) == 2
