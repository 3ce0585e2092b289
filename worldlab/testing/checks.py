"""The list of checks and the result of a check. The command line, pytest and the documentation all use this list.

A check is a function of a Subject. Its docstring says what it tests, which bugs it catches and the usual fix. It
returns if the component passes, raises CheckFailure if it fails, and raises NotApplicable if the component does not
declare what is tested.
"""

from __future__ import annotations

import importlib
import inspect
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from worldlab.config.schema import describe_invalid
from worldlab.errors import PluginError, one_line
from worldlab.registry.faults import where

COMPONENTS = ("encoder", "dynamics", "decoder")
"""Roles to which checks with the role "component" apply, too."""
ROLES = (*COMPONENTS, "world_model", "agent", "env", "launcher", "tracker")
"""Roles that have checks."""

FIRST = "P0"
"""The check that runs first and whose failure skips all others."""
_MODULES = (
    "first_check",
    "component_checks",
    "encoder_checks",
    "dynamics_checks",
    "time_checks",
    "decoder_checks",
    "density_checks",
    "model_checks",
    "agent_checks",
    "env_checks",
    "launcher_checks",
    "tracker_checks",
)
_CHECKS: dict[str, Check] = {}


class CheckFailure(PluginError):
    """A component violates its contract. cause: a sentence that names the bug. fix: the usual remedy."""

    def __init__(self, cause: str, fix: str):
        super().__init__(cause, fix=fix)


class CannotRun(CheckFailure):
    """The component under test cannot be built, or fails its dry run."""


class NotApplicable(Exception):
    """The component does not declare the property that the check tests; the text says which property."""


@dataclass(frozen=True)
class Check:
    """One requirement of a role. since: the worldlab version that introduced it, so that a plugin can stay at an older
    level of checks. slow: the check trains a model for a second or more."""

    id: str
    role: str
    title: str
    since: str
    slow: bool
    run: Callable[[Any], None]

    def __call__(self, subject: Any) -> None:
        """Run the check. Raises: CheckFailure if it fails or the subject raises; NotApplicable if it is skipped."""
        try:
            with one_thread():
                self.run(subject)
        except (CheckFailure, NotApplicable):
            raise
        except (Exception, SystemExit) as exc:  # report whatever a plugin raises, with its location
            text = describe_invalid(exc, type(subject.choice.config)) if isinstance(exc, ValidationError) else exc
            raise CheckFailure(
                f"raised {type(exc).__name__}: {one_line(text, 240)} (at {where(exc)})",
                f"find the error at that line; the check requires: {self.title}",
            ) from exc

    def __repr__(self) -> str:
        return self.id

    @property
    def doc(self) -> str:
        """The check's docstring: what it tests, which bugs it catches and the usual fix."""
        return inspect.getdoc(self.run) or ""


@dataclass(frozen=True)
class Result:
    """The result of a check. cause: the bug if it failed, or why it does not apply if `skipped`. seconds: wall time.
    unbuilt: it failed because the component could not be built, or failed its dry run."""

    check: str
    title: str
    passed: bool
    cause: str
    fix: str
    seconds: float
    skipped: bool = False
    unbuilt: bool = False


@contextmanager
def one_thread() -> Iterator[None]:
    """Use one thread of torch in the block: checks are many tiny computations, for which more threads only add waiting."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check(id: str, *, role: str, title: str, since: str = "0.1", slow: bool = False) -> Callable[..., Any]:
    """Register a function as a check. Ids are unique; the docstring is required, because it is the documentation."""

    def register(run: Callable[[Any], None]) -> Callable[[Any], None]:
        assert id not in _CHECKS, f"check {id} is defined twice"
        assert run.__doc__, f"check {id} has no docstring"
        _CHECKS[id] = Check(id, role, title, since, slow, run)
        return run

    return register


def all_checks() -> tuple[Check, ...]:
    """Return every check: FIRST, then the others sorted by id (E2 before E10)."""
    for module in _MODULES:
        importlib.import_module(f"worldlab.testing.{module}")
    return tuple(sorted(_CHECKS.values(), key=lambda c: (c.id != FIRST, _natural_key(c.id))))


def checks_for(role: str, *, since: str | None = None) -> tuple[Check, ...]:
    """Return the checks of a role. since: leave out checks introduced after this version.

    Raises: PluginError for an unknown role.
    """
    if role not in ROLES:
        raise PluginError(one_line(f"no checks for the role {role!r}"), fix=f"roles: {', '.join(ROLES)}")
    groups = ("component", role) if role in COMPONENTS else (role,)
    level = None if since is None else _natural_key(since)
    return tuple(c for c in all_checks() if c.role in groups and (level is None or _natural_key(c.since) <= level))


def evaluate_all(checks: Iterable[Check], subject: Any) -> Iterator[Result]:
    """Run checks one after the other. If the component cannot be built, one check fails and the others are skipped.

    The same holds if it fails FIRST.
    """
    failed = ""
    for one in checks:
        if failed == FIRST:
            yield Result(one.id, one.title, True, f"see {FIRST}", "", 0.0, skipped=True)
            continue
        result = evaluate(one, subject)
        if result.unbuilt and failed:
            cause = f"it cannot be built, see {failed}"
            result = replace(result, passed=True, skipped=True, cause=cause, fix="")
        elif result.unbuilt:
            failed = one.id
        yield result


def evaluate(one: Check, subject: Any) -> Result:
    """Run one check and return its result."""
    start = time.perf_counter()
    cause, fix, passed, skipped, unbuilt = "", "", True, False, False
    try:
        one(subject)
    except NotApplicable as exc:
        cause, skipped = str(exc), True
    except CheckFailure as exc:
        cause, fix, passed, unbuilt = exc.message, exc.fix or "", False, isinstance(exc, CannotRun)
    return Result(one.id, one.title, passed, cause, fix, time.perf_counter() - start, skipped, unbuilt)


def _natural_key(text: str) -> list[Any]:
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.findall(r"\d+|[^\d.]+", text)]
