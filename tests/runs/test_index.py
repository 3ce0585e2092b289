"""The index of runs: what is known of each from its files, whatever state they are in, with few reads."""

from __future__ import annotations

import fcntl
import json
import os
import sys
from collections import Counter
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest
from many_runs import CREATED, NOBODY, write_cell, write_run

from worldlab.runs.folder import RunFolder
from worldlab.runs.index import TAIL, find_folders, folder_size, read_row

operations: Counter[str] | None = None
"""Where the audit hook, which Python cannot remove, counts file operations; None while no test counts."""


def _count(event: str, arguments: tuple) -> None:
    if operations is not None and event in ("open", "os.scandir", "os.listdir") and not isinstance(arguments[0], int):
        operations[event] += 1


@contextmanager
def counted():
    global operations
    operations = Counter()
    try:
        yield operations
    finally:
        operations = None


@pytest.fixture(scope="module", autouse=True)
def audit():
    sys.addaudithook(_count)


def row_of(path):
    return read_row(path, path.parent)


# ---- what is read ----


def test_a_training_run_is_described_by_its_files(tmp_path):
    row = row_of(write_run(tmp_path / "a", seed=3, encoder="cpc"))
    assert (row.name, row.state, row.env, row.parts, row.agent, row.seed) == (
        "a", "training", "CartPole-v1", "cpc/vae/vae", "dreamer", 3,
    )  # fmt: skip
    assert (row.step, row.steps, row.score, row.scored) == (3000, 4000, 60.0, "evaluation")
    assert row.started == CREATED and row.problem == row.error == ""


def test_a_finished_run_has_the_return_of_its_final_evaluation(tmp_path):
    row = row_of(write_run(tmp_path / "a", "finished", step=4000))
    assert (row.state, row.step, row.score, row.scored) == ("finished", 4000, 100.0, "final")


def test_before_the_first_evaluation_the_return_is_that_of_training(tmp_path):
    row = row_of(write_run(tmp_path / "a", step=500))
    assert (row.score, row.scored) == (5.0, "episodes")


def test_a_torn_last_line_is_left_out(tmp_path):
    run = write_run(tmp_path / "a", step=500)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 99999, "epis')
    assert row_of(run).step == 500


def test_of_long_metrics_only_the_end_is_read(tmp_path):
    run = write_run(tmp_path / "a")
    with (run / "metrics.jsonl").open("wb") as file:
        file.truncate(2**34)  # a hole of 16 GB
        file.seek(0, os.SEEK_END)
        file.write(b'\n{"step": 7, "eval/return": 2.5}\n{"step": 8}\n')
    row = row_of(run)
    assert (row.step, row.score) == (8, 2.5) and TAIL < 2**20


@pytest.mark.parametrize(
    ("status", "alive", "state"),
    [
        ("running", True, "training"),
        ("running", False, "killed"),
        ("stopped", True, "stopped"),
        ("interrupted", True, "stopped"),
        ("failed", True, "failed"),
        ("diverged", True, "diverged"),
        ("whatever", False, "killed"),
    ],
)
def test_states(tmp_path, status, alive, state):
    assert row_of(write_run(tmp_path / "a", status, alive=alive)).state == state


def test_a_process_younger_than_the_lock_does_not_hold_it(tmp_path):
    """The number of a killed process may belong to another one by now."""
    run = write_run(tmp_path / "a")
    old = datetime.fromtimestamp(CREATED - 10**8, UTC).isoformat()
    (run / "lock.json").write_text((run / "lock.json").read_text().split('"started"')[0] + f'"started": "{old}"}}')
    assert row_of(run).state == "killed"


def test_a_run_of_another_host_trains_while_it_writes(tmp_path):
    run = write_run(tmp_path / "a")
    (run / "lock.json").write_text(json.dumps({"pid": NOBODY, "host": "elsewhere"}))
    wrote = (run / "metrics.jsonl").stat().st_mtime
    assert read_row(run, tmp_path, wrote + 60).state == "training"
    assert read_row(run, tmp_path, wrote + 3600).state == "killed"


def test_reading_the_state_takes_no_lock(tmp_path):
    with RunFolder.create(tmp_path / "a") as folder:
        folder.write_run_json({"status": "running"})
        assert row_of(folder.path).state == "training"
        before = sorted(os.listdir(folder.path))
    assert row_of(folder.path).state == "killed" and "lock.json" in before  # released, and yet "running"


def test_cells_wait_train_and_end(tmp_path):
    waiting, failed = write_cell(tmp_path / "w"), write_cell(tmp_path / "f", "sb3", "failed")
    done = write_cell(tmp_path / "d", "random", "finished", seed=2)
    assert (row_of(waiting).state, row_of(waiting).agent, row_of(waiting).steps) == ("waiting", "vae", 4000)
    assert (row_of(done).state, row_of(done).score, row_of(done).seed) == ("finished", 15.0, 2)
    assert row_of(failed).state == "failed" and "not finite" in row_of(failed).error
    with (waiting / "cell.lock").open("w") as file:
        assert row_of(waiting).state == "waiting"
        fcntl.flock(file, fcntl.LOCK_EX)
        assert row_of(waiting).state == "training"


def test_the_cause_of_a_failure_is_shown(tmp_path):
    assert row_of(write_run(tmp_path / "a", "failed", error="no\nroom \x1b[31m")).error == "no room [31m"


# ---- what is found ----


def test_runs_are_found_on_five_levels_and_not_inside_runs(tmp_path):
    places = [tmp_path / "x", tmp_path / "b" / "part" / "cells" / "y", tmp_path / ".hidden" / "z"]
    for place in places:
        write_run(place)
    write_run(tmp_path / "x" / "recordings" / "inner")
    write_run(tmp_path / "1" / "2" / "3" / "4" / "too-deep")
    (tmp_path / "link").symlink_to(tmp_path / "b")
    for name in ("lock", "lock.json"):  # a comparison that runs
        (tmp_path / "b" / "part" / name).touch()
    assert find_folders(tmp_path) == sorted(places)
    assert find_folders(tmp_path / "x") == [tmp_path / "x"]


def test_a_link_that_leads_back_ends(tmp_path):
    write_run(tmp_path / "a")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert find_folders(tmp_path) == [tmp_path / "a"]


def test_size_counts_a_file_of_two_names_once_and_follows_no_link(tmp_path):
    (tmp_path / "a" / "in").mkdir(parents=True)
    (tmp_path / "a" / "in" / "f").write_bytes(b"x" * 1000)
    os.link(tmp_path / "a" / "in" / "f", tmp_path / "a" / "g")
    (tmp_path / "big").write_bytes(b"x" * 10_000)
    (tmp_path / "a" / "link").symlink_to(tmp_path / "big")
    link = (tmp_path / "a" / "link").lstat().st_size
    assert folder_size(tmp_path / "a") == 1000 + link


# ---- what is wrong ----


def replace_by_pipe(path):
    path.unlink()
    os.mkfifo(path)


def replace_by_folder(path):
    path.unlink()
    path.mkdir()


def replace_by_link(path):
    path.unlink()
    path.symlink_to("/etc/passwd")


HOSTILE = {
    "empty": lambda path: path.write_text(""),
    "torn": lambda path: path.write_text('{"status": "finis'),
    "a list": lambda path: path.write_text("[1, 2]"),
    "nested": lambda path: path.write_text("[" * 10**5),
    "not a number": lambda path: path.write_text('{"step": NaN}'),
    "not UTF-8": lambda path: path.write_bytes(b'{"env": "\xff"}'),
    "a pipe": replace_by_pipe,
    "a folder": replace_by_folder,
    "a link": replace_by_link,
    "gone": lambda path: path.unlink(),
    "too large": lambda path: os.truncate(path, 2**33),
}


@pytest.mark.parametrize("name", ["run.json", "metrics.jsonl", "result.json", "config.toml", "lock.json", "cell.json"])
@pytest.mark.parametrize("what", HOSTILE)
def test_a_damaged_file_never_raises(tmp_path, name, what):
    run = write_run(tmp_path / "a", "running" if name == "lock.json" else "finished")
    (run / name).touch()
    HOSTILE[what](run / name)
    (row,) = [read_row(path, tmp_path) for path in find_folders(tmp_path)]
    assert (name == "run.json") == bool(row.problem) == (row.state == "damaged")
    if name == "run.json":
        assert "run.json" in row.problem and row.problem.isprintable()


@pytest.mark.parametrize("value", [[], {}, "x" * 10**6, "\x1b[2J\n", -1, 2**80, 1e308, True, None])
def test_values_of_the_wrong_kind_are_left_out(tmp_path, value):
    run = write_run(tmp_path / "a", "finished")
    keys = ("status", "step", "env", "seed", "components", "created", "error")
    (run / "run.json").write_text(json.dumps(dict.fromkeys(keys, value)))
    for name in ("result.json", "metrics.jsonl"):
        wrong = {"return_mean": value, "eval/return": value, "episode/return": value, "step": value}
        (run / name).write_text(json.dumps(wrong) + "\n")
    row = row_of(run)
    texts = (row.env, row.agent, row.error, row.parts)
    assert all(text.isprintable() and len(text) <= 500 for text in texts)
    assert row.seed is None and row.step is None and (row.score is None or abs(row.score) < 1e300)


def test_a_folder_that_vanishes_while_it_is_read(tmp_path):
    row = read_row(tmp_path / "gone", tmp_path)
    assert row.state == "damaged" and row.problem == "there is no file run.json" and folder_size(tmp_path / "gone") == 0


# ---- how much is read ----


def test_a_thousand_runs_take_few_file_operations(tmp_path):
    """Of a run five files are opened, and two of the system for its process; no folder is listed twice."""
    for number in range(1000):
        write_run(tmp_path / f"run-{number:04d}", ("running", "finished")[number % 2])
    with counted() as done:
        rows = [read_row(path, tmp_path) for path in find_folders(tmp_path)]
    assert len(rows) == 1000 and {row.state for row in rows} == {"training", "finished"}
    assert done["open"] <= 7 * 1000 and done["os.scandir"] == 1001 and done["os.listdir"] == 0
