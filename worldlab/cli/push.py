"""worldlab push RUN STORE:ADDRESS: publishes weights, configuration, scores and a model card of a run."""

from __future__ import annotations

import argparse
import logging
from contextlib import ExitStack

from worldlab.cli.common import ADDRESS, Parser, add_shared, emit, prints_to_stderr
from worldlab.registry import Registry, open_registry
from worldlab.runs.find import find_run

log = logging.getLogger("worldlab")


def run(argv: list[str]) -> int:
    parser = Parser("push", "Publish weights, configuration, scores and a model card of a run.")
    parser.add_argument("run", metavar="RUN", help="a run folder, its name under runs/, or latest")
    parser.add_argument("address", metavar="ADDRESS", help=f"where: {ADDRESS}")
    parser.add_argument(
        "--license", default="", metavar="ID", help="its licence, such as mit (default: none is stated)"
    )
    parser.add_argument("--private", action="store_true", help="only you can see a repository that this creates")
    parser.add_argument(
        "--replay", action="store_true", help="also the recorded experience and optimisers, to go on from"
    )
    add_shared(parser)
    args = parser.read(argv)
    registry = open_registry(args.plugin)
    with prints_to_stderr():
        result = _push(args, registry)
    emit(result, args.json)
    return 0


def _push(args: argparse.Namespace, registry: Registry) -> dict[str, object]:
    from worldlab.config.resolve import resolve
    from worldlab.runs import storage
    from worldlab.runs.bundle import stage_bundle
    from worldlab.runs.folder import RunFolder
    from worldlab.runs.stores import open_store
    from worldlab.study.card import write_card

    store, _, address = open_store(args.address, registry)
    path = find_run(args.run)
    with ExitStack() as opened:
        folder = opened.enter_context(RunFolder.open(path, write=args.replay))
        folder.check_texts()
        staging = storage.new_staging(path.absolute().parent)
        opened.callback(storage.remove_tree, staging)
        bundle = stage_bundle(path, staging, replay=args.replay)
        config = resolve(registry, files=[path / "config.toml"])
        card = write_card(
            args.address, config, registry, folder.read_run_json(), folder.read_result(), bundle, args.license
        )
        log.info("pushing %s: %d files, %.1f MB", args.address, len(bundle.files), bundle.bytes / 1e6)
        url = store.publish(address, staging, card, private=args.private)
    return {
        "run": folder.name,
        "url": url,
        "files": len(bundle.files),
        "bytes": bundle.bytes,
        "use": f"worldlab eval {args.address}",
    }
