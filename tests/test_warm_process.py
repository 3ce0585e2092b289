"""Forks of the warm process (tests/kits/warm_process.py) do what new processes do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import venv
from pathlib import Path

import pytest
from plugin_kit import add_dist, registers
from warm_process import first_environment, warm_python, warm_worldlab

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the stand-in is Python itself"),
]

PROBE = """
import json, logging, multiprocessing.spawn, os, random, resource, signal, sys, threading, warnings
import numpy, torch, worldlab
from worldlab.registry import load_registry
handlers = {str(one): str(signal.getsignal(one)) for one in signal.valid_signals()}
print(json.dumps({
    "argv": sys.argv, "path": sys.path, "folder": os.getcwd(), "environment": dict(os.environ), "read": sys.stdin.read(),
    "streams": [str((one.encoding, one.errors, one.isatty(), one.line_buffering)) for one in (sys.stdin, sys.stdout, sys.stderr)],
    "main": [__name__, sorted(name for name in vars(sys.modules["__main__"]) if name in ("__file__", "__spec__"))],
    "prefix": sys.prefix, "bytecode": sys.dont_write_bytecode, "worldlab": worldlab.__file__,
    "threads": [torch.get_num_threads(), torch.get_num_interop_threads(), threading.active_count()],
    "torch": [str(torch.get_default_dtype()), torch.is_grad_enabled(),
              torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision()],
    "handlers": handlers, "blocked": list(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    "files": sorted(int(one) for one in os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd/" + one))[:3],
    "log": [logging.getLogger().level, len(logging.getLogger().handlers), len(logging.getLogger("worldlab").handlers)],
    "children": multiprocessing.spawn.get_executable().decode() if isinstance(multiprocessing.spawn.get_executable(), bytes)
                else multiprocessing.spawn.get_executable(),
    "group": os.getpgid(0) == os.getpid(), "plugins": load_registry().names("encoder"),
}, sort_keys=True))
"""
"""What could be left of the warm process, or be missing."""


def ask(python: Path | str, *arguments: str, folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    environment = first_environment() | {"WORD": "two words"} | more
    return subprocess.run(
        [str(python), *arguments],
        cwd=folder,
        env=environment,
        input="given",
        text=True,
        capture_output=True,
        timeout=240,
    )


def site_with(folder: Path, name: str) -> str:
    """Install an encoder; return the path of imports with it."""
    add_dist(folder / "site", f"worldlab-{name}", registers(("encoder", name)))
    return os.pathsep.join([str(folder / "site"), *filter(None, [os.environ.get("PYTHONPATH")])])


def test_a_fork_is_as_a_new_process(tmp_path):
    path = site_with(tmp_path, "later")  # the warm process may have started before
    real, fork = (
        ask(python, "-c", PROBE, "an argument", folder=tmp_path, PYTHONPATH=path)
        for python in (sys.executable, warm_python())
    )
    assert fork.returncode == real.returncode == 0, fork.stderr + real.stderr
    found, expected = json.loads(fork.stdout), json.loads(real.stdout)
    differences = {key: (found[key], expected[key]) for key in expected if found[key] != expected[key]}
    assert differences == {"group": (True, False)}  # a fork leads a group of its own
    assert "later" in found["plugins"] and fork.stderr == real.stderr


def test_a_fork_is_as_a_new_process_of_a_virtual_environment(tmp_path):
    """What is installed in it comes first, what is below it after."""
    venv.EnvBuilder(symlinks=True, system_site_packages=False).create(tmp_path / "top")
    python = tmp_path / "top" / "bin" / "python"
    own = Path(ask(python, "-c", "import site; print(site.getsitepackages()[0])", folder=tmp_path).stdout.strip())
    below = [entry for entry in sys.path if entry.endswith("-packages")]
    (own / "below.pth").write_text("".join(f"import site; site.addsitedir({entry!r})\n" for entry in below))
    add_dist(own, "worldlab-top", registers(("encoder", "top")))
    real, fork = (ask(which, "-c", PROBE, folder=tmp_path) for which in (python, warm_python(python)))
    assert fork.returncode == real.returncode == 0, fork.stderr + real.stderr
    found, expected = json.loads(fork.stdout), json.loads(real.stdout)
    differences = {key: (found[key], expected[key]) for key in expected if found[key] != expected[key]}
    assert differences == {"group": (True, False)}
    assert "top" in found["plugins"]


def test_forks_draw_other_random_numbers(tmp_path):
    code = "import random, numpy, torch; print(random.random(), numpy.random.rand(), torch.rand(()).item())"
    one, other = (ask(warm_python(), "-c", code, folder=tmp_path).stdout.split() for _ in range(2))
    assert len({*one, *other}) == 6


ENDS = [
    "sys.exit(3)",
    "sys.exit('why')",
    "sys.exit()",
    "1 / 0",
    "os.kill(os.getpid(), 9)",
    "sys.stdout.write('no line')",
]


@pytest.mark.parametrize("code", ENDS)
def test_a_fork_ends_as_a_new_process(tmp_path, code):
    real, fork = (
        ask(python, "-c", f"import os, sys; {code}", folder=tmp_path) for python in (sys.executable, warm_python())
    )
    assert (fork.returncode, fork.stdout) == (real.returncode, real.stdout)
    assert fork.stderr.splitlines()[-1:] == real.stderr.splitlines()[-1:]


def test_a_command_says_the_same(tmp_path):
    line = ("-m", "worldlab", "train", "--env", "CartPol")
    real, fork = (ask(python, *line, folder=tmp_path) for python in (sys.executable, warm_python()))
    assert fork.returncode == real.returncode == 4 and (fork.stdout, fork.stderr) == (real.stdout, real.stderr)


def test_where_a_new_process_would_differ_the_fork_becomes_one(tmp_path):
    code = "import sys; print('torch' in sys.modules, sys.stdin.read())"
    (tmp_path / "else" / "worldlab").mkdir(parents=True)
    (tmp_path / "else" / "worldlab" / "__init__.py").write_text("")
    elsewhere = {"PYTHONPATH": str(tmp_path / "else")}
    for more, forked in (
        ({}, True),
        ({"OMP_NUM_THREADS": "3"}, False),
        ({"PYTHONHASHSEED": "1"}, False),
        (elsewhere, False),
    ):
        assert ask(warm_python(), "-c", code, folder=tmp_path, **more).stdout == f"{forked} given\n", more
    assert ask(warm_python(), "-m", "timeit", "-n", "1", "-r", "1", folder=tmp_path).returncode == 0  # not for a fork


WAITS = r"""
import os, signal, sys, time
def end(number, frame):
    os.write(1, b"saved\n")
    sys.exit(128 + number)
signal.signal(signal.SIGTERM, end)
print(os.getpid(), flush=True)
time.sleep(240)
"""


def test_signals_reach_the_fork(tmp_path):
    for number, code, said in ((signal.SIGTERM, 143, "saved\n"), (signal.SIGUSR1, -signal.SIGUSR1, "")):
        process = subprocess.Popen([str(warm_python()), "-c", WAITS], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None and process.stdout.readline()
        process.send_signal(number)
        assert (process.wait(60), process.stdout.read()) == (code, said)


def test_a_fork_ends_with_whoever_called_it():
    process = subprocess.Popen([str(warm_python()), "-c", WAITS], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    fork = int(process.stdout.readline())
    process.kill()
    process.wait()
    end = time.monotonic() + 60
    while Path(f"/proc/{fork}").exists():
        assert time.monotonic() < end, "it goes on"
        time.sleep(0.02)


def test_what_a_fork_starts_with_its_own_python_is_a_fork_again(tmp_path):
    inner = "import sys; print('torch' in sys.modules)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-P', '-c', {inner!r}], check=True)"
    assert ask(warm_python(), "-c", code, folder=tmp_path).stdout == "True\n"
    assert ask(*warm_worldlab(), "--version", folder=tmp_path).stdout.startswith("worldlab ")
