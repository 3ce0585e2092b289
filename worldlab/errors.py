"""Errors that a user can act on. Each states what is wrong, why, and how to fix it.

    WorldlabError            70  a bug in worldlab, or the base of all classes below
    |- ConfigError            2  a wrong name, value or file in the configuration
    |- PluginError            3  a plugin that is missing, broken or violates its contract
    |- EnvError               4  an environment that cannot be built or violates its spaces
    |  `- EnvCrashedError     4  an environment that raised an exception, died or hung
    |- DivergedError          5  training produced NaN or infinity
    |- StorageError           6  a folder or file that cannot be written
    |- CheckpointError        7  a checkpoint that is missing, damaged or does not fit
    |- RunLockedError         8  another process is writing this run
    `- MemoryLimitError       9  not enough memory

The number is the exit code of the command line. After a signal it is 128 + the signal's number.
"""

from __future__ import annotations

import difflib
import importlib
import signal
import threading
from collections.abc import Iterable
from typing import Any, TypeVar

PartT = TypeVar("PartT")


class WorldlabError(Exception):
    """Base of every error that worldlab raises on purpose.

    message: one line of at most about 100 characters: what is wrong, and where.
    cause: why it happened. fix: a command or a config key that fixes it.
    """

    exit_code = 70

    def __init__(self, message: str, *, cause: str | None = None, fix: str | None = None):
        super().__init__(message)
        self.message = message
        self.cause = cause
        self.fix = fix

    def __str__(self) -> str:
        lines = [self.message]
        if self.cause:
            lines.append(f"cause: {self.cause}")
        if self.fix:
            lines.append(f"fix: {self.fix}")
        return "\n".join(lines)


class ConfigError(WorldlabError):
    exit_code = 2


class PluginError(WorldlabError):
    exit_code = 3


class EnvError(WorldlabError):
    exit_code = 4


class EnvCrashedError(EnvError):
    pass


class DivergedError(WorldlabError):
    exit_code = 5


class StorageError(WorldlabError):
    exit_code = 6


class CheckpointError(WorldlabError):
    exit_code = 7


class RunLockedError(WorldlabError):
    exit_code = 8


class MemoryLimitError(WorldlabError):
    exit_code = 9


class UserInterrupt(BaseException):
    """A signal to this process while it runs code of others, which may catch KeyboardInterrupt or raise it itself."""


def is_from_user(error: BaseException) -> bool:
    """Return whether an exception out of code of others, a plugin or an environment, comes from a signal to this process.

    Where worldlab handles SIGINT, its handlers raise UserInterrupt or subclasses of KeyboardInterrupt. Elsewhere a
    KeyboardInterrupt of that code cannot be distinguished from Ctrl-C, and Ctrl-C is more likely. Signals reach the main
    thread only.
    """
    if not isinstance(error, KeyboardInterrupt):
        return isinstance(error, UserInterrupt)
    in_main = threading.current_thread() is threading.main_thread()
    default = in_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    return type(error) is not KeyboardInterrupt or default


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an allocation of Python, numpy or torch failed. torch has no class of its own for the CPU."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))


def out_of_memory(error: BaseException) -> MemoryLimitError:
    """Return the error for a failed allocation."""
    return MemoryLimitError(
        f"not enough memory ({type(error).__name__})",
        cause=one_line(error, 300) or None,
        fix="a smaller --size, --train.batch-size or --replay.capacity, or end other programs",
    )


def import_extra(package: str, extra: str, user: str) -> Any:
    """Import a package that an extra of worldlab installs, for a user such as "the tracker 'wandb'".

    Raises: PluginError with the command that installs it.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise PluginError(
            f"{user} needs the package {package!r}, which is not installed",
            cause=one_line(error),
            fix=f'pip install "worldlab[{extra}]"',
        ) from error


def build_part(interface: type[PartT], loaded: Any, part: str, kind: str, methods: str) -> PartT:
    """Return what a plugin registered: `loaded` itself, or an instance if it is a class without arguments.

    part: its name in a message, such as "store plugin 'hf'". Raises: PluginError if it lacks `methods` of the interface.
    """
    made = loaded() if isinstance(loaded, type) else loaded
    if not isinstance(made, interface):
        raise PluginError(
            f"{part} is not {kind}",
            cause=f"{type(made).__name__} lacks {methods}",
            fix=f"register a class with the methods of {interface.__module__}.{interface.__qualname__}",
        )
    return made


def closest(name: str, options: Iterable[str]) -> str | None:
    """Return the option that `name` most likely means, or None.

    Besides typing errors it matches abbreviations, which difflib does not: "lr" and "lrr" both match "learning_rate".
    """
    known = sorted(options)
    match = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if match:
        return match[0]
    short = [option for option in known if _abbreviates(name.lower(), option.lower())]
    return min(short, key=lambda option: (len(option), option)) if short else None


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the closest option, or an empty string."""
    match = closest(name, options)
    return f" Did you mean '{match}'?" if match else ""


def one_line(text: object, limit: int = 100) -> str:
    """Return text as one printable line of at most `limit` characters, safe to use in a message."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    return line if len(line) <= limit else line[: limit - 3] + "..."


def _abbreviates(name: str, option: str) -> bool:
    """Return whether the letters of name (two or more) appear in option in order, from its first letter on."""
    letters = iter(option)
    return len(name) >= 2 and name[0] == option[:1] and all(c in letters for c in name)
