"""The conformance suite: checks of the behaviour of components, not only of their shapes.

    from worldlab.testing import parametrize_with_checks

    @parametrize_with_checks(["encoder:hello"])
    def test_hello(subject, check):
        check(subject)

Without pytest, `run_checks("encoder", HelloEncoder)` returns one Result per check. Torch is imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worldlab.testing.abilities import abilities_of as abilities_of
    from worldlab.testing.checks import Check as Check
    from worldlab.testing.checks import CheckFailure as CheckFailure
    from worldlab.testing.checks import NotApplicable as NotApplicable
    from worldlab.testing.checks import Result as Result
    from worldlab.testing.checks import all_checks as all_checks
    from worldlab.testing.checks import checks_for as checks_for
    from worldlab.testing.parametrize import parametrize_with_checks as parametrize_with_checks
    from worldlab.testing.runner import build as build
    from worldlab.testing.runner import check_component as check_component
    from worldlab.testing.runner import check_mix as check_mix
    from worldlab.testing.runner import make_subject as make_subject
    from worldlab.testing.runner import modes as modes
    from worldlab.testing.runner import run_checks as run_checks
    from worldlab.testing.sizes import small_config as small_config
    from worldlab.testing.sizes import variants as variants

_EXPORTS = {
    "Check": "checks",
    "CheckFailure": "checks",
    "NotApplicable": "checks",
    "Result": "checks",
    "abilities_of": "abilities",
    "all_checks": "checks",
    "build": "runner",
    "check_component": "runner",
    "check_mix": "runner",
    "checks_for": "checks",
    "make_subject": "runner",
    "modes": "runner",
    "parametrize_with_checks": "parametrize",
    "run_checks": "runner",
    "small_config": "sizes",
    "variants": "sizes",
}

__all__ = [
    "Check",
    "CheckFailure",
    "NotApplicable",
    "Result",
    "abilities_of",
    "all_checks",
    "build",
    "check_component",
    "check_mix",
    "checks_for",
    "make_subject",
    "modes",
    "parametrize_with_checks",
    "run_checks",
    "small_config",
    "variants",
]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'worldlab.testing' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"worldlab.testing.{_EXPORTS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
