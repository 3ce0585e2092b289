"""worldlab.runs.digests: no change of a text file is silent, and no interruption looks like damage."""

from __future__ import annotations

import json
import logging
import os
import signal

import pytest
from run_folder_kit import CONFIG, RESULT, make_run

from worldlab.errors import CheckpointError
from worldlab.runs import digests, storage
from worldlab.runs.digests import COVERED, find_altered, find_uncovered
from worldlab.runs.folder import RunFolder
from worldlab.runs.metrics import MetricsBus


@pytest.fixture
def run(tmp_path) -> RunFolder:
    return make_run(tmp_path / "run")


def test_a_run_is_covered_and_as_it_was_written(run):
    assert find_altered(run.path) == find_uncovered(run.path) == []
    assert run.config.read_text() == CONFIG and run.read_result() == RESULT
    assert set(digests.read_digests(run.path)) == set(COVERED)


def test_a_hand_set_score_is_refused(run):
    run.result.write_text(run.result.read_text().replace("9.5", "500.0"))
    with pytest.raises(CheckpointError, match=r"result\.json is not as worldlab wrote it") as caught:
        run.read_result()
    assert caught.value.exit_code == 7 and len(caught.value.message) <= 100


@pytest.mark.parametrize("name", COVERED)
def test_every_change_of_a_byte_is_found(run, name):
    path = run.path / name
    data = path.read_bytes()
    for at in range(0, len(data), 7):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
        (sentence,) = find_altered(run.path)
        assert sentence.startswith(f"{name} is not as")
    path.write_bytes(data[:-1])
    assert len(find_altered(run.path)) == 1
    path.unlink()
    assert find_altered(run.path) == [f"{name} is missing"]


def test_lines_after_the_last_checkpoint_are_no_damage(run):
    with run.metrics.open("ab") as file:
        file.write(b'{"step": 300}\n')
    assert find_altered(run.path) == []


def test_damaged_digests_are_reported_and_not_believed(run):
    path = run.path / digests.NAME
    data = path.read_bytes()
    for at in range(0, len(data) - 1, 3):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
        found = find_altered(run.path)
        same = _content(path) == json.loads(data)  # white space
        assert same or (len(found) == 1 and found[0].startswith("digests.json is damaged"))


def _content(path):
    try:
        return json.loads(path.read_bytes())
    except ValueError:
        return None


def test_a_run_of_an_earlier_version_is_not_covered_but_not_damaged(run):
    (run.path / digests.NAME).unlink()
    assert find_altered(run.path) == [] and find_uncovered(run.path) == list(COVERED)
    assert run.read_result() == RESULT


@pytest.mark.parametrize("after", range(7))
def test_a_process_that_is_killed_between_two_writes_leaves_no_damage(run, after):
    """Killed before the rename number `after`, over a new configuration, run.json and result.json."""
    child = os.fork()
    if child == 0:
        count = 0

        def replace(*args, real=os.replace):
            nonlocal count
            if count == after:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1
            real(*args)

        os.replace = replace
        run.write_config(CONFIG.replace("7", "8"))
        run.write_run_json({"status": "stopped"})
        run.write_result({**RESULT, "return_mean": 1.0})
        os._exit(1)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    assert find_altered(run.path) == []
    run.write_config(CONFIG.replace("7", "9"))
    run.write_run_json({"status": "failed"})
    assert find_altered(run.path) == []


def test_dropped_lines_of_a_resumed_run_are_no_damage(run, monkeypatch):
    """Also where the process dies after the digest of what stays is written and before the rest is dropped."""
    real = storage.atomic_write_bytes
    with MetricsBus(run) as metrics:
        whole = metrics.digest
        monkeypatch.setattr(storage, "atomic_write_bytes", _die_at("metrics.jsonl", real))
        with pytest.raises(KeyboardInterrupt):
            metrics.truncate_after(100, 1, run.cover_metrics)
        assert find_altered(run.path) == []
    monkeypatch.setattr(storage, "atomic_write_bytes", real)
    with MetricsBus(run) as metrics:
        assert metrics.digest == whole
        assert metrics.truncate_after(100, 1, run.cover_metrics) == 2
        metrics.log(200, {"x": 1.0})
        assert metrics.digest == storage.sha256_file(run.metrics) and find_altered(run.path) == []


def _die_at(name, real):
    def write(path, data):
        if path.name == name:
            raise KeyboardInterrupt
        return real(path, data)

    return write


def test_an_edited_configuration_is_reported_and_stops_a_strict_run(run, caplog):
    run.config.write_text(CONFIG.replace("seed = 7", "seed = 8"))
    with caplog.at_level(logging.WARNING):
        run.report_texts()
    assert "run 'run': config.toml is not as worldlab wrote it: edited or damaged" in caplog.text
    with pytest.raises(CheckpointError, match=r"config\.toml"):
        run.report_texts(strict=True)
