"""Detects and undoes global side effects of importing a plugin: the state of the process belongs to the user.

Real libraries seed the global generators, set a default dtype or the number of threads, or install a signal handler or
an environment variable. Such changes are detected, restored and reported.
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

RANDOM = "use your own generator: random.Random(seed), numpy.random.default_rng(seed), torch.Generator()"
SETTING = "leave process settings to the user, or set them while the component runs and restore them"

SET_BY_LIBRARIES = ("PYGAME_HIDE_SUPPORT_PROMPT",)
"""Environment variables that a library of worldlab's own sets on import, here the one that defines environments."""


@dataclass(frozen=True)
class GlobalState:
    """One piece of global state. name: as in messages. fix: what a plugin should do instead."""

    name: str
    fix: str
    read: Callable[[], Any]
    restore: Callable[[Any], object]
    key: Callable[[Any], Any] = lambda value: value
    """Makes the result of `read` comparable."""


@contextlib.contextmanager
def restore_globals(*, environment: bool = True) -> Iterator[list[GlobalState]]:
    """Restore global state at the end of the block; the list then holds the states that had changed.

    environment: include environment variables. Libraries with native code set some when they are first imported, so
    they are checked only while a plugin registers.
    """
    before = [(state, state.read()) for state in _global_states(environment)]
    changed: list[GlobalState] = []
    try:
        yield changed
    finally:
        for state, value in before:
            if state.key(state.read()) != state.key(value):
                state.restore(value)
                changed.append(state)


def _global_states(environment: bool) -> list[GlobalState]:
    """Return the states to check. Checking must not load numpy or torch, so theirs count only once loaded."""
    found = [
        GlobalState("the global random state of random", RANDOM, random.getstate, random.setstate),
        GlobalState("the start method of multiprocessing", SETTING, _start_method, _set_start_method),
        GlobalState("signal handlers", SETTING, _handlers, _set_handlers),
        GlobalState("the working folder", SETTING, _folder, os.chdir),
    ]
    if environment:
        found.append(GlobalState("environment variables", SETTING, os.environ.copy, _set_environment, _variables))
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


def _variables(environment: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name not in SET_BY_LIBRARIES}


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
        return  # only the main thread can set handlers, so a plugin could not have
    for number, handler in handlers.items():
        if signal.getsignal(number) != handler and handler is not None:  # None: set by native code, cannot be restored
            signal.signal(number, handler)


def _folder() -> str:
    try:
        return os.getcwd()
    except OSError:  # the folder was deleted: it cannot be restored
        return os.sep


def _set_environment(variables: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(variables)
