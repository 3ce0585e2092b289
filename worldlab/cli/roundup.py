"""worldlab roundup: what is said of generative families, as predictions, results by comparisons on control tasks."""

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
Its comparisons are gone on with where they were stopped: run the same command again. Exit codes: 0 all was run and results,
130 and 143 stopped (what there is was results and written), 2 and up nothing was run."""


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
            print("stopped; what was finished is kept. Go on with the same command.", file=sys.stderr)
            return 143 if isinstance(stop, Terminated) else 130
    if not args.json:
        width = max(len(one.verdict) for one in results)
        for one in results:
            print(f"{one.claim.number:>2}  {one.verdict:<{width}}  {one.claim.claim}")
    emit(_result(results, args.out, args.json), args.json)
    return 0


def _parser() -> Parser:
    parser = Parser("roundup", "Judge what is said of generative families, by comparisons on control tasks.")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    add = parser.add_argument
    add(
        "questions",
        nargs="?",
        type=Path,
        default=PACKAGED,
        metavar="roundup.toml",
        help="claims and parts (default: ours)",
    )
    add("--parts", nargs="+", metavar="PART", help="which comparisons to run now (default: all)")
    add("--quick", action="store_true", help="small and few runs, to see that it works; nothing is shown by it")
    add("--seeds", type=at_least(1), metavar="N", help="in place of each part's own number of seeds")
    add("--jobs", type=at_least(0), metavar="N", help="cells at a time; 0: as many as there is room for (the default)")
    add("--launcher", metavar="L", help="where cells run: a registered launcher")
    add("--out", type=Path, default=OUT, metavar="DIR", help=f"where to write, and what to go on with (default: {OUT})")
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
