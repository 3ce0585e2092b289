"""The command `worldlab` in a process of its own that is forked from one which has imported what a run needs.

A fresh interpreter takes four seconds to import torch, far longer than a small run takes. Exit codes, output and files are
those of the installed command; what signals do to it and how it starts is tested with the installed command itself.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from pathlib import Path

PRELOAD = ("torch._dynamo", "worldlab.cli", "worldlab.training.train", "matplotlib.backends.backend_agg")
SECONDS = 240


def run_forked(place: Path, *arguments: str) -> tuple[int, str, str]:
    """Run `worldlab ARGUMENTS` in the folder `place`, whose modules it can import. Returns exit code, stdout, stderr."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOAD))
    files = [place / f".{os.getpid()}-{name}" for name in ("stdout", "stderr")]
    process = context.Process(target=run_in_fork, args=(place, arguments, dict(os.environ), *files))
    process.start()
    process.join(SECONDS)
    process.kill()
    process.join()
    out, err = (file.read_text() if file.exists() else "" for file in files)
    for file in files:
        file.unlink(missing_ok=True)
    assert process.exitcode is not None
    return process.exitcode, out, err


def run_in_fork(place: Path, arguments: tuple[str, ...], environment: dict[str, str], out: Path, err: Path) -> None:
    """Become the command `worldlab ARGUMENTS`, with its output in two files."""
    os.chdir(place)
    os.environ.clear()
    os.environ.update(environment)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(place), *filter(None, [environment.get("PYTHONPATH")])])
    sys.path.insert(0, str(place))
    sys.argv = ["worldlab", *arguments]
    for file, stream in ((out, sys.stdout), (err, sys.stderr)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream.fileno())
    from worldlab.cli import main

    sys.exit(main(list(arguments)))
