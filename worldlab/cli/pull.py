"""worldlab pull STORE:ADDRESS: fetches a published run, verifies it, and makes it a run folder."""

from __future__ import annotations

from pathlib import Path

from worldlab.cli.common import ADDRESS, Parser, add_shared, at_least, emit, prints_to_stderr
from worldlab.errors import ConfigError, one_line
from worldlab.registry import open_registry
from worldlab.runs.find import RUNS, checked_run_path


def run(argv: list[str]) -> int:
    parser = Parser("pull", "Fetch a published run, verify it, and make it a run folder. None of its code runs.")
    parser.add_argument("address", metavar="ADDRESS", help=f"from where: {ADDRESS}, or with @revision")
    parser.add_argument("folder", nargs="?", metavar="DIR", help="a folder that is not there yet (default: runs/NAME)")
    parser.add_argument(
        "--limit", type=at_least(1), default=4, metavar="GB", help="accept at most so much (default: 4)"
    )
    add_shared(parser)
    args = parser.read(argv)
    registry = open_registry(args.plugin)
    with prints_to_stderr():
        from worldlab.runs.pull import pull
        from worldlab.runs.stores import open_store

        store, _, address = open_store(args.address, registry)
        found = store.find(address)
        target = checked_run_path(args.folder or str(RUNS / Path(found.name).name))
        if target.exists() or target.is_symlink():
            raise ConfigError(one_line(f"{str(target)[-60:]!r} is there already"), fix="give another DIR")
        bundle = pull(store, found, args.address, target, args.limit * 2**30)
    emit(
        {
            "run": str(target),
            "version": found.version,
            "files": len(bundle.files),
            "bytes": bundle.bytes,
            "plugins": bundle.plugins or "none",
        },
        args.json,
    )
    return 0
