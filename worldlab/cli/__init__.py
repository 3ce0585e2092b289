"""Implements the program `worldlab`: selects a command, runs it, and returns an exit code in every case.

0 ok, 2 config, 3 plugin, 4 environment, 5 diverged, 6 storage, 7 checkpoint, 8 run locked, 9 memory,
70 a bug in worldlab, 130, 143 and 129 stopped by SIGINT, SIGTERM and SIGHUP. Heavy modules are
imported only by the commands that need them.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from worldlab.errors import (
    ConfigError,
    PluginError,
    WorldlabError,
    did_you_mean,
    is_out_of_memory,
    one_line,
    out_of_memory,
)

COMMANDS = {
    "train": "Train a world model and an agent in an environment.",
    "eval": "Evaluate a trained run in the real environment.",
    "dream": "Draw open-loop predictions of a trained run beside the real frames.",
    "runs": "List the runs of a folder: how far each is, and how well it does.",
    "watch": "Watch the runs of a folder live in the browser.",
    "play": "Play inside a trained model in your browser: real, reconstruction and dream side by side.",
    "record": "Play episodes in an environment and keep them as a data set.",
    "data": "Say what is in a data set, what is missing and what is wrong.",
    "export": "Write recorded steps in a format that other libraries read.",
    "compare": "Compare models on tasks under equal budgets, and write a report.",
    "roundup": "Test published claims about the model families.",
    "push": "Publish weights, scores and a model card of a run.",
    "pull": "Fetch a published run and verify it.",
    "verify": "Check that no file of a run is damaged; read only.",
    "plugins": "List the installed components, or show one with its settings.",
    "check-plugin": "Check the behaviour of a plugin's components; report cause and fix of each failure.",
    "new-plugin": "Write a new plugin that trains and passes every check.",
    "doctor": "Check this machine: versions, devices, rendering, plugins.",
    "check-env": "Check that an environment can be used for training.",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. argv: without the program's name; None takes sys.argv."""
    # numpy's BLAS computes only small products (to resize images); more threads would spin and slow down torch's.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
    args = [arg for arg in args if arg != "--debug"]
    try:
        with _stdout_for(args):
            code = _dispatch(args)
            sys.stdout.flush()
        return code
    except WorldlabError as exc:
        _print_error(exc, str(exc), debug)
        return exc.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `worldlab plugins | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except SystemExit as exc:  # argparse, after --help
        return exc.code if isinstance(exc.code, int) else int(exc.code is not None)
    except Exception as exc:
        if isinstance(exc.__cause__, KeyboardInterrupt):  # Python 3.11 wraps what interrupts the making of a class
            return 130
        if is_out_of_memory(exc):
            error = out_of_memory(exc)
            _print_error(exc, str(error), debug)
            return error.exit_code
        from worldlab.registry.faults import plugin_of

        plugin = plugin_of(exc)
        _print_error(exc, _bug_report(exc, plugin, keep=not debug), debug)
        return PluginError.exit_code if plugin else WorldlabError.exit_code


def _stdout_for(args: list[str]) -> AbstractContextManager[None]:
    """Return the context in which a command runs: with --json, nothing else than its result reaches stdout."""
    if "--json" not in args or {"-h", "--help", "--help-all"} & set(args):
        return nullcontext()
    from worldlab.cli.common import own_stdout

    return own_stdout()


def _dispatch(args: list[str]) -> int:
    if not args or args[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if args[0] in ("--version", "-V"):
        import worldlab

        print(f"worldlab {worldlab.__version__}")
        return 0
    name = args[0].replace("_", "-")
    if name not in COMMANDS:
        raise ConfigError(
            one_line(f"no command named {one_line(args[0], 30)!r}.{did_you_mean(name, COMMANDS)}"),
            cause=f"commands: {', '.join(COMMANDS)}",
            fix="worldlab --help",
        )
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")
    logging.getLogger("worldlab").setLevel(logging.INFO)  # other libraries' notes are for their own developers
    return importlib.import_module(f"worldlab.cli.{name.replace('-', '_')}").run(args[1:])


def _help() -> str:
    width = max(map(len, COMMANDS)) + 2
    lines = "\n".join(f"  {name:<{width}}{summary}" for name, summary in COMMANDS.items())
    return (
        "usage: worldlab COMMAND [flags]\n\n"
        "Mix any encoder, dynamics and decoder into a world model, act inside it, compare honestly.\n\n"
        f"commands:\n{lines}\n\n"
        "  worldlab COMMAND --help   explains a command\n"
        "  worldlab --version        prints the version\n"
        "  --debug                   with any command: full tracebacks\n\n"
        "example: worldlab train --encoder cpc --env CarRacing"
    )


def _print_error(exc: Exception, text: str, debug: bool) -> None:
    if debug:
        import traceback

        traceback.print_exception(exc, file=sys.stderr)
    print(text, file=sys.stderr)


def _bug_report(exc: Exception, plugin: tuple[str, str, str] | None, keep: bool) -> str:
    """Write the traceback to a file, so that it can be reported without filling the terminal.

    plugin: what `plugin_of` returns.
    """
    first = one_line(f"this is a bug in worldlab: {type(exc).__name__}: {exc}")
    report = "report it"
    if plugin:
        name, function, place = plugin
        first = one_line(f"plugin {name} failed in {function}: {type(exc).__name__}: {exc}")
        first += f"\ncause: {one_line(f'{type(exc).__name__}: {exc}', 300)}, at {place}"
        report = f"correct it there, or report it to the authors of {name},"
    path = _write_traceback(exc) if keep else None
    if path is None:
        again = "the traceback above" if not keep else "what --debug prints"
        return f"{first}\nfix: {report} with {again}"
    cause = "; the traceback is in" if plugin else "\ncause: the traceback is in"
    return f"{first}{cause} {path}\nfix: {report} with that file; --debug prints it here"


def _write_traceback(exc: Exception) -> str | None:
    """Return the path of a file with the traceback; None if it cannot be written."""
    import tempfile
    import traceback

    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="worldlab-traceback-", suffix=".txt", delete=False, encoding="utf-8"
        ) as file:
            traceback.print_exception(exc, file=file)
    except OSError:
        return None
    return file.name
