"""Commands in a forked process under an audit hook, which lists what a command did beyond reading and its own run folder."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from forks import run_in_fork

SECONDS = 120
STARTS = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "os.forkpty",
    "subprocess.Popen",
    "pty.spawn",
)
"""Events of Python that start a program."""
CHANGES = (
    "os.remove",
    "os.rename",
    "os.mkdir",
    "os.rmdir",
    "os.symlink",
    "os.link",
    "os.truncate",
    "os.chmod",
    "os.chown",
)
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def run_audited(place: Path, run: str, *commands: list[str]) -> list[dict[str, Any]]:
    """Run `worldlab` commands one after the other in the folder `place`, all in one process.

    run: the folder, below place, that a command may write to. Returns for each command code (exit code), events (what it
    did that it should not have done), modules (that it imported) and err (stderr); nothing for commands that did not end.
    """
    output = place / ".audited.json"
    run_in_fork(_audited, place, run, commands, dict(os.environ), output, seconds=SECONDS)
    lines = output.read_text().splitlines() if output.exists() else []
    output.unlink(missing_ok=True)
    return [json.loads(line) for line in lines]


def _writes(flags: Any) -> bool:
    return isinstance(flags, int) and bool(flags & WRITES)


def _audited(place: Path, run: str, commands: tuple[list[str], ...], environment: dict[str, str], output: Path) -> None:
    os.chdir(place)
    os.environ.clear()
    os.environ.update(environment)
    sys.path.insert(0, str(place))  # as with `python -m`, and worse than the installed command
    sys.dont_write_bytecode = True  # the interpreter's cache of modules is none of the command's files
    own = os.path.realpath(place / run)
    events: list[str] = []

    def outside(path: Any, event_of_a_name: bool = False) -> bool:
        if not isinstance(path, str | bytes | os.PathLike):
            return False  # a descriptor
        folder, name = os.path.split(os.fsdecode(path))  # the name itself may be a link that is replaced, not followed
        real = os.path.join(os.path.realpath(folder), name) if event_of_a_name else os.path.realpath(os.fsdecode(path))
        return not (real + "/").startswith(own + "/") and real != os.devnull

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "subprocess.Popen" and list(args[1])[:3] == ["git", "-C", "."]:
            return  # the state of the checkout around the working folder, for run.json
        if event in STARTS or event in ("pickle.find_class", "socket.connect", "socket.bind"):
            events.append(f"{event} {str(args)[:100]}")
        elif event in CHANGES and any(outside(path, True) for path in args[:2]):
            events.append(f"{event} {args[:2]}")
        elif event == "open" and _writes(args[2]) and outside(args[0], bool(args[2] & os.O_NOFOLLOW)):
            events.append(f"open {args[0]!r} {args[2]:o}")
        elif event == "exec" and str(getattr(args[0], "co_filename", "")).startswith(str(place)):
            events.append(f"exec {args[0].co_filename}")

    from worldlab.cli import main

    sys.addaudithook(hook)
    for command in commands:
        before = set(sys.modules)
        err = place / ".stderr"
        with err.open("w+") as stream:
            for file in (sys.stdout, sys.stderr):
                os.dup2(stream.fileno(), file.fileno())
            events.clear()
            code = main(command)
            found = list(events)
            sys.stderr.flush()
        row = {"code": code, "events": found, "modules": sorted(set(sys.modules) - before), "err": err.read_text()}
        with output.open("a") as file:
            file.write(json.dumps(row) + "\n")
        err.unlink()
    os._exit(0)
