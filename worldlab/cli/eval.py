"""worldlab eval RUN: evaluates the agent of a run in the real environment."""

from __future__ import annotations

from pathlib import Path

from worldlab.cli.common import RUN, Parser, add_best, add_shared, add_trust, at_least, emit, prints_to_stderr
from worldlab.registry import open_registry
from worldlab.runs.find import find_run


def run(argv: list[str]) -> int:
    parser = Parser("eval", "Evaluate a trained run in the real environment.")
    parser.add_argument("run", metavar="RUN", help=RUN)
    parser.add_argument(
        "--episodes", type=at_least(1), metavar="N", help="number of episodes (default: the run's setting)"
    )
    parser.add_argument(
        "--seed", type=at_least(0), metavar="S", help="seed of the episodes (default: the run's setting)"
    )
    parser.add_argument("--video", type=Path, metavar="FILE", help="record the first episode")
    add_best(parser)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto")
    add_trust(parser)
    add_shared(parser)
    args = parser.read(argv)
    registry = open_registry(args.plugin)
    folder = find_run(args.run, registry=registry)
    with prints_to_stderr():
        from worldlab.training.loaded import evaluate_run, load_run

        loaded = load_run(folder, registry, args.device, trusted=args.trust_env, best=args.best)
        result = evaluate_run(loaded, episodes=args.episodes, seed=args.seed, video=args.video)
    emit(result, args.json)
    return 0
