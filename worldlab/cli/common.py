"""Shared by the commands: an argument parser that raises our errors, and output for people and scripts."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn, TextIO

from worldlab.errors import ConfigError, closest, one_line

RUN = "a run folder, its name under runs/, latest, or an address in a store (hf:user/name)"
"""The help of a RUN argument."""
ADDRESS = "an address in a store, such as hf:user/name (worldlab plugins --role store)"
"""The help of an ADDRESS argument."""


class Parser(argparse.ArgumentParser):
    """An argparse parser with our errors and no abbreviations; it accepts _ for - in flags."""

    def __init__(self, command: str, description: str):
        super().__init__(prog=f"worldlab {command}", description=description, allow_abbrev=False)

    def read(self, argv: list[str]) -> argparse.Namespace:
        """Parse argv. Raises: ConfigError; SystemExit(0) after --help."""
        args, unknown = self.parse_known_args([_dashed(token) for token in argv])
        if unknown:
            name = unknown[0].partition("=")[0]
            near = closest(name, [flag for flag in self._option_string_actions if flag.startswith("--")])
            hint = f" Did you mean {near}?" if near else ""
            self.error(f"{one_line(name, 40)!r} is not an argument.{hint}")
        return args

    def error(self, message: str) -> NoReturn:
        raise ConfigError(one_line(f"{self.prog}: {message}"), fix=f"{self.prog} --help")


def add_shared(parser: Parser, *, json_output: bool = True, plugin: bool = True) -> None:
    if plugin:
        parser.add_argument(
            "--plugin", action="append", type=Path, default=[], metavar="FILE", help="also load this plugin file"
        )
    if json_output:
        parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")


def add_best(parser: Parser) -> None:
    parser.add_argument(
        "--best", action="store_true", help="use the weights of the run's best evaluation (default: the last ones)"
    )


def add_trust(parser: Parser) -> None:
    parser.add_argument(
        "--trust-env",
        action="append",
        default=[],
        metavar="MODULE",
        help="let the run's environment import this module",
    )


def at_least(low: int) -> Any:
    """Return an argparse type for whole numbers >= low."""

    def integer(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if value < low:
            raise argparse.ArgumentTypeError(f"{text!r} must be a whole number >= {low}")
        return value

    return integer


@contextlib.contextmanager
def prints_to_stderr() -> Iterator[None]:
    """Redirect stdout to stderr: libraries may print, but stdout is for the result of the command."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


_result_file: int | None = None
"""The file descriptor to which `emit` writes JSON; None is that of sys.stdout."""


@contextlib.contextmanager
def own_stdout() -> Iterator[None]:
    """Keep the real stdout for `emit` alone; all else that writes to stdout, from whatever language or process, goes to stderr.

    File descriptor 1 then is a copy of stderr, which worker processes and programs that an environment starts inherit.
    """
    global _result_file
    if not _is_file(sys.stdout, 1) or not _is_file(sys.stderr, 2):  # a notebook or a test: only Python's prints exist
        yield
        return
    sys.stdout.flush()
    _result_file = os.dup(1)
    os.dup2(2, 1)
    try:
        with prints_to_stderr():
            yield
    finally:
        sys.stdout.flush()
        os.dup2(_result_file, 1)
        os.close(_result_file)
        _result_file = None


def _is_file(stream: TextIO, number: int) -> bool:
    try:
        return stream.fileno() == number
    except (OSError, ValueError, AttributeError):
        return False


def emit(result: Mapping[str, Any], as_json: bool) -> None:
    """Print a result: one JSON object, or aligned lines for people."""
    if as_json:
        _print_result(json.dumps(_jsonable(result), allow_nan=False))
        return
    width = max((len(str(key)) for key in result), default=0) + 2
    for key, value in result.items():
        print(f"{key:<{width}}{_shown(value)}")


def _print_result(line: str) -> None:
    if _result_file is None:
        print(line)
        return
    data = f"{line}\n".encode()
    while data:
        data = data[os.write(_result_file, data) :]


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(_shown(item) for item in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_shown(item)}" for key, item in value.items())
    return one_line(value, 1000)


def _jsonable(value: Any) -> Any:
    """Convert a result to plain JSON: paths become text, numbers that are not finite become null."""
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)


def _dashed(token: str) -> str:
    if not token.startswith("--"):
        return token
    name, equals, value = token.partition("=")
    return name.replace("_", "-") + equals + value
