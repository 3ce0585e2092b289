"""What a plugin must leave as it was when it is imported: the global state of a process that belongs to its user.

Seen in the wild: a library that seeds the global generators, sets a default dtype or the number of threads, installs a
signal handler or an environment variable. Here it is noticed, put back and named.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

RANDOM = "use a generator of your own: random.Random(seed), numpy.random.default_rng(seed), torch.Generator()"
SETTING = "leave the settings of the process to its user, or set them where the component runs and put them back"


@dataclass(frozen=True)
class GlobalState:
    """One piece of global state. what: its name in messages. cure: what a plugin should do instead."""

    what: str
    cure: str
    read: Callable[[], Any]
    restore: Callable[[Any], object]
    key: Callable[[Any], Any] = lambda value: value
    """Makes what `read` gave comparable."""


@contextlib.contextmanager
def restore_globals(*, environment: bool = True) -> Iterator[list[GlobalState]]:
    """Restore the global state that is watched when the block is left; the list names what had changed.

    environment: watch environment variables too. Libraries with native code set some when they are first imported,
    so that only a plugin's registration is held to them.
    """
    before = [(one, one.read()) for one in _global_states(environment)]
    changed: list[GlobalState] = []
    try:
        yield changed
    finally:
        for one, value in before:
            if one.key(one.read()) != one.key(value):
                one.restore(value)
                changed.append(one)


def _global_states(environment: bool) -> list[GlobalState]:
    """What can be watched now: of numpy and torch only if they are loaded, for watching must not load them."""
    found = [
        GlobalState("the global random state of random", RANDOM, random.getstate, random.setstate),
        GlobalState("the start method of multiprocessing", SETTING, _start_method, _set_start_method),
        GlobalState("signal handlers", SETTING, _handlers, _set_handlers),
        GlobalState("the working folder", SETTING, _folder, os.chdir),
    ]
    if environment:
        found.append(GlobalState("environment variables", SETTING, os.environ.copy, _set_environment))
    numpy = sys.modules.get("numpy.random")
    if numpy is not None:
        found.append(
            GlobalState("the global random state of numpy.random", RANDOM, numpy.get_state, numpy.set_state, _plain)
        )
    torch = sys.modules.get("torch")
    return [*found, *_torch_states(torch)] if hasattr(torch, "get_rng_state") else found


def _torch_states(torch: Any) -> list[GlobalState]:
    return [
        GlobalState("the global random state of torch", RANDOM, torch.get_rng_state, torch.set_rng_state, _bytes),
        GlobalState("torch's number of threads", SETTING, torch.get_num_threads, torch.set_num_threads),
        GlobalState("torch's default dtype", SETTING, torch.get_default_dtype, torch.set_default_dtype),
        GlobalState("torch's gradient mode", SETTING, torch.is_grad_enabled, torch.set_grad_enabled),
    ]


def _plain(state: Any) -> str:
    return repr([item.tobytes() if hasattr(item, "tobytes") else item for item in state])


def _bytes(tensor: Any) -> bytes:
    return tensor.numpy().tobytes()


def _start_method() -> str | None:
    return multiprocessing.get_start_method(allow_none=True)


def _set_start_method(name: str | None) -> None:
    multiprocessing.set_start_method(name, force=True)  # type: ignore[arg-type]  # None: not chosen yet


def _handlers() -> dict[int, Any]:
    return {number: signal.getsignal(number) for number in signal.valid_signals()}


def _set_handlers(handlers: dict[int, Any]) -> None:
    if threading.current_thread() is not threading.main_thread():
        return  # only the main thread may, and only there could a plugin have set them
    for number, handler in handlers.items():
        if signal.getsignal(number) != handler and handler is not None:  # None: set by native code, cannot be put back
            signal.signal(number, handler)


def _folder() -> str:
    try:
        return os.getcwd()
    except OSError:  # deleted under our feet: nothing to go back to
        return os.sep


def _set_environment(variables: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(variables)
