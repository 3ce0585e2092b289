"""The one list of checks, and how a check says what it found. Command line, pytest and documentation all read it.

A check is a function of a Subject with a docstring: what it checks, the class of bug it catches, the usual fix.
It returns if all is well, raises CheckFailure if not, NotApplicable if the component makes no such promise.
"""

from __future__ import annotations

import importlib
import inspect
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from worldlab.errors import PluginError, one_line
from worldlab.registry.discovery import where

ROLES = ("encoder", "dynamics", "decoder", "world_model")
"""What can be checked. Checks of role "component" hold for the first three."""

_MODULES = ("component_checks", "encoder_checks", "dynamics_checks", "time_checks", "decoder_checks", "model_checks")
_CHECKS: dict[str, Check] = {}


class CheckFailure(PluginError):
    """A component broke its contract. cause: a sentence that names the bug. fix: what usually puts it right."""

    def __init__(self, cause: str, fix: str):
        super().__init__(cause, fix=fix)


class CannotBuild(CheckFailure):
    """The component under test cannot even be built."""


class NotApplicable(Exception):
    """The component does not promise what the check is about; the text says which promise."""


@dataclass(frozen=True)
class Check:
    """One requirement. since: the version that introduced it, so that a plugin can freeze the level it is held to.
    slow: it trains something, for a second or more."""

    id: str
    role: str
    title: str
    since: str
    slow: bool
    run: Callable[[Any], None]

    def __call__(self, subject: Any) -> None:
        """Raise CheckFailure if the subject breaks the requirement, whatever it raised itself; NotApplicable passes."""
        try:
            self.run(subject)
        except (CheckFailure, NotApplicable):
            raise
        except (Exception, SystemExit) as exc:  # whatever a plugin raises becomes a finding that names its place
            raise CheckFailure(
                f"raised {type(exc).__name__}: {one_line(exc, 160)} (at {where(exc)})",
                f"make this hold: {self.doc.splitlines()[0]}",
            ) from exc

    def __repr__(self) -> str:
        return self.id

    @property
    def doc(self) -> str:
        """What is checked, the bug it catches and the usual fix."""
        return inspect.getdoc(self.run) or ""


@dataclass(frozen=True)
class Result:
    """What a check found. cause: the bug if it failed, or why it does not apply if `skipped`. seconds: wall time. unbuilt: it
    failed because there was nothing to check."""

    check: str
    title: str
    passed: bool
    cause: str
    fix: str
    seconds: float
    skipped: bool = False
    unbuilt: bool = False


def check(id: str, *, role: str, title: str, since: str = "0.1", slow: bool = False) -> Callable[..., Any]:
    """Put a function on the list of checks. Ids are unique; the docstring is required, it is the documentation."""

    def put(run: Callable[[Any], None]) -> Callable[[Any], None]:
        assert id not in _CHECKS, f"check {id} is defined twice"
        assert run.__doc__, f"check {id} has no docstring"
        _CHECKS[id] = Check(id, role, title, since, slow, run)
        return run

    return put


def all_checks() -> tuple[Check, ...]:
    """Every check, by id (E2 before E10)."""
    for module in _MODULES:
        importlib.import_module(f"worldlab.testing.{module}")
    return tuple(sorted(_CHECKS.values(), key=lambda c: _natural(c.id)))


def checks_for(role: str, *, since: str | None = None) -> tuple[Check, ...]:
    """The checks a role is held to. since: leave out checks introduced after this version.

    Raises: PluginError for an unknown role.
    """
    if role not in ROLES:
        raise PluginError(one_line(f"no checks for the role {role!r}"), fix=f"roles: {', '.join(ROLES)}")
    groups = (role,) if role == "world_model" else ("component", role)
    level = None if since is None else _natural(since)
    return tuple(c for c in all_checks() if c.role in groups and (level is None or _natural(c.since) <= level))


def evaluate_all(checks: Iterable[Check], subject: Any) -> Iterator[Result]:
    """Run checks one after the other. What cannot even be built is told once: the others are skipped then."""
    told = ""
    for one in checks:
        found = evaluate(one, subject)
        if found.unbuilt and told:
            found = replace(found, passed=True, skipped=True, cause=f"{told} says why it cannot be built", fix="")
        elif found.unbuilt:
            told = one.id
        yield found


def evaluate(one: Check, subject: Any) -> Result:
    """Run one check and return what it found."""
    start = time.perf_counter()
    cause, fix, passed, skipped, unbuilt = "", "", True, False, False
    try:
        one(subject)
    except NotApplicable as exc:
        cause, skipped = str(exc), True
    except CheckFailure as exc:
        cause, fix, passed, unbuilt = exc.message, exc.fix or "", False, isinstance(exc, CannotBuild)
    return Result(one.id, one.title, passed, cause, fix, time.perf_counter() - start, skipped, unbuilt)


def _natural(text: str) -> list[Any]:
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.findall(r"\d+|[^\d.]+", text)]
