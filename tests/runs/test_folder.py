"""worldlab.runs.folder: one writer, nothing overwritten, facts without secrets."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from worldlab.errors import ConfigError, RunLockedError, StorageError
from worldlab.runs.folder import RunFolder, git_state
from worldlab.study.compare.run import _locked
from worldlab.training.loaded import draw_dreams

HOLD = "import sys,time; from worldlab.runs.folder import RunFolder; f = RunFolder.create(sys.argv[1]); "
HOLD += "f.write_run_json({}); print('held', flush=True); time.sleep(60)"


def hold(path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    process.stdout.close()
    return process


def test_layout_is_the_one_scripts_rely_on(tmp_path):
    with RunFolder.create(tmp_path / "runs" / "a") as run:
        names = {key: getattr(run, key).relative_to(run.path).as_posix() for key in EXPECTED}
    assert names == EXPECTED and run.name == "a"


EXPECTED = {
    "config": "config.toml",
    "run_json": "run.json",
    "result": "result.json",
    "metrics": "metrics.jsonl",
    "perf": "perf.jsonl",
    "monitor": "monitor.csv",
    "replay": "replay",
    "checkpoints": "checkpoints",
    "videos": "videos",
    "plugins": "plugins",
    "report": "report.html",
}


def test_an_existing_run_is_not_overwritten(tmp_path):
    with RunFolder.create(tmp_path / "r") as run:
        run.write_run_json({"status": "stopped"})
        (run.checkpoints / "step-000012000").mkdir()
    with pytest.raises(ConfigError) as caught:
        RunFolder.create(tmp_path / "r")
    assert caught.value.message == "run 'r' exists (stopped at step 12000)"
    assert "--resume" in (caught.value.fix or "") and caught.value.exit_code == 2
    with RunFolder.open(tmp_path / "r", write=True) as run:
        run.write_run_json({"status": "finished"})
    with pytest.raises(ConfigError, match="finished at step 12000"):
        RunFolder.create(tmp_path / "r")


def test_a_folder_with_other_files_is_left_alone_and_an_empty_one_is_used(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.tex").write_text("x")
    with pytest.raises(ConfigError, match="holds no run"):
        RunFolder.create(home)
    assert [p.name for p in home.iterdir()] == ["thesis.tex"]
    (tmp_path / "empty").mkdir()
    RunFolder.create(tmp_path / "empty").close()


def test_a_run_that_was_killed_before_its_configuration_was_written_can_begin(tmp_path):
    """Its digest is written first. Such a folder once "is not empty and holds no run", and no command went on with it."""
    with RunFolder.create(tmp_path / "run") as folder:
        folder.write_config("steps = 1\n")
    (tmp_path / "run" / "config.toml").rename(tmp_path / "run" / ".temp-1")
    with RunFolder.create(tmp_path / "run") as folder:
        folder.write_config("steps = 2\n")
        assert folder.check_texts() is None and not list(folder.path.glob(".temp-*"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_an_unwritable_parent_is_an_error_with_an_alternative(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError):
        RunFolder.create(tmp_path / "r")


def test_a_parent_that_is_a_file_is_an_error_with_an_alternative(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError) as caught:
        RunFolder.create(tmp_path / "file" / "r")
    assert caught.value.exit_code == 6 and "--run" in (caught.value.fix or "")


@pytest.mark.parametrize(
    "name", ["..", ".", "", ".hid", "a b", "a/..", "x\x1b[31m", "CON", "nul.txt", "é", "a-", "a" * 129]
)
def test_unsafe_names_are_rejected(tmp_path, name):
    with pytest.raises(ConfigError, match="is not allowed") as caught:
        RunFolder.create(f"{tmp_path}/{name}" if name not in ("", ".") else name)
    assert caught.value.message.isprintable() and len(caught.value.message) <= 100
    assert list(tmp_path.iterdir()) == []


def test_the_error_of_a_second_writer_names_the_holder(tmp_path):
    process = hold(tmp_path / "r")
    try:
        before = time.monotonic()
        for attempt in (RunFolder.create, lambda path: RunFolder.open(path, write=True)):
            with pytest.raises(RunLockedError) as caught:
                attempt(tmp_path / "r")
            assert caught.value.exit_code == 8 and len(caught.value.message) <= 100
            assert f"'r' is being written by PID {process.pid} on host {os.uname().nodename[:20]} since 20" in str(
                caught.value
            )
        assert time.monotonic() - before < 1
        RunFolder.open(tmp_path / "r").read_run_json()  # readers need no lock
        process.send_signal(signal.SIGKILL)
        process.wait()
        RunFolder.open(tmp_path / "r", write=True).close()
    finally:
        process.kill()
        process.wait()


def test_a_second_lock_in_one_process_is_an_error_too(tmp_path):
    with RunFolder.create(tmp_path / "r") as run:
        run.write_run_json({})
        with pytest.raises(RunLockedError, match=f"PID {os.getpid()} "):
            RunFolder.open(tmp_path / "r", write=True)
    RunFolder.open(tmp_path / "r", write=True).close()


def test_of_many_at_once_exactly_one_wins(tmp_path):
    processes = [
        subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "r")], stdout=-1, stderr=-1, text=True)
        for _ in range(6)
    ]
    try:
        deadline = time.monotonic() + 20
        while len(losers := [p for p in processes if p.poll() is not None]) < 5 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(losers) == 5
        assert all("RunLockedError" in p.communicate()[1] for p in losers)
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_leftovers_of_a_killed_writer_are_cleared_only_under_the_lock(tmp_path):
    with RunFolder.create(tmp_path / "r") as run:
        run.write_run_json({})
    (run.checkpoints / ".stage-1").mkdir()
    (run.path / ".temp-1").write_text("half")
    (run.videos / ".temp-2").write_text("half a picture")
    RunFolder.open(run.path)
    assert (run.path / ".temp-1").exists()
    RunFolder.open(run.path, write=True).close()
    assert not [path for path in run.path.rglob("*") if path.name.startswith((".temp-", ".stage-"))]


def test_run_json_merges_and_contains_no_secret(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "CANARY")
    with RunFolder.create(tmp_path / "r") as run:
        run.write_run_json({"seed": 3, "device": "cpu"})
        first = run.read_run_json()
        run.write_run_json({"status": "finished", "step": 9})
        second = run.read_run_json()
        run.write_result({"return_mean": 0.1})
        assert run.write_config("seed = 3\n") == hashlib.sha256(b"seed = 3\n").hexdigest()
    assert second == first | {"status": "finished", "step": 9}
    assert first["status"] == "running" and first["versions"].keys() >= {"python", "torch", "numpy", "gymnasium"}
    written = b"".join(p.read_bytes() for p in run.path.rglob("*") if p.is_file())
    assert b"CANARY" not in written and str(tmp_path).encode() not in written
    assert json.loads(run.result.read_text()) == {"return_mean": 0.1}
    run.run_json.write_text("{")
    with pytest.raises(StorageError, match=r"run\.json is damaged"):
        run.read_run_json()


def test_git_state_against_git_itself(tmp_path):
    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        return subprocess.run(
            ["git", "-C", tmp_path, *who, *arguments], check=True, capture_output=True, text=True
        ).stdout.strip()

    assert git_state(tmp_path) is None
    git("init")
    assert git_state(tmp_path) is None
    git("commit", "--allow-empty", "-m", "x")
    commit = git("rev-parse", "HEAD")
    assert git_state(tmp_path) == {"commit": commit, "dirty": False}
    (tmp_path / "new").write_text("")
    assert git_state(tmp_path) == {"commit": commit, "dirty": True}


def test_plugin_files_are_copied_with_their_hash(tmp_path):
    with RunFolder.create(tmp_path / "r") as run:
        (tmp_path / "hello.py").write_text("A = 1\n")
        kept = run.keep_plugin(tmp_path / "hello.py")
        assert kept == {"file": "plugins/hello.py", "sha256": hashlib.sha256(b"A = 1\n").hexdigest()}
        assert run.keep_plugin(tmp_path / "hello.py") == kept
        (tmp_path / "hello.py").write_text("A = 2\n")
        other = run.keep_plugin(tmp_path / "hello.py")
        assert (run.path / kept["file"]).read_text() == "A = 1\n" != (run.path / other["file"]).read_text()
        with pytest.raises(ConfigError, match="cannot be read"):
            run.keep_plugin(tmp_path / "missing.py")


def test_a_missing_run_suggests_a_similar_name(tmp_path):
    for name, created in (("zebra", "2026-01-01"), ("apple", "2026-01-02")):
        with RunFolder.create(tmp_path / name) as run:
            run.write_run_json({"created": created})
    with pytest.raises(ConfigError, match="Did you mean 'zebra'"):
        RunFolder.open(tmp_path / "zebro")


# ---- links ----


@pytest.fixture
def outside(tmp_path):
    """A folder that no run may write to."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "precious").write_text("x")
    return folder


@pytest.mark.parametrize("name", ["replay", "checkpoints", "tb", "videos", "plugins", "replay/orphans", "any/where"])
def test_nothing_is_written_through_a_link_in_a_run(name, tmp_path, outside):
    with RunFolder.create(tmp_path / "r") as run:
        run.write_run_json({"status": "stopped"})
    link = run.path / name
    if link.exists():
        link.rmdir()
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(outside)
    with pytest.raises(StorageError, match=f"'r/{name}' is a link: nothing is written through it") as caught:
        RunFolder.open(run.path, write=True)
    assert caught.value.exit_code == 6 and str(link) in (caught.value.fix or "")
    assert [path.name for path in outside.iterdir()] == ["precious"]
    RunFolder.open(run.path)  # reading is harmless


def test_dreams_are_not_drawn_through_a_link(tmp_path, outside):
    with RunFolder.create(tmp_path / "r") as run:
        run.write_run_json({})
    run.videos.rmdir()
    run.videos.symlink_to(outside)
    with pytest.raises(StorageError, match="'r/videos' is a link"):
        draw_dreams(SimpleNamespace(folder=run))  # pyright: ignore[reportArgumentType]


def test_a_comparison_writes_through_no_link(tmp_path, outside):
    (tmp_path / "compared" / "cells").mkdir(parents=True)
    (tmp_path / "compared" / "cells" / "one").symlink_to(outside)
    with pytest.raises(StorageError, match="'compared/cells/one' is a link"), _locked(tmp_path / "compared"):
        pass


def test_the_folder_of_a_run_may_be_a_link(tmp_path, outside):
    target = tmp_path / "disk"
    target.mkdir()
    (tmp_path / "r").symlink_to(target)
    with RunFolder.create(tmp_path / "r") as run:
        run.write_run_json({})
    with RunFolder.open(tmp_path / "r", write=True):
        pass
    assert (target / "run.json").is_file()
