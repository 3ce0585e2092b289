"""worldlab roundup: test published claims about the model families with comparisons on control tasks."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worldlab.cli.common import Parser, add_shared, at_least, emit, prints_to_stderr
from worldlab.registry import open_registry
from worldlab.study.roundup.claims import PACKAGED, read_roundup

if TYPE_CHECKING:
    from worldlab.study.roundup.verdicts import ClaimResult

OUT = Path("roundup")
_EPILOG = """\
To resume a stopped round-up, run the same command again. Exit codes: 0 everything ran and the report is written,
130 and 143 stopped (the report covers what has finished), 2 and above nothing was run."""


def run(argv: list[str]) -> int:
    args = _parser().read(argv)
    roundup = read_roundup(args.roundup)
    registry = open_registry(args.plugin)
    layers = [*([roundup.quick] if args.quick else []), _layer(args)]
    with prints_to_stderr():
        from worldlab.study.compare.run import Terminated
        from worldlab.study.roundup.run import run_roundup

        try:
            results = run_roundup(
                roundup, registry, args.out, args.parts or (), layers, f"worldlab roundup {shlex.join(argv)}".rstrip()
            )
        except KeyboardInterrupt as stop:
            print("stopped; finished runs are kept. Resume with the same command.", file=sys.stderr)
            return 143 if isinstance(stop, Terminated) else 130
    if not args.json:
        width = max(len(one.verdict) for one in results)
        for one in results:
            print(f"{one.claim.number:>2}  {one.verdict:<{width}}  {one.claim.claim}")
    emit(_result(results, args.out, args.json), args.json)
    return 0


def _parser() -> Parser:
    parser = Parser("roundup", "Test published claims about the model families with comparisons on control tasks.")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    add = parser.add_argument
    add(
        "roundup",
        nargs="?",
        type=Path,
        default=PACKAGED,
        metavar="roundup.toml",
        help="file with claims and parts (default: the packaged one)",
    )
    add("--parts", nargs="+", metavar="PART", help="comparisons to run now (default: all)")
    add("--quick", action="store_true", help="few, small runs that only check that everything works")
    add("--seeds", type=at_least(1), metavar="N", help="number of seeds (default: each part's own)")
    add(
        "--jobs", type=at_least(0), metavar="N", help="how many cells run at once; 0 (default) lets the launcher decide"
    )
    add("--launcher", metavar="L", help="registered launcher that runs the cells")
    add("--out", type=Path, default=OUT, metavar="DIR", help=f"folder to write to, or to resume (default: {OUT})")
    add_shared(parser)
    return parser


def _layer(args: argparse.Namespace) -> dict[str, Any]:
    table = {
        "seeds": args.seeds,
        "jobs": args.jobs,
        "launcher": args.launcher,
        "plugins": [str(path) for path in args.plugin],
    }
    return {key: value for key, value in table.items() if value not in (None, [])}


def _result(results: list[ClaimResult], out: Path, whole: bool) -> dict[str, Any]:
    from worldlab.study.roundup.verdicts import tally

    verdicts = {f"{one.claim.number}. {one.claim.claim}": one.verdict for one in results}
    return {
        "tally": tally(results),
        **({"verdicts": verdicts} if whole else {}),
        "report": str(out / "roundup.html"),
        "folder": str(out),
    }
