"""Failpoints: each durable operation can be made to fail, once, where and how the plan says."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from worldlab.errors import StorageError
from worldlab.runs import failpoints, storage


@pytest.fixture
def planned(monkeypatch):
    """Plan a failure for the rest of the test."""

    def plan(text: str) -> None:
        monkeypatch.setenv(failpoints.VARIABLE, text)
        failpoints._plan.cache_clear()

    yield plan
    failpoints._plan.cache_clear()


def test_without_a_plan_nothing_fails_and_data_are_written_at_once(tmp_path, planned):
    planned("")
    storage.atomic_write_text(tmp_path / "a", "text")
    assert [bytes(piece) for piece in failpoints.pieces(memoryview(b"text"))] == [b"text"]


def test_the_points_of_an_atomic_write_are_its_operations_in_order(tmp_path, planned):
    planned(f"*:0=trace:{tmp_path / 'trace'}")
    storage.atomic_write_text(tmp_path / "a", "text")
    operations = (
        "create.before write.before write.half write.after fsync.before fsync.after replace.before replace.after"
    )
    found = (tmp_path / "trace").read_text().split()
    assert found == [*operations.split(), "fsync_folder.before", "fsync_folder.after"]
    assert (tmp_path / "a").read_text() == "text"


@pytest.mark.parametrize("point", ["create.before", "write.half", "fsync.before", "replace.before"])
def test_an_error_at_any_point_leaves_the_old_file_and_no_other(tmp_path, planned, point):
    storage.atomic_write_text(tmp_path / "a", "old")
    planned(f"{point}:1=errno:ENOSPC")
    with pytest.raises(StorageError, match="disk full"):
        storage.atomic_write_text(tmp_path / "a", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_text() == "old"
    storage.atomic_write_text(tmp_path / "a", "new")  # it fails once
    assert (tmp_path / "a").read_text() == "new"


def test_the_count_chooses_among_points_of_the_same_kind(tmp_path, planned):
    planned("replace.before:2=errno:EIO")
    storage.atomic_write_text(tmp_path / "a", "1")
    with pytest.raises(StorageError) as caught:
        storage.atomic_write_text(tmp_path / "a", "2")
    assert os.strerror(errno.EIO) in caught.value.message and (tmp_path / "a").read_text() == "1"


def test_a_kill_half_way_through_an_append_leaves_half_of_it(tmp_path):
    code = "import sys; from worldlab.runs.storage import AppendFile; AppendFile(sys.argv[1]).write(b'12345678')"
    env = os.environ | {failpoints.VARIABLE: "write.half:1=kill"}
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path / "log")], env=env)
    assert ended.returncode == -9 and (tmp_path / "log").read_bytes() == b"1234"
