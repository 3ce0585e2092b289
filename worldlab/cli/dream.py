"""worldlab dream RUN: draws open-loop predictions of the model beside the real frames."""

from __future__ import annotations

from pathlib import Path

from worldlab.cli.common import RUN, Parser, add_best, add_shared, add_trust, at_least, emit, prints_to_stderr
from worldlab.registry import open_registry
from worldlab.runs.find import find_run


def run(argv: list[str]) -> int:
    parser = Parser("dream", "Draw open-loop predictions of a trained run beside the real frames.")
    parser.add_argument("run", metavar="RUN", help=RUN)
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the pictures (default: the run's videos/)")
    parser.add_argument("--horizon", type=at_least(1), default=45, metavar="H", help="imagined steps (default: 45)")
    parser.add_argument("--count", type=at_least(1), default=4, metavar="N", help="dreams to draw (default: 4)")
    parser.add_argument("--seed", type=at_least(0), default=0, metavar="S", help="seed of the starts (default: 0)")
    add_best(parser)
    add_trust(parser)
    add_shared(parser)
    args = parser.read(argv)
    registry = open_registry(args.plugin)
    folder = find_run(args.run, registry=registry)
    with prints_to_stderr():
        from worldlab.training.loaded import draw_dreams, load_run

        loaded = load_run(folder, registry, trusted=args.trust_env, best=args.best)
        result = draw_dreams(loaded, out=args.out, horizon=args.horizon, count=args.count, seed=args.seed)
    emit(result, args.json)
    return 0
