"""worldlab.runs.storage: the content of the disk after success, failure and a kill."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
import sys
import time

import pytest

from worldlab.errors import StorageError, WorldlabError
from worldlab.runs import storage


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_atomic_write_replaces_and_reports_the_digest(tmp_path):
    path = tmp_path / "a.txt"
    storage.atomic_write_text(path, "old")
    digest = storage.atomic_write_text(path, "né")
    assert path.read_bytes() == "né".encode()
    assert digest == storage.FileDigest(3, hashlib.sha256("né".encode()).hexdigest()) == storage.sha256_file(path)
    assert names(tmp_path) == ["a.txt"]


def test_disk_full_keeps_the_old_file_and_names_the_numbers(tmp_path, monkeypatch):
    path = tmp_path / "a.bin"
    storage.atomic_write_bytes(path, b"old")

    def full(descriptor, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(storage.os, "write", full)
    with pytest.raises(StorageError) as caught:
        storage.atomic_write_bytes(path, b"x" * 2_000_000)
    monkeypatch.undo()
    assert path.read_bytes() == b"old" and names(tmp_path) == ["a.bin"]
    assert caught.value.exit_code == 6
    assert "need 2.0 MB, free " in caught.value.message and len(caught.value.message) <= 100
    assert "a.bin" in caught.value.message and "--resume" in (caught.value.fix or "")


@pytest.mark.parametrize("call", ["fsync", "replace", "close"])
def test_each_failing_system_call_leaves_the_old_file(tmp_path, monkeypatch, call):
    path = tmp_path / "a.bin"
    storage.atomic_write_bytes(path, b"old")
    real = getattr(os, call)

    def fail(*args):
        if call == "close":
            real(*args)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(storage.os, call, fail)
    with pytest.raises(StorageError, match="Input/output error"):
        storage.atomic_write_bytes(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old" and names(tmp_path) == ["a.bin"]


def test_json_is_strict_both_ways(tmp_path):
    path = tmp_path / "a.json"
    storage.atomic_write_json(path, {"b": 1, "a": [0.1]})
    assert storage.read_json(path) == {"b": 1, "a": [0.1]} and list(storage.read_json(path)) == ["b", "a"]
    with pytest.raises(WorldlabError):
        storage.atomic_write_json(path, {"a": float("nan")})
    for bad in (b'{"a": NaN}', b"[" * 100_000, b'{"a"', b"\xff"):
        path.write_bytes(bad)
        with pytest.raises(ValueError):
            storage.read_json(path)
    path.write_bytes(b" " * 100)
    with pytest.raises(ValueError, match="larger"):
        storage.read_json(path, limit=99)


def test_reading_rejects_links_pipes_and_folders(tmp_path):
    (tmp_path / "real").write_text("{}")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe", "."):
        with pytest.raises(OSError):
            storage.read_json(tmp_path / name)


def test_append_offsets_and_torn_line(tmp_path):
    path = tmp_path / "log"
    with storage.AppendFile(path) as file:
        assert [file.write(b"abc"), file.write(b"de"), file.position] == [0, 3, 5]
        file.sync()
    with pytest.raises(StorageError, match="closed"):
        file.write(b"x")
    path.write_bytes(b"one\n" + b"t" * 200_000)
    with storage.AppendFile(path, lines=True) as file:
        assert file.position == 4
        file.write_line("two")
    assert path.read_text() == "one\ntwo\n"
    path.write_bytes(b"only torn")
    storage.AppendFile(path, lines=True).close()
    assert path.read_bytes() == b""


def test_a_failed_append_leaves_no_partial_data_and_is_final(tmp_path, monkeypatch):
    path, real = tmp_path / "log", os.write
    file = storage.AppendFile(path)
    file.write(b"whole")

    def half(descriptor, data):
        if len(data) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data[: len(data) - 1])

    monkeypatch.setattr(storage.os, "write", half)
    with pytest.raises(StorageError, match="disk full"):
        file.write(b"half")
    monkeypatch.undo()
    assert path.read_bytes() == b"whole"
    with pytest.raises(StorageError, match="unusable"):
        file.write(b"again")
    file.close()


def test_publish_never_replaces(tmp_path):
    staging = storage.new_staging(tmp_path)
    storage.write_new(staging / "x", [b"1", b"2"])
    storage.publish_folder(staging, tmp_path / "final")
    assert (tmp_path / "final" / "x").read_bytes() == b"12"
    (tmp_path / "empty").mkdir()
    with pytest.raises(StorageError):
        storage.publish_folder(storage.new_staging(tmp_path), tmp_path / "empty")
    assert len(storage.clean_leftovers(tmp_path)) == 1
    storage.remove_tree(tmp_path / "final")
    assert names(tmp_path) == ["empty"]


def test_write_new_rejects_an_existing_name_and_keeps_the_file(tmp_path):
    (tmp_path / "x").write_text("mine")
    with pytest.raises(StorageError):
        storage.write_new(tmp_path / "x", [b"yours"])
    assert (tmp_path / "x").read_text() == "mine"


def test_kill_at_random_moments_never_tears_a_file(tmp_path):
    """A writer alternates two contents; after SIGKILL the file is exactly one of them, 12 times of 12."""
    path = tmp_path / "a"
    body = "import sys\nfrom worldlab.runs.storage import atomic_write_bytes as w\nk = 0\n"
    body += (
        "while True:\n    w(sys.argv[1], bytes([65 + k % 2]) * 300_000)\n    k += 1\n    k == 1 and print(flush=True)"
    )
    for trial in range(12):
        process = subprocess.Popen([sys.executable, "-c", body, str(path)], stdout=subprocess.PIPE, env=os.environ)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.003 * trial)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert path.read_bytes() in (b"A" * 300_000, b"B" * 300_000)
        storage.clean_leftovers(tmp_path)
        assert names(tmp_path) == ["a"]
