"""worldlab.runs.find: what lies beside a run does not matter."""

import json
import os
import socket
import subprocess
import sys

import pytest

from worldlab.errors import ConfigError
from worldlab.runs.find import find_run, list_runs


def add_run(root, name, created="2026-01-01T00:00:00+00:00"):
    (root / name).mkdir(parents=True)
    (root / name / "run.json").write_text(json.dumps({"created": created}))
    return root / name


def plant(folder, kind):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "run.json"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        here = os.getcwd()
        os.chdir(folder)  # the path of a socket must be short
        socket.socket(socket.AF_UNIX).bind("run.json")
        os.chdir(here)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        path.write_bytes(kind)


KINDS = {
    "fifo": "fifo",
    "socket": "socket",
    "device": "device",
    "folder": "folder",
    "deep": b"[" * 100_000,
    "no UTF-8": b"\xff\xfe",
    "empty": b"",
    "list": b"[1]",
    "huge date": b'{"created": 1' + b"0" * 400 + b"}",
    "no date": b'{"created": {"a": 1}}',
    "large": b'"' + b"x" * (17 * 2**20) + b'"',
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_a_run_is_found_whatever_its_neighbours_are(kind, tmp_path):
    """In a process of its own, which is killed if it waits for ever."""
    add_run(tmp_path, "good")
    plant(tmp_path / "aaa", kind)
    plant(tmp_path / "zzz", kind)
    code = "import sys, pathlib; from worldlab.runs.find import *; root = pathlib.Path(sys.argv[1])\n"
    code += "print(find_run('good', root).name, find_run(str(root / 'good')).name)\n"
    code += "try: find_run('nope', root)\nexcept Exception as error: print(error.exit_code)"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["good", "good", "2"], done.stderr


def test_the_latest_run_is_the_newest_that_can_be_read(tmp_path):
    old, new = add_run(tmp_path, "old"), add_run(tmp_path, "new", "2026-02-01T00:00:00+00:00")
    assert find_run("latest", tmp_path) == new
    plant(tmp_path / "zzz", b"[" * 100_000)
    assert find_run("latest", tmp_path) == new and list_runs(tmp_path)[1:] == [old, new]
    with pytest.raises(ConfigError, match="Did you mean 'old'"):
        find_run("olt", tmp_path)
