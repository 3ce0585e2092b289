"""A stand-in for `python` whose processes are forks of one that has imported torch and worldlab.

A new process takes two seconds to import them, far longer than a small run takes. `warm_python()` is the path of a program
that is called like `python`; what it answers from a fork, and how a fork differs from a new process, is described in
warm_client.py and warm_server.py. Exit codes, output, signals and files are those of the real command. What concerns the
start itself (modules that are not imported, the hash seed, sys.path, a kill) is tested with real processes.
"""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CLIENT = f"import sys\nsys.path.append({str(HERE)!r})\nfrom warm_client import main\n"
"""The beginning of a stand-in, which imports little: it starts in a fiftieth of a second."""
START = 240
"""Seconds in which the warm process must be ready."""


def warm_python(python: str | Path = sys.executable) -> Path:
    """Return the stand-in for `python`, this one or that of a virtual environment on top of it."""
    if sys.platform != "linux":  # elsewhere a fork of a process with threads is not to be trusted
        return Path(python)
    folder = _start()
    stand_in = folder / f"python-{abs(hash(str(python)))}"
    if not stand_in.exists():
        told = f"{str(folder / 'socket')!r}, {str(stand_in)!r}, {str(python)!r}"
        stand_in.write_text(f"#!{sys.executable} -IS\n{CLIENT}main({told}, sys.argv[1:])\n")
        stand_in.chmod(0o755)
    return stand_in


def warm_worldlab() -> list[str]:
    """Return the command `worldlab`, answered by a fork."""
    return [str(warm_python()), "-m", "worldlab"]


def run_worldlab(place: Path, *arguments: str) -> tuple[int, str, str]:
    """Run `worldlab ARGUMENTS` in the folder `place`, whose modules it can import. Returns exit code, stdout, stderr."""
    path = os.pathsep.join([str(place), *filter(None, [os.environ.get("PYTHONPATH")])])
    command, environment = [*warm_worldlab(), *arguments], dict(os.environ, PYTHONPATH=path)
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=START)
    return done.returncode, done.stdout, done.stderr


def warm_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let comparisons start their cells with the stand-in, whatever the launcher."""
    monkeypatch.setattr(sys, "executable", str(warm_python()))


def first_environment() -> dict[str, str]:
    """Return the environment variables with which the warm process started. Tests of other things may have changed ours."""
    if sys.platform == "linux":
        _start()
    return dict(_ENVIRONMENT or os.environ)


_ENVIRONMENT: dict[str, str] = {}


@cache
def _start() -> Path:
    """Start the warm process of this process. Returns: the folder of its socket."""
    _ENVIRONMENT.update(os.environ)
    folder = Path(tempfile.mkdtemp(prefix="warm-"))
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", str(HERE / "warm_server.py"), str(folder / "socket")],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            cwd=folder,
            start_new_session=True,
        )
    atexit.register(_stop, process, folder, os.getpid())
    end = time.monotonic() + START
    while not (folder / "ready").exists():
        late = time.monotonic() > end or process.poll() is not None
        assert not late, f"the warm process does not start: {(folder / 'log').read_text()}"
        time.sleep(0.02)
    return folder


def _stop(process: subprocess.Popen[bytes], folder: Path, owner: int) -> None:
    if os.getpid() != owner:  # a fork of this process does not own the other one
        return
    assert process.stdin is not None
    process.stdin.close()
    process.wait(10)
    shutil.rmtree(folder, ignore_errors=True)
