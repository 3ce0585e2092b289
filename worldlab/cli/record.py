"""worldlab record: plays episodes in an environment and keeps them as a data set."""

from __future__ import annotations

from pathlib import Path

from worldlab.cli.common import Parser, add_shared, add_trust, at_least, emit, prints_to_stderr
from worldlab.registry import open_registry

RANDOM = "random"


def run(argv: list[str]) -> int:
    parser = Parser("record", "Play episodes in an environment and keep them as a data set.")
    parser.add_argument("--env", metavar="ID", help="the environment (default: that of the run)")
    parser.add_argument("--agent", default=RANDOM, metavar="RUN", help="a run that plays, or random (default)")
    parser.add_argument("--episodes", type=at_least(1), default=10, metavar="N", help="episodes to play (default: 10)")
    parser.add_argument(
        "--seed", type=at_least(0), default=0, metavar="S", help="seed of episodes and actions (default: 0)"
    )
    parser.add_argument("--explore", action="store_true", help="let the run explore, as it does when it collects")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="a folder that is not there yet")
    add_trust(parser)
    add_shared(parser)
    args = parser.read(argv)
    registry = open_registry(args.plugin)
    with prints_to_stderr():
        from worldlab.training.record import record

        result = record(
            registry,
            args.out,
            env=args.env,
            agent=None if args.agent == RANDOM else args.agent,
            episodes=args.episodes,
            seed=args.seed,
            explore=args.explore,
            trusted=args.trust_env,
        )
    emit(result, args.json)
    return 0
