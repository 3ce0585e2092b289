"""worldlab check-plugin WHAT: run the conformance checks on a component, a plugin file or a whole distribution."""

from __future__ import annotations

import argparse
import logging
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worldlab.cli.common import Parser, add_shared, emit, prints_to_stderr
from worldlab.errors import ConfigError, PluginError, did_you_mean, one_line
from worldlab.registry import ROLES, Registration, Registry, open_registry

if TYPE_CHECKING:
    from worldlab.testing import Check, Result


def run(argv: list[str]) -> int:
    parser = Parser("check-plugin", "Check a plugin's components. Exit code 1 if a check fails, 3 if it is broken.")
    parser.add_argument(
        "what", metavar="WHAT", help="a component (NAME or ROLE:NAME), installed package or plugin file"
    )
    parser.add_argument(
        "-k", dest="match", metavar="TEXT", help="run only the checks with this id or text in the title"
    )
    parser.add_argument("--level", type=_version, metavar="V", help="run only the checks that worldlab V had, e.g. 0.1")
    parser.add_argument("--fast", action="store_true", help="leave out the checks that train for seconds")
    parser.add_argument("--verbose", action="store_true", help="say what each check built and how long it trained")
    add_shared(parser)
    args = parser.read(argv)
    components = _find_components(args.what, args.plugin)
    start = time.perf_counter()
    report, broken = _Report(args.what, quiet=args.json), []
    with prints_to_stderr(), _recorded(report.saw) if args.verbose else nullcontext():
        chosen = _select_checks({entry.role for entry in components}, args)
        for entry in components:
            try:
                _check_component(entry, chosen.get(entry.role, []), report)
            except PluginError as exc:  # this component cannot be built; the others are still checked
                report.component(entry, "", f"BROKEN, {exc.message}", shown="BROKEN")  # the error follows below
                broken.append(exc)
    seconds = round(time.perf_counter() - start, 2)
    if args.json:
        summary = report.summary()
        emit({"what": args.what, **summary, "ok": summary["ok"] and not broken, "seconds": seconds}, as_json=True)
    else:
        report.print_summary(seconds)
    if broken:
        raise broken[0]
    return 1 if report.counts["failed"] else 0


class _Report:
    """The results so far. Unless quiet, each result is printed on stdout as soon as it is known."""

    def __init__(self, what: str, quiet: bool):
        self._what = what
        self._out = None if quiet else sys.stdout
        self.saw: list[str] = []
        self.counts = {"ok": 0, "skipped": 0, "failed": 0}
        self.components: list[dict[str, Any]] = []
        self._causes: dict[str, str] = {}
        self._repeated: dict[str, list[str]] = {}

    def component(self, entry: Registration, mode: str, note: str = "", shown: str = "") -> None:
        self._print_repeated()
        keys = ("role", "name", "distribution", "version")
        row = {**{key: getattr(entry, key) for key in keys}, "mode": mode, "note": note, "checks": []}
        self.components.append(row)
        title = f"{entry.role} {entry.name}" + (f", {mode}" if mode else f"  [{entry.distribution} {entry.version}]")
        self._line(f"{title}: {shown or note}" if note else title)

    def result(self, result: Result) -> None:
        status = "skipped" if result.skipped else "ok" if result.passed else "failed"
        self.counts[status] += 1
        self.components[-1]["checks"].append(
            {
                "check": result.check,
                "title": result.title,
                "status": status,
                "cause": one_line(result.cause, 500),
                "fix": one_line(result.fix, 500),
                "seconds": round(result.seconds, 3),
            }
        )
        if status == "failed" and self._causes.setdefault(result.cause, result.check) != result.check:
            self._repeated.setdefault(self._causes[result.cause], []).append(result.check)
            return
        reason = f" ({one_line(result.cause, 120)})" if result.skipped else ""
        shown = status.upper() if status == "failed" else status
        self._line(f"  {shown:<8}{result.check:<5}{result.title}{reason}")
        if status == "failed":
            lines = (one_line(line, 1000) for line in result.cause.splitlines())  # the contract is one of its own
            cause = "\n          ".join(lines)
            self._line(f"          cause: {cause}\n          fix:   {one_line(result.fix, 500)}")
        for line in dict.fromkeys(self.saw):
            self._line(f"          {line}")
        self.saw.clear()

    def summary(self) -> dict[str, Any]:
        return {"ok": not self.counts["failed"], "counts": self.counts, "components": self.components}

    def _print_repeated(self) -> None:
        """Print in one line the checks of the last component that failed for a cause that is printed already."""
        for first, others in self._repeated.items():
            self._line(f"  FAILED  for the cause of {first} also {', '.join(others[:3])}" + _and_more(others[3:]))
        self._causes, self._repeated = {}, {}

    def print_summary(self, seconds: float) -> None:
        self._print_repeated()
        if (
            not self.counts["failed"]
            and not any(row["checks"] for row in self.components)
            and len(self.components) == 1
        ):
            return
        failed = [row["check"] for entry in self.components for row in entry["checks"] if row["status"] == "failed"]
        if failed:
            self._line(f"what a check saw: worldlab check-plugin {self._what} -k {failed[0]} --verbose")
        counts = ", ".join(f"{count} {status}" for status, count in self.counts.items())
        self._line(f"{sum(self.counts.values())} checks: {counts}; {seconds:.1f} s")

    def _line(self, text: str) -> None:
        if self._out is not None:
            print(text, file=self._out, flush=True)


def _and_more(names: list[str]) -> str:
    return f" and {len(names)} more" if names else ""


@contextmanager
def _recorded(lines: list[str]) -> Iterator[None]:
    """Within the block, append everything that a check builds or trains to `lines`, as one line each."""

    class Recorder(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    log, recorder = logging.getLogger("worldlab.testing"), Recorder()
    before = log.level, log.propagate
    log.addHandler(recorder)
    log.setLevel(logging.DEBUG)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(recorder)
        log.setLevel(before[0])
        log.propagate = before[1]


def _find_components(what: str, plugin_files: list[Path]) -> tuple[Registration, ...]:
    """Return the components that `what` names. Raises: PluginError if it is broken, unknown or empty."""
    path = Path(what).expanduser()
    if path.suffix != ".py" and not path.is_file():
        return open_registry(plugin_files).named(what)
    registry = open_registry([*plugin_files, path])
    components = tuple(entry for entry in registry.registrations() if _is_from(entry, registry, path.resolve()))
    if not components:
        raise PluginError(
            one_line(f"plugin file {path.name} registers no component"),
            fix='call register.encoder("name", ...) in its worldlab_register',
        )
    return components


def _is_from(entry: Registration, registry: Registry, path: Path) -> bool:
    return any(source.path == path and source.origin == entry.origin for source in registry.sources)


def _check_component(entry: Registration, chosen: list[Check], report: _Report) -> None:
    from worldlab.testing import modes
    from worldlab.testing.checks import evaluate_all

    for mode, subject in modes(entry):
        wanted = [check for check in chosen if not (mode and check.slow)]  # only the default mode is trained
        if wanted:
            report.component(entry, mode)
        for result in evaluate_all(wanted, subject):
            report.result(result)


def _select_checks(roles: set[str], args: argparse.Namespace) -> dict[str, list[Check]]:
    """Return the checks to run, by role. Raises: ConfigError if the options leave no check of these roles."""
    from worldlab.testing import checks_for

    text = (args.match or "").lower()
    known = {role: checks_for(role, since=args.level) for role in roles}
    exact = any(check.id.lower() == text for checks in known.values() for check in checks)
    chosen = {
        role: [c for c in checks if _matches(c, text, exact) and not (args.fast and c.slow)]
        for role, checks in known.items()
    }
    if any(chosen.values()):
        return chosen
    ids = list(dict.fromkeys(check.id for role in ROLES if role in roles for check in checks_for(role)))
    raise ConfigError(
        one_line(f"check-plugin: no check matches.{did_you_mean((args.match or '').upper(), ids)}"),
        cause=one_line(f"-k {args.match}, --level {args.level}, --fast {'yes' if args.fast else 'no'}"),
        fix=f"use -k with one of the ids {', '.join(ids)}",
    )


def _matches(check: Check, text: str, exact: bool) -> bool:
    return check.id.lower() == text if exact else text in f"{check.id} {check.title}".lower()


def _version(text: str) -> str:
    if not re.fullmatch(r"\d+(\.\d+)*", text):
        raise argparse.ArgumentTypeError(f"{text!r} must be a version such as 0.1")
    return text
