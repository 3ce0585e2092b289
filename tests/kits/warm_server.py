"""The warm process: it has imported what commands need, has done nothing else, and forks for each command line.

    python -P warm_server.py SOCKET

It ends when its stdin does. A fork has the working folder, environment, streams, arguments and path of imports that a new
process would have. Where a new process would differ in what is settled at its start (threads of BLAS, another worldlab on
the path), the fork becomes that new process. tests/test_warm_process.py compares both.
"""

from __future__ import annotations

import atexit
import faulthandler
import gc
import importlib
import io
import marshal
import multiprocessing
import os
import select
import signal
import site
import socket
import sys
import threading
import traceback
import types
from collections.abc import Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from typing import NamedTuple, NoReturn, TextIO

PRELOAD = (
    "torch._dynamo",  # torch's own optimisers load it
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "gymnasium.envs.classic_control",
    "worldlab.cli.train",
    "worldlab.registry.discovery",
    "worldlab_trackers.tensorboard",
    "worldlab.training.train",
    "worldlab.study.compare.cell",
    "worldlab_agents.dreamer",
    "worldlab_envs.gymnasium_adapter",
    *(f"worldlab_{family}.{role}" for family in ("vae", "cpc") for role in ("encoder", "dynamics", "decoder")),
)
MAINS = {"worldlab": "worldlab.cli", "worldlab.study.compare.cell": "worldlab.study.compare.cell"}
"""The module whose function main(arguments) `python -m NAME` calls."""
AT_START = ("OMP_", "MKL_", "OPENBLAS_", "KMP_", "LC_", "LANG", "MALLOC_", "LD_", "TORCH", "PYTHON")
"""Beginnings of the names of variables that a process reads when it starts, or when it imports torch."""
FOLLOWED = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "PYTHONBREAKPOINT")
"""Those that a fork heeds, or that are read later."""


class Request(NamedTuple):
    """asked: Python's own flags, "-m" or "-c", its value, the program's arguments."""

    stand_in: str
    python: str
    asked: tuple[list[str], str, str, list[str]]
    folder: str
    environment: dict[str, str]


def settled(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: environment[name] for name in environment if name.startswith(AT_START) and name not in FOLLOWED}


def entries(environment: Mapping[str, str]) -> list[str]:
    return [os.path.abspath(entry) for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry]


SETTLED = settled(os.environ)
OWN_PATH = [entry for entry in sys.path if entry not in entries(os.environ)]


def serve(address: str) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    Path(address).with_name("ready").touch()
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [], 1.0)
        if sys.stdin in ready:
            return
        if listener in ready:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                keep(connection)
            connection.close()
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass


# ---- the parent of a fork ----


def keep(connection: socket.socket) -> NoReturn:
    """Fork for a client, pass on its signals, send it the exit code. The fork ends with its client."""
    head, files, _, _ = socket.recv_fds(connection, 8, 3)
    length, body = int.from_bytes(head, "little"), bytearray()
    while len(body) < length:
        body += connection.recv(length - len(body))
    fork = os.fork()
    if fork == 0:
        connection.close()
        become(Request(*marshal.loads(body)), files)
    for file in files:
        os.close(file)
    ended = os.pidfd_open(fork)
    while ended not in (ready := select.select([ended, connection], [], [])[0]):
        number = connection.recv(1) if connection in ready else b""
        os.kill(fork, number[0] if number else signal.SIGKILL)
        if not number:
            break
    code = os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1])
    try:
        connection.sendall(code.to_bytes(4, "little", signed=True))
    finally:
        os._exit(0)


# ---- the fork ----


def become(request: Request, files: list[int]) -> NoReturn:
    """Do what a new process would do, and end as it would."""
    code = 70
    try:
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        os.setsid()
        os.chdir(request.folder)
        os.environ.clear()
        os.environ.update(request.environment)
        set_path(request)
        if differs(request):
            flags, kind, value, arguments = request.asked
            os.execv(request.python, [request.python, *flags, kind, value, *arguments])
        set_up(request)
        code = run(*request.asked)
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def set_path(request: Request) -> None:
    """Set the path of imports; one of a virtual environment on top of this one has its own packages first."""
    first, top = entries(request.environment), Path(request.python).parents[1]
    sys.path[:] = first + [entry for entry in OWN_PATH if entry not in first]
    if top != Path(sys.prefix) and (top / "pyvenv.cfg").is_file():
        below = sys.path[:]
        sys.path[:] = first + [entry for entry in OWN_PATH if entry.startswith(sys.base_prefix)]
        sys.prefix = sys.exec_prefix = str(top)
        site.addsitepackages(None, [str(top)])  # those that exist: Debian's Python names others, too
        sys.path += [entry for entry in below if entry not in sys.path]
    importlib.invalidate_caches()


def differs(request: Request) -> bool:
    """Return whether a new process would differ from this one in what is settled at its start."""
    for name in ("worldlab", "worldlab_vae", "worldlab_agents", "torch"):
        spec = PathFinder.find_spec(name)
        if name in sys.modules and (spec is None or spec.origin != sys.modules[name].__file__):
            return True
    return settled(request.environment) != SETTLED


def set_up(request: Request) -> None:
    flags, kind, value, arguments = request.asked
    sys.executable = request.stand_in
    multiprocessing.set_executable(request.python)
    if kind == "-c" and "-P" not in flags:
        sys.path.insert(0, "")
    sys.argv = ["-c" if kind == "-c" else value, *arguments]
    sys.dont_write_bytecode = bool(request.environment.get("PYTHONDONTWRITEBYTECODE"))
    sys.stdin, sys.stdout, sys.stderr = map(anew, (sys.stdin, sys.stdout, sys.stderr), "rww")
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
    sys.modules["__main__"] = types.ModuleType("__main__")  # without a file: processes of multiprocessing import none
    sys.modules["numpy"].random.seed()  # Python seeds its own generator anew in every fork
    sys.modules["torch"].seed()
    if "faulthandler" in flags:
        faulthandler.enable()


def anew(stream: TextIO, mode: str) -> TextIO:
    """Return a stream like this one, with an empty buffer and the terminal or pipe that its descriptor stands for now."""
    file, through, by_line = stream.fileno(), stream.write_through, stream.line_buffering  # type: ignore[attr-defined]
    raw = open(file, f"{mode}b", 0 if through and mode == "w" else -1, closefd=False)  # noqa: SIM115
    return io.TextIOWrapper(
        raw, stream.encoding, stream.errors, line_buffering=by_line or os.isatty(file), write_through=through
    )


def run(flags: list[str], kind: str, value: str, arguments: list[str]) -> int:
    """Run a module or code; return the exit code."""
    try:
        if kind == "-m":
            return importlib.import_module(MAINS[value]).main(arguments)
        exec(compile(value, "<string>", "exec"), sys.modules["__main__"].__dict__)
        return 0
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    return 1


if __name__ == "__main__":
    for module in PRELOAD:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()
    serve(sys.argv[1])
