"""The pytest front end of the suite."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from worldlab.errors import PluginError, did_you_mean
from worldlab.registry import Registration, load_registry
from worldlab.testing.checks import FIRST, Check, CheckFailure, NotApplicable, all_checks, checks_for
from worldlab.testing.runner import AnySubject, ComponentLike, as_subject, modes


def parametrize_with_checks(
    components: Iterable[ComponentLike], expected_failures: Mapping[str, str] | None = None, *, since: str | None = None
) -> Any:
    """Parametrise a test over (subject, check) for the checks of each component, as in `worldlab check-plugin`.

    components: a registered name such as "encoder:vae", a Registration, or a component class. A registered component
    also runs in its other modes (the other choices of its Literal settings), with the checks that do not train.
    expected_failures: {check id: reason}. Such a check must fail in the default mode: passing is an error, so that the
    list stays up to date. It does not run in other modes. since: leave out checks introduced after this version.

    Raises: PluginError for an unknown name or check id.
    """
    import pytest

    expected = dict(expected_failures or {})
    known = {c.id for c in all_checks()}
    for id in expected:
        if id not in known:
            raise PluginError(f"expected_failures: no check {id!r}.{did_you_mean(id, known)}")
    rows = []
    stopped: set[str] = set()
    for component in components:
        for mode, subject in _subjects_by_mode(component):
            for check in checks_for(subject.role, since=since):
                if mode and (check.slow or check.id in expected):
                    continue
                marks: list[Any] = [pytest.mark.slow] if check.slow else []
                if check.id in expected:
                    marks.append(pytest.mark.xfail(strict=True, raises=CheckFailure, reason=expected[check.id]))
                run = _skip_if_not_applicable(check, stopped, check.id in expected)
                rows.append(pytest.param(subject, run, id=f"{subject.label}-{check.id}", marks=marks))
    return pytest.mark.parametrize(("subject", "check"), rows)


def _subjects_by_mode(component: ComponentLike) -> Iterable[tuple[str, AnySubject]]:
    if isinstance(component, str):
        role, _, name = component.partition(":")
        component = load_registry().get(role, name)
    return modes(component) if isinstance(component, Registration) else [("", as_subject(component))]


def _skip_if_not_applicable(check: Check, stopped: set[str], must_fail: bool) -> Any:
    """Return the check as a test.

    stopped: the labels of the subjects that failed FIRST, whose other checks are skipped. must_fail: the check is an
    expected failure; if it does not apply, it passes, and the strict xfail reports that the list is out of date.
    """

    def run(subject: Any) -> None:
        import pytest

        if subject.label in stopped:
            pytest.skip(f"see {FIRST}")
        try:
            check(subject)
        except NotApplicable as exc:
            if not must_fail:
                pytest.skip(f"does not apply: {exc}")
        except CheckFailure:
            if check.id == FIRST:
                stopped.add(subject.label)
            raise

    return run
