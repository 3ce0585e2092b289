"""The first check of every component: what the dry run of `worldlab train` checks. If it fails, no other check runs."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from worldlab.errors import PluginError
from worldlab.interfaces import Decoder
from worldlab.registry import Registration
from worldlab.testing.bench import Bench, IdleAgent, Subject
from worldlab.testing.checks import FIRST, CannotRun, NotApplicable, check
from worldlab.training.dry_run import dry_run


@check(FIRST, role="component", title="one step and one pass of its losses work, as in the dry run of train")
def runs(subject: Subject) -> None:
    """On a small batch every method returns what its docstring says: types, shapes, dtypes, devices and finite numbers,
    players that share no parameter, and a state that a checkpoint can store.

    Catches a wrong return type or shape, whose consequences every other check would report as errors of its own; they
    are skipped. Fix: compare the method with the contract that the cause prints.
    """
    benches = [subject.bench(fresh=True)]
    if isinstance(benches[0].part, Decoder):
        with suppress(NotApplicable):
            benches.append(subject.bench("image", fresh=True))  # log_mass is for images alone
    for bench in benches:
        try:
            dry_run(bench.model, IdleAgent(None, bench.specs), _registrations(subject, bench))
        except PluginError as exc:
            advice = exc.fix or ""
            if not advice.startswith("worldlab check-plugin"):  # that is this very command
                raise CannotRun(f"{exc.message}: {exc.cause}" if exc.cause else exc.message, advice) from exc
            reference = advice.partition("; ")[2]
            raise CannotRun(exc.cause or exc.message, reference or "correct the method that the cause names") from exc


def _registrations(subject: Subject, bench: Bench) -> dict[str, Registration]:
    """Return a registration for each role: the subject's own, and stand-ins for its partners."""
    partner = Registration("", "partner", "", None, "", 1, "", "", "")
    found = {role: replace(partner, role=role) for role in bench.model.parts}
    own = subject.registration
    return found if own is None else {**found, subject.role: own}
